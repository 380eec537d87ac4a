"""Any inventory, any layout, any server: within its limits, no more than the hardware can do, and no less."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import kubesim
from state.manifest import Layout, Policy, Spec
from state.slices.comparing import compare
from state.slices.desired import desired
from state.slices.wire import decode_slice, encode_slice
from state.status import DeviceStatus, MemoryStatus, NodeStatus, SicknessStatus, SriovStatus
from tests.slices.cases import SERVERS, as_live, slices_of, view
from tests.slices.hardware import Gpu, clashes
from tests.slices.machines import status_of, tables
from tests.slices.scheduler import Scheduler

IDS = (0x56C0, 0x56C1, 0x0BD5, 0xE212, 0xA7A0)
MIB = 1024 * 1024


@st.composite
def gpus(draw: Any, number: int) -> DeviceStatus:
    device_id = draw(st.sampled_from(IDS))
    total = draw(st.sampled_from((0, 1, 7, 12, 31, 62, 63)))
    memory = draw(st.sampled_from((None, 256, 511, 8192, 15360, 16257, 131072)))
    enabled = draw(st.integers(0, total))
    return DeviceStatus(
        name=f"0000-{number:02x}-00-0-0x{device_id:04x}",
        pci_address=f"0000:{number:02x}:00.0",
        pci_id=f"0x{device_id:04x}",
        model=draw(st.sampled_from(("Flex 170", "Ω" * 60, "Unknown"))),
        family="Data Center",
        health="Healthy",
        driver=draw(st.sampled_from(("i915", "xe", ""))),
        memory=None
        if memory is None
        else MemoryStatus(
            bytes=memory * MIB + draw(st.integers(0, 4095)), source=draw(st.sampled_from(("sysfs", "bar")))
        ),
        ecc=draw(st.sampled_from(("", "on", "off"))),
        tiles=draw(st.sampled_from((1, 2))),
        integrated=draw(st.sampled_from((None, False, True))),
        numa_node=draw(st.sampled_from((None, 0, 3))),
        pcie_root=draw(st.sampled_from(("", "pci0000:16"))),
        sriov=None
        if total == 0
        else SriovStatus(
            total=total,
            enabled=enabled,
            owner=draw(st.sampled_from(("ours", "foreign"))) if enabled else "",
            quotas=draw(st.booleans()),
        ),
        sickness=draw(st.sampled_from(((), (SicknessStatus(cause="Wedged", message="m"),)))),
    )


@st.composite
def machines(draw: Any) -> NodeStatus:
    count = draw(st.sampled_from((0, 1, 2, 8, 9, 40)))
    return NodeStatus(boot_id="b", version="1", devices=tuple(draw(gpus(number)) for number in range(count)))


policies = st.builds(
    Policy,
    layout=st.sampled_from(Layout),
    profiles=st.sampled_from((None, ("m4",), ("fs3", "nonsense", "m16"), ())),
    shared_memory=st.booleans(),
)
servers = st.sampled_from(sorted(SERVERS))


@settings(max_examples=40)
@given(status=machines(), policy=policies, server=servers)
def test_servers_take_all_slices(status: NodeStatus, policy: Policy, server: str) -> None:
    can = SERVERS[server]
    at = view(status, can, Spec(policy=policy))
    slices = slices_of(at)
    cluster = kubesim.Cluster("1.36" if server == "1.37" else server.partition("-")[0])
    path = f"/apis/resource.k8s.io/{can.row}/resourceslices"
    for slice in slices:
        cluster.create(path, encode_slice(slice, can.row))
    pool = {(each.pool.generation, each.pool.count) for each in slices}
    assert pool in (set(), {(1, len(slices))})
    names = [device.name for each in slices for device in each.devices]
    assert len(names) == len(set(names))
    live = as_live(slices, can.row)
    settled = desired(view(status, can, Spec(policy=policy), live=tuple(live.values())))
    assert compare(live, settled.slices) == ()
    assert settled.withdrawing == frozenset()


@settings(max_examples=60)
@given(status=machines(), policy=policies, server=servers, data=st.data())
def test_whoever_is_served_can_have_it(
    status: NodeStatus, policy: Policy, server: str, data: st.DataObject
) -> None:
    can = SERVERS[server]
    slices = [encode_slice(each, can.row) for each in slices_of(view(status, can, Spec(policy=policy)))]
    scheduler = Scheduler(slices=slices)
    hardware = {gpu.name: of(gpu) for gpu in status.devices}
    wishes = st.tuples(
        st.sampled_from(("gpu", "vf", "shared")),
        st.sampled_from(({}, {"memory": 2048 * MIB}, {"millicores": 50}, {"memory": 1, "millicores": 1})),
        st.integers(0, 50),
    )
    for kind, needs, pick in data.draw(st.lists(wishes, max_size=30)):
        scheduler.allocate(kind, needs, pick=pick)
    assert clashes(scheduler.claims, hardware) == []


def of(gpu: DeviceStatus) -> Gpu:
    """What the hardware has, told independently of what is published: a BAR is no measure of VFs' memory."""
    total = 0 if gpu.sriov is None else gpu.sriov.total
    found = {profile.mode: profile.count for profile in tables().profiles.of(int(gpu.pci_id, 16))}
    found |= {f"fs{count}": count for count in range(1, total + 1)}
    exact = gpu.memory is not None and gpu.memory.source != "bar"
    return Gpu(
        memory=gpu.memory.bytes if gpu.memory is not None and exact else None,
        vfs={mode: count for mode, count in found.items() if count <= total},
    )


@pytest.mark.parametrize("mode", ["m16", "m8", "m5", "m4", "m2", "m1"])
def test_every_vf_of_a_layout_can_be_had(mode: str) -> None:
    at = view(status_of("flex170"), SERVERS["1.37"], Spec(policy=Policy(profiles=(mode,))))
    scheduler = Scheduler(slices=[encode_slice(each, "v1") for each in slices_of(at)])
    count = int(mode[1:])
    assert all(scheduler.allocate("vf", {}) for _ in range(count))
    assert scheduler.allocate("vf", {}) is None
    assert scheduler.allocate("gpu", {}) is None
    assert scheduler.allocate("shared", {}) is None


def test_a_shared_gpu_is_handed_out_to_its_last_byte() -> None:
    at = view(status_of("flex170"), SERVERS["1.37"])
    scheduler = Scheduler(slices=[encode_slice(each, "v1") for each in slices_of(at)])
    memory = status_of("flex170").devices[0].memory
    assert memory is not None
    all_but = memory.bytes - 1024 * MIB
    assert scheduler.allocate("shared", {}) is not None
    assert scheduler.allocate("shared", {"memory": all_but}) is not None
    assert scheduler.allocate("shared", {"memory": 1}) is None


def test_a_divisible_gpu_is_whole_to_who_asks_for_nothing_particular() -> None:
    slices = [encode_slice(each, "v1") for each in slices_of(view(status_of("flex170"), SERVERS["1.36"]))]
    scheduler = Scheduler(slices=slices)
    assert scheduler.allocate("gpu", {}) is not None
    assert scheduler.allocate("gpu", {"memory": 1, "millicores": 1}) is None
    scheduler.claims.clear()
    some = {"memory": 2048 * MIB, "millicores": 100}
    assert scheduler.allocate("gpu", some) is not None
    assert scheduler.allocate("gpu", some) is not None
    assert scheduler.allocate("gpu", {}) is None


@settings(max_examples=30)
@given(status=machines(), server=servers)
def test_what_is_written_reads_the_same(status: NodeStatus, server: str) -> None:
    can = SERVERS[server]
    slices = slices_of(view(status, can, Spec(policy=Policy(layout=Layout.DYNAMIC))))
    assert [live.content for live in as_live(slices, can.row).values()] == list(slices)


def test_unreadable_slices_are_named() -> None:
    with pytest.raises(ValueError, match=r"metadata"):
        decode_slice(b'{"spec": {"driver": "d", "pool": {"name": "p"}}}')


def test_a_sick_gpu_of_a_server_without_taints_is_not_offered() -> None:
    status = status_of("flex170")
    sick = replace(status.devices[0], sickness=(SicknessStatus(cause="Wedged", message="m"),))
    assert slices_of(view(replace(status, devices=(sick,)), SERVERS["1.32"])) == ()
