"""What ``plan`` and ``assert`` tell of a forecast."""

import io

import msgspec

from reconciler.cli.asserting import drift
from reconciler.cli.forecast import AllocationForecast, Forecast, GpuForecast, Waiting
from reconciler.cli.plan import paragraphs
from reconciler.cli.terminal import Terminal

SCREEN = Terminal(out=io.StringIO(), err=io.StringIO(), coloured=False)
GPU = GpuForecast(
    device="0000-03-00-0-0x56c0",
    model="Flex 170",
    now="i915, no VFs",
    then="i915, 4 VFs (flex170_m4)",
    wanted_by=("allocation jupyter wants 0000-03-00-0-0x56c0-m4-vf0",),
    actions=("set quotas of 4 VFs (flex170_m4)", "enable 4 VFs (flex170_m4)"),
)
QUIET = GpuForecast(
    device="0000-04-00-0-0x56c0", model="Flex 170", now="i915", then="i915", wanted_by=(), actions=()
)
JUPYTER = AllocationForecast(
    name="jupyter", claim="", now="Converging", then="Ready", devices=("0000-03-00-0-0x56c0-m4-vf0",), message=""
)
CHANGES = Forecast(
    as_wanted=False,
    devices=(GPU, QUIET),
    actions=("remove CDI spec x.json (nobody wants it)",),
    blocked=(Waiting(what="0000-05-00-0-0x56c0", why="in use"),),
    allocations=(JUPYTER,),
    overridden=(),
)
NOTHING = Forecast(
    as_wanted=True,
    devices=(QUIET,),
    actions=(),
    blocked=(),
    allocations=(),
    overridden=(),
)


def told(forecast: Forecast, *, wide: bool = False) -> list[str]:
    return list(paragraphs(forecast, SCREEN, wide=wide))


def test_a_plan_with_everything() -> None:
    gpu, machine, blocked, allocations = told(CHANGES)
    assert gpu.splitlines() == [
        "0000-03-00-0-0x56c0 (Flex 170): i915, no VFs → i915, 4 VFs (flex170_m4)",
        "  why: allocation jupyter wants 0000-03-00-0-0x56c0-m4-vf0",
        "  1. set quotas of 4 VFs (flex170_m4)",
        "  2. enable 4 VFs (flex170_m4)",
    ]
    assert machine.splitlines() == ["this machine", "  1. remove CDI spec x.json (nobody wants it)"]
    assert blocked.splitlines() == [
        "blocked",
        "  0000-05-00-0-0x56c0: in use",
    ]
    assert allocations.splitlines() == [
        "allocations",
        "  NAME     NOW         THEN   DEVICES                     MESSAGE",
        "  jupyter  Converging  Ready  0000-03-00-0-0x56c0-m4-vf0  -",
    ]


def test_nothing_to_do() -> None:
    assert told(NOTHING) == ["nothing to do: the machine is as wanted"]
    assert told(NOTHING, wide=True)[1:] == ["0000-04-00-0-0x56c0 (Flex 170): i915"]


def test_nothing_that_can_be_done() -> None:
    waiting = msgspec.structs.replace(NOTHING, as_wanted=False, blocked=(Waiting(what="a", why="b"),))
    assert told(waiting) == ["nothing can be done now, but the machine is not as wanted", "blocked\n  a: b"]


def test_what_nobody_wants_says_so() -> None:
    unwanted = msgspec.structs.replace(GPU, wanted_by=())
    assert "  why: nobody wants it as it is" in told(msgspec.structs.replace(CHANGES, devices=(unwanted,)))[0]


def test_drift() -> None:
    same = msgspec.structs.replace(QUIET, actions=("write CDI spec y.json",))
    found = drift(msgspec.structs.replace(CHANGES, devices=(GPU, same, QUIET)), {"jupyter": "no VFs yet"})
    assert [(item.what, item.why) for item in found] == [
        ("0000-03-00-0-0x56c0", "is: i915, no VFs; wanted: i915, 4 VFs (flex170_m4)"),
        ("0000-04-00-0-0x56c0", "1 change to make, first: write CDI spec y.json"),
        ("this machine", "to do: remove CDI spec x.json (nobody wants it)"),
        ("allocation jupyter", "Converging: no VFs yet"),
        ("0000-05-00-0-0x56c0", "in use"),
    ]
