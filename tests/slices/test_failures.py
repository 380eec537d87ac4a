"""GPUs whose VFs can't be made: since when, until when, and what schedulers see of it."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from state.manifest import BindingConditions, Layout, Policy, Spec
from state.records import AppliedDevice
from state.slices.failures import PATIENCE, Failures, followed, recalled
from state.slices.tainting import RECONFIGURE_FAILED
from state.status import AllocationStatus, DeviceStatus, NodeStatus
from tests.slices.cases import SERVERS, as_live, slices_of, view
from tests.slices.machines import status_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GPU: DeviceStatus = status_of("flex170").devices[0]


def failing(phase: str = "Failed", profile: str = "flex170_m4") -> NodeStatus:
    device = AppliedDevice(device=f"{GPU.name}-m4-vf0", profile=profile)
    one = AllocationStatus(name="u", origin="claim", phase=phase, since=NOW, devices=(device,))
    return replace(status_of("flex170"), allocations=(one,))


def after(status: NodeStatus, now: float = 10.0) -> set[str]:
    return set(followed(followed({}, failing(), 0.0), status, now))


def test_a_failure_lasts_after_its_claim_has_gone() -> None:
    assert after(status_of("flex170"), PATIENCE - 1) == {GPU.name}
    assert after(status_of("flex170"), PATIENCE) == set()


def test_each_attempt_counts_anew() -> None:
    first = followed({}, failing(), 0.0)
    second: Failures = followed(first, failing(), 400.0)
    assert set(followed(second, status_of("flex170"), 900.0)) == {GPU.name}


@pytest.mark.parametrize("phase", ["Ready", "Blocked", "Converging"])
def test_only_failures_count(phase: str) -> None:
    assert followed({}, failing(phase), 0.0) == {}
    assert followed({}, failing(profile=""), 0.0) == {}


def test_success_reboot_and_another_binding_end_it() -> None:
    assert GPU.sriov is not None
    made = replace(GPU, sriov=replace(GPU.sriov, enabled=4, layout="flex170_m4", owner="ours"))
    assert after(replace(status_of("flex170"), devices=(made,))) == set()
    assert after(replace(status_of("flex170"), boot_id="next")) == set()
    assert after(replace(status_of("flex170"), devices=(replace(GPU, driver="xe"),))) == set()
    assert after(replace(status_of("flex170"), devices=())) == set()


@pytest.mark.parametrize(
    ("waits", "effect"), [(BindingConditions.NEVER, "NoExecute"), (BindingConditions.ON_RECONFIGURE, "NoSchedule")]
)
def test_the_taint_outlives_the_agent(waits: BindingConditions, effect: str) -> None:
    spec = Spec(policy=Policy(layout=Layout.DYNAMIC, binding_conditions=waits))
    at = view(status_of("flex170"), SERVERS["1.36"], spec, failed=frozenset({GPU.name}))
    live = as_live(slices_of(at), "v1")
    tainted = {
        device.name: {(taint.key, taint.effect, taint.value) for taint in device.taints}
        for each in live.values()
        for device in each.content.devices
    }
    assert tainted[f"{GPU.name}-m4"] == tainted[GPU.name] == {(RECONFIGURE_FAILED, effect, "boot")}
    assert RECONFIGURE_FAILED not in {key for key, _, _ in tainted[f"{GPU.name}-monitor"]}
    found = recalled(live.values(), status_of("flex170"), 50.0)
    assert followed(found, status_of("flex170"), 60.0) == found
    assert set(found) == {GPU.name}
