"""How devices are spread over slices."""

import dataclasses

import pytest
from msgspec.structs import replace

import kubesim
from state.manifest import Layout, Override, OverrideMode, Policy, Spec, VirtualFunctions
from state.slices.comparing import Create, Delete, Replace, compare
from state.slices.desired import desired
from state.slices.wire import encode_slice
from state.status import NodeStatus
from tests.slices.cases import SERVERS, as_live, slices_of, view
from tests.slices.machines import status_of

DYNAMIC = Spec(policy=Policy(layout=Layout.DYNAMIC))


def shape(status: NodeStatus, server: str, spec: Spec = DYNAMIC) -> list[tuple[str, int, int]]:
    slices = slices_of(view(status, SERVERS[server], spec))
    return [
        (each.name.removeprefix("node-a-gpu.intel.com-"), len(each.counters), len(each.devices)) for each in slices
    ]


def fixed(machine: str, profile: str) -> tuple[NodeStatus, Spec]:
    status = status_of(machine)
    vfs = VirtualFunctions(profile=profile)
    return replace(
        status,
        devices=tuple(replace(gpu, override="Fixed") for gpu in status.devices),
        withdrawn={gpu.name: "t" for gpu in status.devices},
    ), Spec(
        overrides=tuple(
            Override(device=gpu.name, mode=OverrideMode.FIXED, virtual_functions=vfs) for gpu in status.devices
        )
    )


def test_eight_gpus_with_six_modes() -> None:
    assert shape(status_of("flex170-x8"), "1.37") == [
        ("counters-00", 8, 0),
        ("devices-00", 0, 64),
        ("devices-01", 0, 8),  # monitors
    ]


def test_counters_stay_with_their_devices_where_they_must() -> None:
    assert shape(status_of("flex170-x8"), "1.34-gates") == [("devices-00", 8, 64), ("devices-01", 0, 8)]
    for each in slices_of(view(status_of("max1550-x8"), SERVERS["1.34-gates"], DYNAMIC)):
        assert {device.counter_set for device in each.devices} - {""} == set(each.counters)


@pytest.mark.parametrize(("server", "slices"), [("1.36", 9), ("1.32", 4)])
def test_five_hundred_vfs(server: str, slices: int) -> None:
    status, spec = fixed("max1550-x8", "c62")
    shapes = shape(status, server, spec)
    assert len(shapes) == slices
    assert sum(devices for _, _, devices in shapes) == 8 * 62 + (8 if server == "1.36" else 0)
    can = SERVERS[server]
    cluster = kubesim.Cluster(server)
    for each in slices_of(view(status, can, spec)):
        cluster.create(f"/apis/resource.k8s.io/{can.row}/resourceslices", encode_slice(each, can.row))


def test_a_long_node_name_is_shortened_and_stays_one_of_a_kind() -> None:
    at = view(status_of("flex170"), SERVERS["1.37"])
    long = ["n" * 200 + end + "." + "x" * 52 for end in "ab"]
    names = [each.name for node in long for each in slices_of(dataclasses.replace(at, node=node))]
    assert len(set(names)) == 4
    assert all(len(name) <= 253 for name in names)


def test_a_new_gpu_begins_a_new_generation_and_a_new_taint_does_not() -> None:
    can = SERVERS["1.37"]
    two = status_of("flex140")
    one = replace(two, devices=two.devices[:1])
    live = as_live(slices_of(view(one, can)), can.row)
    writes = compare(live, desired(view(two, can, live=tuple(live.values()))).slices)
    assert [(type(write), write.slice.pool.generation) for write in writes if not isinstance(write, Delete)] == [
        (Replace, 2),
        (Replace, 2),
    ]
    drained = replace(one, devices=(replace(one.devices[0], override="Drain"),))
    (write,) = compare(live, desired(view(drained, can, live=tuple(live.values()))).slices)
    assert isinstance(write, Replace)
    assert write.slice.pool.generation == 1


def test_what_was_begun_is_gone_on_with() -> None:
    """Half of a new generation was written when the agent was killed."""
    can = SERVERS["1.37"]
    two = status_of("flex140")
    live = as_live(slices_of(view(replace(two, devices=two.devices[:1]), can)), can.row)
    first, second = compare(live, desired(view(two, can, live=tuple(live.values()))).slices)
    assert isinstance(first, Replace)
    assert isinstance(second, Replace)
    half = {**live, **as_live((first.slice,), can.row)}
    (rest,) = compare(half, desired(view(two, can, live=tuple(half.values()))).slices)
    assert isinstance(rest, Replace)
    assert rest.slice == second.slice


def test_a_deleted_slice_is_made_again_in_its_generation() -> None:
    can = SERVERS["1.37"]
    live = as_live(slices_of(view(status_of("flex170"), can)), can.row)
    name, left = next(iter(live.items()))
    (write,) = compare({name: left}, desired(view(status_of("flex170"), can, live=(left,))).slices)
    assert isinstance(write, Create)
    assert write.slice.pool == left.content.pool
