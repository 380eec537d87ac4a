"""From a GpuNodeState to what the allocation policy wants to know of a node."""

from __future__ import annotations

import msgspec

from state.classic.room import NodeRoom, NodeRoomSource, room_of
from state.dra.node_object import NodeObject
from state.ids import LogicalDevice, Use, parse_logical_device
from state.manifest import Override, Policy, VirtualFunctions
from state.profiles import ProfileTable
from state.status import DeviceStatus


class _SeenFunctions(VirtualFunctions, frozen=True, forbid_unknown_fields=False):
    """A VF layout."""


class _SeenOverride(Override, frozen=True, forbid_unknown_fields=False):
    """A person's word on one GPU."""

    virtual_functions: _SeenFunctions | None = None


class _SeenPolicy(Policy, frozen=True, forbid_unknown_fields=False):
    """How the node's GPUs are offered."""


class RoomUnknown(Exception):
    """Nothing can be allocated on a node at present; says why."""


def room_on(node: NodeObject | None, table: ProfileTable) -> NodeRoom:
    """The room on a node. Raises RoomUnknown where nothing is to be had of it now."""
    if node is None or node.inventory is None:
        raise RoomUnknown("no GpuNodeState: no node agent has reported from there")
    if node.deleting:
        raise RoomUnknown("its GpuNodeState is being deleted")
    if not node.reported:
        raise RoomUnknown("its node agent has not reported yet")
    if not node.adopted:
        raise RoomUnknown("its GpuNodeState is new: what claims have there is being put together")
    try:
        devices = _devices(node.inventory.devices)
        source = NodeRoomSource(
            name=node.name,
            paused=node.inventory.paused,
            devices=devices,
            entries=tuple(entry for entry, _ in node.entries),
            allocations=node.allocations,
            manual=node.manual,
            withdrawn=node.withdrawn,
            overrides=_overrides(node.inventory.overrides),
            policy=_policy(node.inventory.policy),
            failed=_failed(node, devices),
        )
    except msgspec.DecodeError as error:
        raise RoomUnknown(f"its GpuNodeState is not understood by this release: {error}") from error
    return room_of(source, table)


def _failed(node: NodeObject, gpus: tuple[DeviceStatus, ...]) -> frozenset[str]:
    """GPUs that can't be split at present: a claim failed, and the layout it is for is not there."""
    standing = {gpu.name: gpu.sriov.layout for gpu in gpus if gpu.sriov is not None}
    failed = (allocation for allocation in node.allocations if allocation.phase == "Failed")
    devices = ((device, _logical(device.device)) for allocation in failed for device in allocation.devices)
    return frozenset(
        logical.pf
        for device, logical in devices
        if logical is not None and logical.use is Use.VF and standing.get(logical.pf) != device.profile
    )


def _logical(name: str) -> LogicalDevice | None:
    try:
        return parse_logical_device(name)
    except ValueError:
        return None  # of a newer release


_devices = msgspec.json.Decoder(tuple[DeviceStatus, ...]).decode
_overrides = msgspec.json.Decoder(tuple[_SeenOverride, ...]).decode
_policy = msgspec.json.Decoder(_SeenPolicy).decode
