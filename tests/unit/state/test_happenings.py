"""Which differences between two statuses people hear of."""

from datetime import UTC, datetime

from msgspec.structs import replace

from state.happenings import ClaimName, happenings, releases
from state.records import AppliedDevice
from state.status import AllocationStatus, Condition, DeviceStatus, NodeStatus, SicknessStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GPU = DeviceStatus(name="g", pci_address="0000:03:00.0", pci_id="0x56c0", model="m", family="f", health="Healthy")


def status(*allocations: AllocationStatus, devices: tuple[DeviceStatus, ...] = (GPU,)) -> NodeStatus:
    return NodeStatus(boot_id="b", version="1", allocations=allocations, devices=devices)


def claim(phase: str, message: str = "") -> AllocationStatus:
    devices = (AppliedDevice(device="g-m4-vf0"),)
    return AllocationStatus(
        name="u1", origin="claim", phase=phase, since=NOW, message=message, claim="ml/job", devices=devices
    )


def told(before: NodeStatus | None, now: NodeStatus) -> list[tuple[str, str]]:
    return [(one.reason, one.note) for one in happenings(before, now)]


def test_a_claim_hears_how_it_stands() -> None:
    (waiting,) = happenings(status(), status(claim("Blocked", "waits for claim ml/other")))
    assert waiting.about == ClaimName(namespace="ml", name="job", uid="u1")
    assert (waiting.warning, waiting.reason) == (False, "Waiting")
    assert waiting.note == "g-m4-vf0: waits for claim ml/other"
    assert told(status(claim("Blocked")), status(claim("Ready"))) == [("Ready", "g-m4-vf0 is ready")]
    (failed,) = happenings(status(claim("Converging")), status(claim("Failed", "EIO")))
    assert (failed.warning, failed.reason, failed.note) == (True, "ConvergeFailed", "g-m4-vf0: EIO")


def test_what_stays_is_told_once() -> None:
    refused = status(claim("Refused", "no such GPU"))
    assert told(status(), refused) == [("Refused", "g-m4-vf0: no such GPU")]
    assert told(refused, refused) == []


def test_what_is_on_its_way_is_not_told() -> None:
    assert told(status(), status(claim("Converging", "turning on 4 VFs"))) == []
    assert told(status(claim("Ready")), status(claim("Releasing"))) == []


def test_a_persons_allocation_is_told_of_at_the_node() -> None:
    manual = AllocationStatus(name="jupyter", origin="alloc", phase="Failed", since=NOW, message="EBUSY")
    (failed,) = happenings(status(), status(manual))
    assert (failed.about, failed.note) == (None, "allocation jupyter: EBUSY")


def test_a_first_start_tells_only_what_is_wrong() -> None:
    assert told(None, status(claim("Ready"))) == []
    assert told(None, status(claim("Failed", "EIO"))) == [("ConvergeFailed", "g-m4-vf0: EIO")]


def test_gpus_fall_ill_recover_and_vanish() -> None:
    sick = replace(GPU, health="Unhealthy", sickness=(SicknessStatus(cause="Wedged", message="it is wedged"),))
    assert told(status(), status(devices=(sick,))) == [("DeviceUnhealthy", "g: it is wedged")]
    assert told(status(devices=(sick,)), status()) == [("DeviceHealthy", "g is healthy again")]
    assert told(status(), status(devices=())) == [("DeviceGone", "g is gone from the machine")]
    assert told(None, status(devices=(sick,))) == [("DeviceUnhealthy", "g: it is wedged")]


def test_conditions_that_people_act_on() -> None:
    def stalled(message: str, value: str = "True") -> NodeStatus:
        condition = Condition(type="Stalled", status=value, reason="r", message=message, last_transition_time=NOW)
        return replace(status(), conditions=(condition,))

    assert told(status(), stalled("spec.x: unknown")) == [("Stalled", "spec.x: unknown")]
    assert told(stalled("spec.x: unknown"), stalled("spec.x: unknown")) == []
    assert told(stalled("spec.x: unknown"), stalled("spec.y: unknown")) == [("Stalled", "spec.y: unknown")]
    assert told(stalled("spec.x: unknown"), stalled("", "False")) == []


def test_a_stale_mark_is_told_of_once() -> None:
    (told,) = releases(frozenset({"u1"}), frozenset({"u1", "u2"}))
    assert (told.about, told.warning, told.reason) == (None, True, "StaleMarkReleased")
    assert told.note.startswith("claim u2 is gone")
    assert releases(frozenset({"u1"}), frozenset()) == ()
