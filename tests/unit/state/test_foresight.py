"""Playing a plan through on paper."""

from dataclasses import replace
from pathlib import Path

import pytest

from state.actions import SetNumVfs, WriteCdiSpec
from state.foresight import MOST_WAVES, after, foresee, vf_address
from state.ids import PciAddress
from state.observed import Observed, PfSeen, SriovSeen
from state.outcomes import Phase
from tests.unit.state.on_paper import observe, planner

FLEX = "0000-03-00-0-0x56c0"
B60 = "0000-03-00-0-0xe211"
MAX = "0000-3a-00-0-0x0bd5"


def manual(*devices: object, name: str = "a") -> dict[str, object]:
    return {"manualAllocations": [{"name": name, "devices": list(devices)}]}


@pytest.mark.parametrize(
    ("physical", "index", "expected"),
    [
        ("0000:03:00.0", 0, "0000:03:00.1"),
        ("0000:03:00.0", 7, "0000:03:01.0"),
        ("0000:0a:00.0", 62, "0000:0a:07.7"),
        ("10000:ff:1f.7", 0, "10000:100:00.0"),
        ("0000:03:1f.7", 0, "0000:04:00.0"),
    ],
)
def test_vf_addresses_follow_the_routing_id(physical: str, index: int, expected: str) -> None:
    assert vf_address(PciAddress(physical), index) == expected


@pytest.mark.parametrize(
    ("machine", "devices"),
    [
        ("flex170", [{"device": FLEX}]),
        ("flex170", [{"device": f"{FLEX}-shared", "memory": 1 << 30}]),
        ("flex170", [{"device": f"{FLEX}-m4-vf0"}, {"device": f"{FLEX}-m4-vf3", "kernelDriver": "vfio"}]),
        ("flex170", [{"device": f"{FLEX}-fs31-vf30"}]),
        ("flex170", [{"device": FLEX, "kernelDriver": "vfio"}]),
        ("flex170", [{"device": f"{FLEX}-monitor", "adminAccess": True}]),
        ("b60", [{"device": f"{B60}-fs3-vf1", "kernelDriver": "xe-vfio"}]),
        ("max1550", [{"device": f"{MAX}-c62-vf61"}]),
    ],
    ids=["whole", "shared", "vfs", "fair share", "passthrough", "monitor", "xe", "two tiles"],
)
def test_every_kind_of_use_is_foreseen_to_become_ready_and_to_go_again(
    machine: str, devices: list[object], tmp_path: Path
) -> None:
    observed = observe(machine, tmp_path)
    there = foresee(observed, planner(manual(*devices)))
    assert [outcome.phase for outcome in there.last.outcomes] == [Phase.READY]
    assert there.last.actions == ()
    assert there.last.ownership is None
    assert isinstance(there.actions[-1], WriteCdiSpec)
    back = foresee(_played(observed, planner(manual(*devices))), planner({}))
    assert back.last.outcomes == ()
    assert back.last.actions == ()


def _played(observed: Observed, next_wave: object) -> Observed:
    assert callable(next_wave)
    for _ in range(MOST_WAVES):
        todo = next_wave(observed)
        if not todo.actions and todo.ownership is None:
            return observed
        observed = after(observed, todo)
    raise AssertionError("never ends")


def test_the_steps_of_a_table_profile_come_in_the_kernels_order(tmp_path: Path) -> None:
    foreseen = foresee(observe("flex170", tmp_path), planner(manual({"device": f"{FLEX}-m4-vf0"})))
    assert [type(action).__name__ for action in foreseen.actions] == ["SetVfProfile", "SetNumVfs", "WriteCdiSpec"]


def test_vfs_appear_only_where_the_plan_makes_them(tmp_path: Path) -> None:
    observed = observe("flex140", tmp_path)
    first, second = sorted(observed.gpus)
    todo = planner(manual({"device": f"{first}-fs2-vf0"}))(observed)
    (action,) = todo.actions
    assert isinstance(action, SetNumVfs)
    assert action.count == 2
    later = after(observed, todo)
    assert [_enabled(later, pf) for pf in (first, second)] == [2, 0]


def _enabled(observed: Observed, pf: str) -> int:
    gpu = next(seen for name, seen in observed.gpus.items() if name == pf)
    assert isinstance(gpu, PfSeen)
    assert isinstance(gpu.sriov, SriovSeen)
    return gpu.sriov.enabled


def test_what_is_blocked_stays_blocked_and_ends(tmp_path: Path) -> None:
    observed = replace(observe("flex170", tmp_path), kernel_drivers=frozenset({"i915"}))
    foreseen = foresee(observed, planner(manual({"device": FLEX, "kernelDriver": "vfio"})))
    assert foreseen.actions == ()
    (outcome,) = foreseen.last.outcomes
    assert outcome.phase is Phase.BLOCKED
    assert "modprobe vfio-pci" in outcome.message
