"""The publisher on a simulated API server: what is written, when, and what becomes of faults."""

import pytest
from msgspec.structs import replace

from kubesim import Fault, Rule
from reconciler.node.agent_metrics import SLICE_BACKLOG, SLICE_DEVICES, SLICE_WRITES
from reconciler.node.slice_publisher import CHECK_SECONDS
from state.manifest import (
    AllocatedDevice,
    BindingConditions,
    ClaimAllocation,
    Layout,
    Override,
    OverrideMode,
    Policy,
    Spec,
    VirtualFunction,
    VirtualFunctions,
)
from state.slices.ordering import REORDER_SECONDS
from state.status import NodeStatus, SicknessStatus
from tests.slices.machines import status_of
from tests.slices.scene import Scene, scene

FLEX = "0000-b3-00-0-0x56c0"


def flex() -> str:
    (gpu,) = status_of("flex170").devices
    return gpu.name


def claim(uid: str, device: str) -> ClaimAllocation:
    return ClaimAllocation(
        name=uid,
        claim_namespace="default",
        claim_name=f"claim-{uid}",
        source="resource.k8s.io/v1",
        devices=(AllocatedDevice(request="r", pool="node-a", device=device, physical_function=flex()),),
    )


def modes(here: Scene) -> set[str]:
    return {name.removeprefix(flex()) for name in here.devices()}


def taints(here: Scene, name: str) -> set[str]:
    return {f"{each['key'].partition('/')[2]}:{each['effect']}" for each in here.devices()[name].get("taints", ())}


DYNAMIC = {"-m16", "-m8", "-m5", "-m4", "-m2", "-m1", "-shared", "", "-monitor"}


def test_published_once() -> None:
    with scene() as here:
        here.offer(status_of("flex170"), layout=Layout.DYNAMIC)
        here.settle()
        assert modes(here) == DYNAMIC
        assert here.writes() == ["POST resourceslices"] * 2
        (owner,) = here.slices()[0]["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Node", "node-a")
        here.restart()
        here.offer(status_of("flex170"), layout=Layout.DYNAMIC)
        here.settle()
        assert len(here.writes()) == 2


def test_a_change_of_one_slice_is_written_there_in_the_same_generation() -> None:
    with scene() as here:
        status = status_of("flex170")
        here.offer(status, layout=Layout.DYNAMIC)
        here.settle()
        (gpu,) = status.devices
        sick = replace(gpu, sickness=(SicknessStatus(cause="Wedged", message="it hangs"),), health="Unhealthy")
        here.offer(replace(status, devices=(sick,)), layout=Layout.DYNAMIC)
        here.settle()
        assert here.writes()[2:] == ["PUT node-a-gpu.intel.com-devices-00"]
        assert {each["spec"]["pool"]["generation"] for each in here.slices()} == {1}
        assert taints(here, f"{flex()}-m4") == {"health-Wedged:NoExecute"}
        assert taints(here, f"{flex()}-monitor") == {"monitor-only:NoSchedule"}
        here.offer(status, layout=Layout.DYNAMIC)
        here.settle()
        assert taints(here, f"{flex()}-m4") == set()


def test_what_the_kubelet_deletes_is_written_again_while_registered() -> None:
    with scene() as here:
        here.registered = False
        here.offer(status_of("flex170"))
        here.settle()
        assert here.slices() == []
        here.registered = True
        here.settle()
        assert modes(here) == {"", "-monitor"}
        here.wipe()
        here.settle()
        assert modes(here) == {"", "-monitor"}
        here.registered = False
        here.wipe()
        here.settle()
        assert here.slices() == []


def test_without_a_manifest_nothing_is_changed() -> None:
    with scene() as here:
        here.publisher.offer(status_of("flex170"), None)
        assert here.publisher.step() is None
        assert here.cluster.requests == []


@pytest.mark.parametrize(
    ("release", "off", "minor", "row", "expected"),
    [
        ("1.36", (), "37", "v1", DYNAMIC),
        ("1.36", (), None, "v1", {"", "-monitor"}),
        ("1.36", ("counters",), "37", "v1", {"", "-monitor"}),
        ("1.36", ("taints",), "37", "v1", {""}),
        ("1.36", ("sharing",), "37", "v1", {"", "-monitor"}),
        ("1.35", ("taints", "counters", "sharing", "binding"), None, "v1", {""}),
        ("1.33", ("taints", "counters"), None, "v1beta2", {""}),
        ("1.32", (), None, "v1beta1", {""}),
        ("1.31", (), None, "v1alpha3", {""}),
    ],
)
def test_auto_is_the_best_the_server_can_take(
    release: str, off: tuple[str, ...], minor: str | None, row: str, expected: set[str]
) -> None:
    with scene(release, *off, minor=minor) as here:
        here.offer(status_of("flex170"))
        here.settle()
        assert here.found[-1].row == row
        assert modes(here) == expected
        shared = here.devices()[flex()].get("allowMultipleAllocations", False)
        assert shared == (release == "1.36" and "sharing" not in off and expected != DYNAMIC)


def test_counters_that_get_lost_take_their_slices_with_them() -> None:
    with scene() as here:
        here.offer(status_of("flex170"), layout=Layout.DYNAMIC)
        here.settle()
        here.transport.off = {"counters"}
        here.wipe()
        here.settle()
        assert modes(here) == {"-monitor"}  # any of the others may have been allocated
        told = here.publisher.withdrawn({})
        here.offer(status_of("flex170"), Spec(policy=Policy(layout=Layout.DYNAMIC), withdrawals_confirmed=told))
        here.settle()
        assert modes(here) == {"", "-monitor"}
        assert not any("consumesCounters" in device for device in here.devices().values())


def test_a_held_device_outlives_the_policy_and_goes_when_the_controller_confirms() -> None:
    with scene() as here:
        status, held = status_of("flex170"), f"{flex()}-m4"
        narrow = Policy(layout=Layout.DYNAMIC, profiles=("m8",), shared_memory=True)
        here.offer(status, layout=Layout.DYNAMIC)
        here.settle()
        here.offer(status, Spec(policy=narrow, allocations=(claim("u", held),)))
        here.settle()
        told = here.publisher.withdrawn({})
        assert set(told) == {f"{flex()}-{mode}" for mode in ("m16", "m5", "m2", "m1")}
        assert modes(here) == DYNAMIC
        assert taints(here, held) == taints(here, f"{flex()}-m16") == {"withdrawn:NoSchedule"}
        here.offer(status, Spec(policy=narrow, allocations=(claim("u", held),), withdrawals_confirmed=told))
        here.settle()
        assert modes(here) == {"-m8", "-m4", "-shared", "", "-monitor"}
        here.wipe()
        here.settle()
        assert modes(here) == {"-m8", "-m4", "-shared", "", "-monitor"}
        here.offer(status, Spec(policy=narrow))
        here.settle()
        (token,) = here.publisher.withdrawn({}).items()
        assert token[0] == held
        here.offer(status, Spec(policy=narrow, withdrawals_confirmed=dict([token])))
        here.settle()
        assert modes(here) == {"-m8", "-shared", "", "-monitor"}
        assert here.publisher.withdrawn({}) == {}


def fixed(status: NodeStatus, token: str) -> NodeStatus:
    (gpu,) = status.devices
    return replace(status, devices=(replace(gpu, override="Fixed"),), withdrawn={gpu.name: token})


@pytest.mark.parametrize("off", [(), ("taints", "counters", "sharing")])
def test_a_fixed_layout_comes_when_all_else_is_gone(off: tuple[str, ...]) -> None:
    with scene("1.36", *off) as here:
        status = status_of("flex170")
        here.offer(status)
        here.settle()
        override = Override(
            device=flex(), mode=OverrideMode.FIXED, virtual_functions=VirtualFunctions(profile="m4")
        )
        wish, begun = fixed(status, "t1"), {flex(): "t1"}
        assert here.publisher.withdrawn(begun) == {}
        here.offer(wish, Spec(overrides=(override,)))
        here.settle()
        told = here.publisher.withdrawn(begun)
        assert set(told) == {flex(), f"{flex()}-whole"}
        assert told[flex()] == "t1"
        if off:
            assert modes(here) == set()
        else:
            assert taints(here, flex()) == {"withdrawn:NoSchedule"}
        here.offer(wish, Spec(overrides=(override,), allocations=(claim("u", flex()),)))
        here.settle()
        assert not any("-vf" in name for name in here.devices())
        here.offer(wish, Spec(overrides=(override,)))
        here.settle()
        told = here.publisher.withdrawn(begun)
        here.offer(wish, Spec(overrides=(override,), withdrawals_confirmed=told))
        here.settle()
        vfs = {f"-m4-vf{number}" for number in range(4)}
        assert modes(here) - {"-monitor"} == vfs
        assert taints(here, f"{flex()}-m4-vf0") == set()


def test_foreign_vfs_leave_only_the_monitor() -> None:
    with scene() as here:
        here.offer(status_of("foreign-vfs"), layout=Layout.DYNAMIC)
        here.settle()
        foreign = {
            gpu.name for gpu in status_of("foreign-vfs").devices if gpu.sriov and gpu.sriov.owner == "foreign"
        }
        assert foreign
        for name in foreign:
            assert [device for device in here.devices() if device.startswith(name)] == [f"{name}-monitor"]


def test_a_drained_gpu_is_tainted_but_for_its_monitor() -> None:
    with scene() as here:
        status = status_of("flex170")
        (gpu,) = status.devices
        here.offer(replace(status, devices=(replace(gpu, override="Drain"),)), layout=Layout.DYNAMIC)
        here.settle()
        assert taints(here, flex()) == {"reserved:NoSchedule"}
        assert taints(here, f"{flex()}-monitor") == {"monitor-only:NoSchedule"}


def test_binding_conditions_are_on_modes_that_do_not_stand() -> None:
    with scene() as here:
        status = status_of("flex170")
        (gpu,) = status.devices
        assert gpu.sriov is not None
        as_m4 = replace(gpu, sriov=replace(gpu.sriov, enabled=4, layout="flex170_m4", owner="ours"))
        waits = BindingConditions.ON_RECONFIGURE
        here.offer(replace(status, devices=(as_m4,)), layout=Layout.DYNAMIC, binding_conditions=waits)
        here.settle()
        conditions = {
            name.removeprefix(flex()) for name, each in here.devices().items() if "bindingConditions" in each
        }
        assert conditions == {"-m16", "-m8", "-m5", "-m2", "-m1"}


def test_the_slices_of_another_driver_of_the_same_name_are_replaced() -> None:
    with scene() as here:
        device = {"name": flex(), "attributes": {"type": {"string": "gpu"}}}
        pool = {"name": "node-a", "generation": 7, "resourceSliceCount": 1}
        spec = {"driver": "gpu.intel.com", "nodeName": "node-a", "pool": pool, "devices": [device]}
        old = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": "old"},
            "spec": spec,
        }
        here.cluster.create("/apis/resource.k8s.io/v1/resourceslices", old)
        here.offer(status_of("flex170"), layout=Layout.DYNAMIC)
        here.settle()
        assert taints(here, flex()) == {"withdrawn:NoSchedule"}
        assert modes(here) == {"", "-monitor"}
        confirmed = here.publisher.withdrawn({})
        here.offer(
            status_of("flex170"), Spec(policy=Policy(layout=Layout.DYNAMIC), withdrawals_confirmed=confirmed)
        )
        here.settle()
        assert modes(here) == DYNAMIC
        assert {each["spec"]["pool"]["generation"] for each in here.slices()} == {9}


def test_slices_of_another_pool_are_not_in_the_way() -> None:
    with scene() as here:
        pool = {"name": "elsewhere", "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": "gpu.intel.com", "nodeName": "node-a", "pool": pool}
        kind = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice"}
        name = "node-a-gpu.intel.com-devices-00"
        here.cluster.create(
            "/apis/resource.k8s.io/v1/resourceslices", {**kind, "metadata": {"name": name}, "spec": spec}
        )
        here.offer(status_of("flex170"))
        here.settle()
        assert [each["spec"]["pool"]["name"] for each in here.slices()] == ["node-a"]


def test_a_feature_switched_off_is_noticed_when_its_fields_get_lost() -> None:
    with scene() as here:
        here.offer(status_of("flex170"))
        here.settle()
        assert modes(here) == {"", "-monitor"}
        here.transport.off = {"taints"}
        here.wipe()
        here.settle()
        assert modes(here) == {""}
        assert not any("taints" in device for device in here.devices().values())


def test_counters_that_only_a_trial_keeps_are_not_trusted() -> None:
    with scene() as here:
        here.transport.off, here.transport.honest_trials = {"counters"}, False
        here.offer(status_of("flex170"), layout=Layout.DYNAMIC)
        here.settle()
        assert modes(here) == {"", "-monitor"}
        assert here.writes() == [
            "POST resourceslices",
            "DELETE node-a-gpu.intel.com-counters-00",
            "POST resourceslices",
        ]


def test_metrics_show_what_is_offered_and_what_is_still_to_be_written() -> None:
    with scene() as here:
        shown = here.metrics.values
        here.cluster.add_fault(Rule(fault=Fault.INTERNAL, method="POST", path="resourceslices", count=20))
        here.offer(status_of("flex170"), layout=Layout.DYNAMIC)
        while (SLICE_WRITES, "failed") not in shown:
            here.now += here.publisher.step() or 0.0
        assert shown[(SLICE_BACKLOG,)] == 2
        here.cluster.clear_faults()
        here.settle()
        assert shown[(SLICE_BACKLOG,)] == 0
        assert shown[SLICE_WRITES, "ok"] == 2
        devices = {effect: shown[SLICE_DEVICES, effect] for effect in ("None", "NoSchedule", "NoExecute")}
        assert devices == {"None": len(DYNAMIC) - 1, "NoSchedule": 1, "NoExecute": 0}


@pytest.mark.parametrize("fault", [Fault.CONFLICT, Fault.DROPPED, Fault.LOST, Fault.THROTTLED, Fault.INTERNAL])
def test_faults_delay_but_do_not_harm(fault: Fault) -> None:
    with scene() as here:

        def trouble() -> None:
            for method in ("POST", "PUT", "DELETE"):
                here.cluster.add_fault(Rule(fault=fault, method=method, path="resourceslices", count=1))

        trouble()
        here.offer(status_of("mixed"), layout=Layout.DYNAMIC)
        here.settle()
        here.cluster.clear_faults()
        here.wipe()
        trouble()
        here.settle()
        first = here.devices()
        here.cluster.clear_faults()
        written = len(here.writes())
        here.restart()
        here.offer(status_of("mixed"), layout=Layout.DYNAMIC)
        here.settle()
        assert (here.devices(), len(here.writes())) == (first, written)


def test_a_vf_of_a_layout_keeps_its_device_though_it_is_known_by_number() -> None:
    with scene() as here:
        status = status_of("flex170")
        here.offer(status, layout=Layout.DYNAMIC)
        here.settle()
        vf = AllocatedDevice(
            request="r", pool="node-a", device=f"{flex()}-m4", physical_function=flex(),
            virtual_function=VirtualFunction(profile="flex170_m4", index=2),
        )  # fmt: skip
        entry = replace(claim("u", ""), devices=(vf,))
        here.offer(status, Spec(policy=Policy(layout=Layout.COUNTER_FREE), allocations=(entry,)))
        here.settle()
        assert "-m4" in modes(here)
        assert here.devices()[f"{flex()}-m4"]["consumesCounters"]


@pytest.mark.parametrize("share", ["", "b1c0ffee-0000-4000-8000-000000000001"])
def test_what_is_held_comes_back_as_it_was_given(share: str) -> None:
    """Of a GPU that was given whole nothing is counted, so it must not come back as one that is shared."""
    with scene() as here:
        entry = claim("u", flex())
        (device,) = entry.devices
        here.offer(
            status_of("flex170"), Spec(allocations=(replace(entry, devices=(replace(device, share_id=share),)),))
        )
        here.settle()
        assert here.devices()[flex()].get("allowMultipleAllocations", False) == bool(share)
        assert taints(here, flex()) == (set() if share else {"withdrawn:NoSchedule"})


def test_a_withdrawal_can_be_taken_back() -> None:
    with scene() as here:
        here.offer(status_of("flex170"))
        here.settle()
        here.offer(status_of("flex170"), layout=Layout.DYNAMIC)
        here.settle()
        assert taints(here, flex()) == {"withdrawn:NoSchedule"}
        here.offer(status_of("flex170"))
        here.settle()
        assert taints(here, flex()) == set()
        assert here.publisher.withdrawn({}) == {}


def test_a_gpu_that_went_missing_keeps_what_claims_have_of_it() -> None:
    with scene() as here:
        status, held = status_of("flex170"), claim("u", f"{flex()}-m4")
        dynamic = Policy(layout=Layout.DYNAMIC)
        here.offer(status, Spec(policy=dynamic, allocations=(held,)))
        here.settle()
        here.offer(replace(status, devices=()), Spec(policy=dynamic, allocations=(held,)))
        here.settle()
        assert taints(here, f"{flex()}-m4") == taints(here, flex()) == {"health-DeviceAbsent:NoExecute"}
        here.offer(replace(status, devices=()), Spec(policy=dynamic))
        here.settle()
        assert here.devices() == {}


def test_what_cannot_be_seen_for_a_while_changes_nothing() -> None:
    with scene() as here:
        status = status_of("flex170")
        here.offer(status, layout=Layout.DYNAMIC)
        here.settle()
        before = {name: device["capacity"] for name, device in here.devices().items() if "capacity" in device}
        (gpu,) = status.devices
        blind = replace(
            gpu, sriov=None, memory=None, sickness=(SicknessStatus(cause="Unreadable", message="EIO"),)
        )
        here.offer(replace(status, devices=(blind,)), layout=Layout.DYNAMIC)
        here.settle()
        assert taints(here, flex()) == {"health-Unreadable:NoSchedule"}
        passed = replace(gpu, driver="vfio-pci", original_driver="i915", memory=None)
        here.offer(replace(status, devices=(passed,)), layout=Layout.DYNAMIC)
        here.settle()
        assert here.devices()[flex()]["attributes"]["driver"] == {"string": "i915"}
        assert before == {
            name: device["capacity"] for name, device in here.devices().items() if "capacity" in device
        }


def test_another_release_of_the_server_is_noticed() -> None:
    with scene("1.34", minor="34+") as here:
        here.offer(status_of("flex170"), layout=Layout.DYNAMIC)
        here.settle()
        assert len(here.slices()) == 1
        here.transport.minor = "35"
        here.now += CHECK_SECONDS
        here.settle()
        assert len(here.slices()) == 2


def test_gpus_in_use_come_first_where_that_is_wished() -> None:
    with scene() as here:
        status = status_of("flex140")
        first, second = status.devices
        busy = replace(status, devices=(first, replace(second, users=("a/b",))))
        here.offer(busy, layout=Layout.COUNTER_FREE, reorder=True)
        here.settle()
        assert next(iter(here.devices())) == second.name
        here.offer(status, layout=Layout.COUNTER_FREE, reorder=True)
        here.publisher.step()
        assert next(iter(here.devices())) == first.name
        here.offer(busy, layout=Layout.COUNTER_FREE, reorder=True)
        assert here.publisher.step() == REORDER_SECONDS
        assert next(iter(here.devices())) == first.name
        here.settle()
        assert next(iter(here.devices())) == second.name
        assert {each["spec"]["pool"]["generation"] for each in here.slices()} == {1}
