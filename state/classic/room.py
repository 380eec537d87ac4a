"""What claims can still have of each GPU of a node: which uses and VF layouts are open, and what is taken.

The same word counts as for resource slices (``state.slices``): what a person fixed, drained or gave away, what the
policy offers, and which layouts the hardware and its driver allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from state.dra.node_object import Entry, EntryDevice, NodeAllocation
from state.ids import LogicalDevice, Use, parse_logical_device
from state.manifest import KernelDriver, Override, OverrideDriver, OverrideMode, Policy
from state.observed import DRM_DRIVERS
from state.profiles import Profile, ProfileTable
from state.slices.gpus import find_profile, offered_profiles, total_vfs, vf_memory
from state.status import DeviceStatus

WHOLE_GPU: Final = 1000
"""Thousandths of compute time that a GPU has."""
UNSET_MILLICORES: Final = 1
"""What a share of a GPU counts if its claim doesn't say (Intel's classic driver, 0.2 and later)."""

_PAUSED: Final = "is on a node that is paused"
_VFIO: Final = (OverrideDriver.VFIO, OverrideDriver.XE_VFIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoomSource:
    """What the room of a node is computed from: its GpuNodeState.

    ``devices``, ``allocations`` and ``withdrawn`` are the node's report; ``allocations`` are what it holds still.
    ``entries`` are what claims have by the spec; ``overrides``, ``policy`` and ``manual`` (logical names of
    devices given away) what people say there; a ``paused`` node changes nothing. ``failed`` are GPUs whose VFs
    could not be made.
    """

    name: str
    paused: bool = False
    devices: Sequence[DeviceStatus] = ()
    entries: Sequence[Entry] = ()
    allocations: Sequence[NodeAllocation] = ()
    manual: Sequence[str] = ()
    withdrawn: Mapping[str, str] = field(default_factory=dict)
    overrides: Sequence[Override] = ()
    policy: Policy = field(default_factory=Policy)
    failed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class VfLayout:
    """A way to split a GPU into ``count`` VFs: the profile by name and by mode, and what each VF has.

    ``memory`` is in bytes, None where unknown.
    """

    profile: str
    mode: str
    count: int
    memory: int | None
    millicores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy:
    """What those who have something of a GPU make of it; without a ``use`` nobody has.

    ``profile`` is the VF layout by full name, ``indexes`` the VFs that are taken. ``memory`` (bytes) and
    ``millicores`` are what they take together.
    """

    use: Use | None = None
    profile: str = ""
    indexes: frozenset[int] = frozenset()
    memory: int = 0
    millicores: int = 0


EMPTY: Final = Tenancy()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRoom:
    """One GPU as claims may use it.

    ``labels`` are the names it is selected by, in lower case. ``memory`` is in bytes, None where unknown.
    ``layouts`` are those it may be split into, smallest VF first; ``fixed``: it is kept split so. ``barred`` says
    why uses are not open. ``standing`` is the profile of VFs that are there, ``vfs_stand`` whether there are any.
    ``leaving`` is what somebody has on the node who is not in the spec any more.
    """

    name: str
    labels: tuple[str, ...]
    memory: int | None
    layouts: tuple[VfLayout, ...]
    fixed: bool
    barred: Mapping[Use, str]
    standing: str
    vfs_stand: bool
    leaving: frozenset[LogicalDevice]
    tenancy: Tenancy = EMPTY


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """A node's GPUs, sorted by name, and the devices of each claim that has an entry, by UID."""

    node: str
    gpus: tuple[GpuRoom, ...]
    decided: Mapping[str, tuple[EntryDevice, ...]]


def room_of(source: NodeRoomSource, table: ProfileTable) -> NodeRoom:
    """The room of a node. It depends on nothing but ``source``, so it can be kept as long as that stays."""
    leaving = _leaving(source)
    gpus = (
        _gpu_room(gpu, source, table, leaving.get(gpu.name, frozenset()))
        for gpu in sorted(source.devices, key=lambda gpu: gpu.name)
    )
    return occupied(NodeRoom(node=source.name, gpus=tuple(gpus), decided={}), source.entries)


def occupied(room: NodeRoom, entries: Iterable[Entry]) -> NodeRoom:
    """The room that is left beside these entries, too."""
    decided = dict(room.decided)
    users: dict[str, list[EntryDevice]] = {}
    for entry in entries:
        if not entry.devices:
            continue  # refused
        decided[entry.name] = entry.devices
        for device in entry.devices:
            if not device.admin_access:
                users.setdefault(device.physical_function, []).append(device)
    gpus = (_with_users(gpu, users[gpu.name]) if gpu.name in users else gpu for gpu in room.gpus)
    return replace(room, gpus=tuple(gpus), decided=decided)


def _gpu_room(
    gpu: DeviceStatus, source: NodeRoomSource, table: ProfileTable, leaving: frozenset[LogicalDevice]
) -> GpuRoom:
    override = next((one for one in source.overrides if one.device == gpu.name), None)
    fixed = override is not None and override.mode is OverrideMode.FIXED
    profiles = _profiles(gpu, override if fixed else None, source.policy, table)
    closed = _closed(gpu, source, override) or _foreign(gpu, profiles if fixed else ())
    return GpuRoom(
        name=gpu.name,
        labels=tuple(label.lower() for label in (gpu.model, gpu.family, gpu.pci_id, gpu.name)),
        memory=None if gpu.memory is None else gpu.memory.bytes,
        layouts=tuple(_layout(gpu, profile) for profile in profiles),
        fixed=fixed and bool(profiles),
        barred=_barred(gpu, source, closed, override if fixed else None, profiles),
        standing="" if gpu.sriov is None else gpu.sriov.layout,
        vfs_stand=gpu.sriov is not None and gpu.sriov.enabled > 0,
        leaving=leaving,
    )


def _profiles(
    gpu: DeviceStatus, fixed: Override | None, policy: Policy, table: ProfileTable
) -> tuple[Profile, ...]:
    """The layouts it may be split into, smallest VF first: the one a person fixed, or those of the policy."""
    if fixed is None:
        return offered_profiles(gpu, policy.profiles, table) if total_vfs(gpu) else ()
    if fixed.virtual_functions is None:
        return ()
    profile = find_profile(gpu, fixed.virtual_functions.profile, table)
    return () if profile is None else (profile,)


def _layout(gpu: DeviceStatus, profile: Profile) -> VfLayout:
    return VfLayout(
        profile=profile.name,
        mode=profile.mode,
        count=profile.count,
        memory=vf_memory(gpu, profile),
        millicores=profile.millicores,
    )


def _closed(gpu: DeviceStatus, source: NodeRoomSource, override: Override | None) -> str:
    """Why claims get nothing of a GPU, whatever they want; empty if they do."""
    if source.paused:
        return _PAUSED
    if gpu.health == "Unhealthy":
        causes = ", ".join(sickness.message for sickness in gpu.sickness)
        return "is not healthy" + (f" ({causes})" if causes else "")
    if override is not None and (why := _overridden(gpu, override)):
        return why + (f" ({override.reason})" if override.reason else "")
    if gpu.name in _given_by_hand(source.manual):
        return "is given to a manual allocation"
    if gpu.name in source.withdrawn and (override is None or not _is_wish(override)):
        return "is being withdrawn: people had other plans with it"
    if gpu.driver and gpu.driver not in DRM_DRIVERS and gpu.original_driver is None:
        return f"is bound to {gpu.driver}, and not by us"
    return ""


def _is_wish(override: Override) -> bool:
    return override.mode is not OverrideMode.MANAGED or override.kernel_driver is not None


def _overridden(gpu: DeviceStatus, override: Override) -> str:
    if override.mode is OverrideMode.DRAIN:
        return "is drained by an override"
    if override.mode is OverrideMode.IGNORE:
        return "is left alone by an override"
    wanted = override.kernel_driver
    if wanted in _VFIO:
        return f"is kept at kernel driver {wanted.value} by an override"
    drivers = DRM_DRIVERS if wanted in (None, OverrideDriver.DRM) else (wanted.value,)
    if wanted is not None and gpu.driver not in drivers:
        return f"is yet to be bound to {wanted.value} for an override"
    return ""


def _foreign(gpu: DeviceStatus, fixed: Sequence[Profile]) -> str:
    """Why VFs that somebody else made keep claims off it: an override that names exactly these takes them over."""
    sriov = gpu.sriov
    if sriov is None or not sriov.enabled or sriov.owner != "foreign":
        return ""
    if any(profile.name == sriov.layout for profile in fixed):
        return ""
    return f"has {sriov.enabled} VFs that somebody else made"


def _given_by_hand(manual: Iterable[str]) -> set[str]:
    logical = (_parsed(name) for name in manual)
    return {device.pf for device in logical if device is not None and device.use is not Use.MONITOR}


def _barred(
    gpu: DeviceStatus,
    source: NodeRoomSource,
    closed: str,
    fixed: Override | None,
    profiles: Sequence[Profile],
) -> Mapping[Use, str]:
    """Why uses of it are not open to claims."""
    itself = closed or _no_gpu_itself(fixed)
    policy = "is not to be shared, says the policy" if source.policy.shared_memory is False and not fixed else ""
    barred = {
        Use.MONITOR: _not_watched(gpu, source),
        Use.WHOLE: itself,
        Use.SHARED: itself or policy,
        Use.VF: closed or _no_vfs(gpu, source, fixed, profiles),
    }
    return {use: why for use, why in barred.items() if why}


def _no_gpu_itself(fixed: Override | None) -> str:
    layout = None if fixed is None else fixed.virtual_functions
    return "" if layout is None else f"is kept split into {layout.profile} by an override"


def _no_vfs(gpu: DeviceStatus, source: NodeRoomSource, fixed: Override | None, profiles: Sequence[Profile]) -> str:
    if not total_vfs(gpu):
        return "can't have VFs"
    if gpu.name in source.failed:
        return "failed to make VFs"
    if profiles:
        return ""
    if fixed is None:
        return "is not to be split, says the policy"
    if fixed.virtual_functions is None:
        return "is kept without VFs by an override"
    return f"can't be split into {fixed.virtual_functions.profile}, as an override wants it"


def _not_watched(gpu: DeviceStatus, source: NodeRoomSource) -> str:
    """Why there is nothing to look on with: it has gone, or there are no device nodes that could be handed out."""
    if source.paused:
        return _PAUSED
    if any(sickness.cause == "DeviceAbsent" for sickness in gpu.sickness):
        return "has gone"
    if gpu.driver not in DRM_DRIVERS:
        return f"is bound to {gpu.driver or 'no driver'}"
    return "" if gpu.nodes.drm or gpu.nodes.mei else "has no device nodes"


def _leaving(source: NodeRoomSource) -> Mapping[str, frozenset[LogicalDevice]]:
    """What somebody has of each GPU on the node who doesn't, or not that, by the spec."""
    wanted = {(entry.name, _full_name(device)) for entry in source.entries for device in entry.devices}
    found: dict[str, set[LogicalDevice]] = {}
    for allocation in source.allocations:
        manual = allocation.origin == "alloc"
        for applied in allocation.devices:
            if applied.admin_access or (not manual and (allocation.name, applied.device) in wanted):
                continue
            logical = _parsed(applied.device)
            if logical is not None and logical.use is not Use.MONITOR:
                found.setdefault(logical.pf, set()).add(logical)
    return {gpu: frozenset(devices) for gpu, devices in found.items()}


def _full_name(device: EntryDevice) -> str:
    """The name of an entry's device with its VF's index: the one that the node calls it by."""
    function = device.virtual_function
    if function is None:
        return device.device
    return f"{device.physical_function}-{_mode(function.profile)}-vf{function.index}"


def _mode(profile: str) -> str:
    return profile.rsplit("_", 1)[-1]


def _parsed(name: str) -> LogicalDevice | None:
    try:
        return parse_logical_device(name)
    except ValueError:
        return None  # of a newer release, or a slip of somebody's editor


def _with_users(gpu: GpuRoom, users: Sequence[EntryDevice]) -> GpuRoom:
    """The GPU with more tenants. Where they have it in two ways at once nothing is left for others."""
    before = gpu.tenancy
    ways = {_way(device) for device in users} | ({(before.use, before.profile)} if before.use else set())
    way, *others = sorted(ways, key=str)
    use, profile = way
    if others or use is None:
        closed = "is claimed in more than one way, or in none that is known"
        return replace(gpu, barred={**gpu.barred, Use.WHOLE: closed, Use.SHARED: closed, Use.VF: closed})
    taken = (device.virtual_function.index for device in users if device.virtual_function is not None)
    tenancy = Tenancy(
        use=use,
        profile=profile,
        indexes=before.indexes.union(taken),
        memory=before.memory + sum(device.memory or 0 for device in users),
        millicores=before.millicores + sum(device.millicores or UNSET_MILLICORES for device in users),
    )
    return replace(gpu, tenancy=tenancy)


def _way(device: EntryDevice) -> tuple[Use | None, str]:
    """How an entry's device uses its GPU, and the VF layout; None where that can't be told."""
    if device.virtual_function is not None:
        return Use.VF, device.virtual_function.profile
    logical = _parsed(device.device)
    if logical is None or logical.use in (Use.VF, Use.MONITOR):
        return None, ""
    # Schedulers of structured parameters give shares of a GPU under its own name.
    shares = logical.use is Use.WHOLE and device.share_id and device.kernel_driver is KernelDriver.DRM
    return Use.SHARED if shares else logical.use, ""
