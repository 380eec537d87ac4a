"""Nodes, GPUs, entries and claims of classic DRA, as short as they can be said."""

import functools
from typing import Any

from reconciler.node.tables import load_tables
from state.classic.parameters import ANY_DEVICE, ClaimParameters, ClassParameters, DeviceSelector, DeviceType
from state.classic.placing import Placement, Unsuitable, place
from state.classic.room import NodeRoom, NodeRoomSource, room_of
from state.classic.spots import Policy
from state.classic.wishes import Wish
from state.dra.node_object import Entry, EntryDevice, NodeAllocation
from state.dra.resource_claims import ClaimRef
from state.profiles import MIB, ProfileTable
from state.records import AppliedDevice
from state.status import DeviceStatus, MemoryStatus, NodesStatus, SriovStatus

GIB = 1024 * MIB
NODE = "node-1"
FLEX = "0x56c0"
MAX = "0x0bda"
ARC = "0x56a0"

_MODELS = {
    FLEX: ("Flex 170", "Data Center Flex", 16, 31),
    MAX: ("Max 1100", "Data Center Max", 48, 63),
    ARC: ("A770", "Arc A-Series", 16, 0),
}


@functools.cache
def table() -> ProfileTable:
    return load_tables("").profiles


def name(number: int, model: str = FLEX) -> str:
    return f"0000-{number:02x}-00-0-{model}"


def gpu(number: int, model: str = FLEX, *, layout: str = "", enabled: int = 0, **more: Any) -> DeviceStatus:
    """A healthy GPU; with ``enabled`` VFs of ours in a ``layout``."""
    title, family, gibibytes, vfs = _MODELS[model]
    sriov = SriovStatus(total=vfs, enabled=enabled, layout=layout, owner="ours" if enabled else "", quotas=True)
    given: dict[str, Any] = {
        "name": name(number, model),
        "pci_address": f"0000:{number:02x}:00.0",
        "pci_id": model,
        "model": title,
        "family": family,
        "health": "Healthy",
        "driver": "i915",
        "memory": MemoryStatus(bytes=gibibytes * GIB, source="sysfs"),
        "ecc": "off",
        "sriov": sriov if vfs else None,
        "nodes": NodesStatus(drm=(f"dri/card{number}",)),
    }
    return DeviceStatus(**{**given, **more})


def room(*gpus: DeviceStatus, **more: Any) -> NodeRoom:
    return room_of(NodeRoomSource(name=NODE, devices=gpus, **more), table())


def wish(
    uid: str = "a",
    kind: str = "gpu",
    *,
    shared: bool = False,
    monitor: bool = False,
    selectors: tuple[DeviceSelector, ...] = ANY_DEVICE,
    **asked: Any,
) -> Wish:
    return Wish(
        uid=uid,
        ref=ClaimRef("ml", f"claim-{uid}"),
        claim=ClaimParameters(type=DeviceType(kind), **asked),
        of_class=ClassParameters(shared=shared, monitor=monitor, selectors=selectors),
    )


def entry(uid: str, *devices: EntryDevice) -> Entry:
    return Entry(name=uid, claim_namespace="ml", claim_name=uid, source="v1alpha1", devices=devices)


def held(uid: str, *devices: str, origin: str = "claim") -> NodeAllocation:
    return NodeAllocation(name=uid, origin=origin, devices=tuple(AppliedDevice(device=each) for each in devices))


def devices_of(outcome: Placement | Unsuitable) -> dict[str, list[str]]:
    """By claim UID, the names of its devices without their GPU's first and last parts: ``03-m8-vf0``."""
    assert isinstance(outcome, Placement), outcome
    return {uid: [_short(device.device) for device in devices] for uid, devices in outcome.devices.items()}


def placed(where: NodeRoom, *wishes: Wish, policy: Policy | None = None) -> dict[str, list[str]]:
    return devices_of(place(where, wishes, policy or Policy()))


def refused(where: NodeRoom, *wishes: Wish, policy: Policy | None = None) -> dict[str, str]:
    outcome = place(where, wishes, policy or Policy())
    assert isinstance(outcome, Unsuitable), outcome
    return dict(outcome.reasons)


def taken(where: NodeRoom, *wishes: Wish) -> list[Entry]:
    """The entries of these claims, placed one after the other would be as one set."""
    outcome = place(where, wishes, Policy())
    assert isinstance(outcome, Placement), outcome
    return [entry(uid, *devices) for uid, devices in sorted(outcome.devices.items())]


def _short(device: str) -> str:
    _, bus, _, _, _, *rest = device.split("-")
    return "-".join([bus, *rest])
