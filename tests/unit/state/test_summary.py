"""What a node says about itself."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from state.actions import SetNumVfs
from state.desired import Origin, resolve
from state.ids import DeviceName
from state.manifest import API_VERSION, KIND
from state.manifest_decoding import decode
from state.observed import Changing, HealthCause, Observed, PfSeen, Sickness, SriovSeen
from state.outcomes import Outcome, Phase
from state.planning import NOT_SYNCED, Blocked, Plan
from state.records import Ownership
from state.status import (
    NodeStatus,
    StatusError,
    StatusFile,
    SummaryStatus,
    condition_of,
    decode_status,
    encode_status,
)
from state.summary import SourceState, summarise
from tests.unit.state.on_paper import NOW, TABLES, observe, planner

FLEX = "0000-03-00-0-0x56c0"
VF: dict[str, object] = {"manualAllocations": [{"name": "a", "devices": [{"device": f"{FLEX}-m4-vf0"}]}]}


def said(
    observed: Observed,
    spec: dict[str, object] | None,
    *,
    source: SourceState | None = None,
    previous: NodeStatus | None = None,
    later: timedelta = timedelta(),
) -> NodeStatus:
    state = decode({"apiVersion": API_VERSION, "kind": KIND, "spec": spec or {}}, cluster=False)
    assert isinstance(observed.ownership, Ownership)
    desired = resolve(state.spec, observed.gpus, TABLES.profiles, observed.ownership.applied)
    return summarise(
        NOT_SYNCED if spec is None else desired,
        observed,
        planner(spec or {})(observed),
        source or SourceState(generation=7),
        previous,
        TABLES.profiles,
        "1.0",
        NOW + later,
    )


def conditions(status: NodeStatus) -> dict[str, tuple[str, str]]:
    return {one.type: (one.status, one.reason) for one in status.conditions}


@pytest.fixture(name="machine")
def fixture_machine(tmp_path: Path) -> Observed:
    return observe("flex170", tmp_path)


def test_an_idle_machine_is_as_wanted(machine: Observed) -> None:
    status = said(machine, {})
    assert conditions(status) == {
        "Ready": ("True", "Converged"),
        "Reconciling": ("False", "Idle"),
        "Stalled": ("False", "NoObstacle"),
        "Overridden": ("False", "NoOverrides"),
    }
    assert {one.observed_generation for one in status.conditions} == {7}
    assert (status.observed_generation, status.boot_id, status.version) == (7, machine.boot_id, "1.0")


def test_the_inventory_tells_what_is_known_and_leaves_out_what_is_not(machine: Observed) -> None:
    (device,) = said(machine, {}).devices
    assert (device.name, device.model, device.driver, device.health) == (FLEX, "Flex 170", "i915", "Healthy")
    assert device.memory is not None
    assert device.memory.source == "sysfs"
    assert device.sriov is not None
    assert (device.sriov.total, device.sriov.enabled, device.sriov.owner) == (31, 0, "")
    plain = msgspec.to_builtins(device)
    assert "override" not in plain
    assert "originalDriver" not in plain


def test_work_to_do_is_said_before_it_is_done(machine: Observed) -> None:
    status = said(machine, VF)
    assert conditions(status)["Ready"] == ("False", "Converging")
    assert conditions(status)["Reconciling"] == ("True", "Planned")
    assert [step.action for step in status.plan.actions] == ["set quotas of 4 VFs (flex170_m4)"]
    (allocation,) = status.allocations
    assert (allocation.phase, allocation.since) == ("Converging", NOW)


def test_the_numbers_of_the_columns(machine: Observed) -> None:
    assert said(machine, {}).summary == SummaryStatus(gpus=1)
    outcomes = [
        Outcome(key=f"{origin.value}-{name}", name=name, origin=origin, phase=Phase.BLOCKED)
        for name, origin in (("u1", Origin.CLAIM), ("u2", Origin.CLAIM), ("a", Origin.MANUAL))
    ]
    waiting = Plan(outcomes=tuple(outcomes), blocked=(Blocked(what="u2", why="u1 has it"),))
    status = summarise(NOT_SYNCED, enabled(machine, 4), waiting, SourceState(), None, TABLES.profiles, "1.0", NOW)
    assert status.summary == SummaryStatus(gpus=1, virtual_functions=4, claims=2, manual_allocations=1, blocked=1)


def enabled(machine: Observed, count: int) -> Observed:
    gpu = machine.gpus[only_gpu(machine)]
    assert isinstance(gpu, PfSeen)
    assert isinstance(gpu.sriov, SriovSeen)
    return replace(machine, gpus={gpu.name: replace(gpu, sriov=replace(gpu.sriov, enabled=count))})


def test_a_gpu_at_work_says_what_is_going_on(machine: Observed) -> None:
    gpu = machine.gpus[only_gpu(machine)]
    assert isinstance(gpu, PfSeen)
    action = SetNumVfs(pf=gpu.name, address=gpu.function.address, count=0, profile="")
    busy = Changing(last=gpu, doing="turning off 16 VFs", since=NOW, actions=(action,))
    status = said(replace(machine, gpus={gpu.name: busy}), {})
    reconciling = condition_of(status, "Reconciling")
    assert reconciling is not None
    assert (reconciling.status, reconciling.message) == ("True", f"{FLEX}: turning off 16 VFs")
    assert status.devices[0].changing == "turning off 16 VFs"
    assert conditions(status)["Ready"] == ("False", "Converging")


def test_a_gpu_that_others_are_slow_to_let_us_read_is_no_change_of_ours(machine: Observed) -> None:
    gpu = machine.gpus[only_gpu(machine)]
    assert isinstance(gpu, PfSeen)
    slow = Changing(last=gpu, doing="another process is changing it", since=NOW)
    status = said(replace(machine, gpus={gpu.name: slow}), {})
    assert status.devices[0].changing == "another process is changing it"
    assert conditions(status)["Ready"] == ("True", "Converged")


def only_gpu(machine: Observed) -> DeviceName:
    return next(iter(machine.gpus))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"manualAllocations": [{"name": "a", "devices": [{"device": f"{FLEX}-m3-vf0"}]}]}, "Refused"),
        ({"overrides": [{"device": "0000-09-00-0-0x56c0", "mode": "Drain"}]}, "Blocked"),
    ],
    ids=["allocation", "override"],
)
def test_what_only_a_person_can_mend_stalls(machine: Observed, spec: dict[str, object], reason: str) -> None:
    status = said(machine, spec)
    assert conditions(status)["Stalled"] == ("True", "Refused")
    assert conditions(status)["Ready"] == ("False", reason)


def test_a_bad_file_stalls_while_the_last_good_state_stays(machine: Observed) -> None:
    status = said(machine, {}, source=SourceState(error="node.yaml: spec.pause: is not a known field"))
    assert conditions(status)["Stalled"] == ("True", "InvalidDesiredState")
    ready = condition_of(status, "Ready")
    assert ready is not None
    assert ready.message == "the last good state stays in force: node.yaml: spec.pause: is not a known field"


def test_nothing_read_yet(machine: Observed) -> None:
    assert conditions(said(machine, None))["Ready"] == ("False", "NotSynced")


def test_overrides_show(machine: Observed) -> None:
    status = said(machine, {"overrides": [{"device": FLEX, "mode": "Drain"}]})
    assert conditions(status)["Overridden"] == ("True", "Overrides")
    assert status.devices[0].override == "Drain"


@pytest.mark.parametrize(
    ("cause", "health"), [(HealthCause.WEDGED, "Unhealthy"), (HealthCause.UNREADABLE, "Unknown")]
)
def test_health_is_that_of_the_worst_cause(machine: Observed, cause: HealthCause, health: str) -> None:
    gpu = machine.gpus[only_gpu(machine)]
    assert isinstance(gpu, PfSeen)
    sick = replace(gpu, sickness=(Sickness(cause=cause, message="because"),))
    (device,) = said(replace(machine, gpus={gpu.name: sick}), {}).devices
    assert device.health == health
    assert [(one.cause, one.message) for one in device.sickness] == [(cause.value, "because")]


def test_times_change_only_with_what_they_are_about(machine: Observed) -> None:
    first = said(machine, VF)
    second = said(machine, VF, previous=first, later=timedelta(minutes=5))
    assert second == first
    third = said(machine, {}, previous=second, later=timedelta(minutes=9))
    times = {one.type: one.last_transition_time - NOW for one in third.conditions}
    assert times["Ready"] == timedelta(minutes=9)
    assert times["Stalled"] == timedelta()


def test_the_status_file_reads_back_and_newer_fields_are_ignored(machine: Observed) -> None:
    file = StatusFile(
        written_at=NOW,
        boot_id=machine.boot_id,
        status=said(machine, VF),
        nonces={"uid": "nonce"},
        released_marks={"other": "old"},
    )
    raw = encode_status(file)
    assert decode_status(raw) == file
    newer = msgspec.json.decode(raw)
    newer["status"]["devices"][0]["colour"] = "blue"
    assert decode_status(msgspec.json.encode(newer)).status == file.status
    with pytest.raises(StatusError, match=r"^formatVersion is 2 \(allowed: 1\)$"):
        decode_status(msgspec.json.encode({**newer, "formatVersion": 2}))


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[]", b'{"writtenAt": 5}'])
def test_what_is_no_status_file_says_so(raw: bytes) -> None:
    with pytest.raises(StatusError):
        decode_status(raw)
