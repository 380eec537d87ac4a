"""Who is using what, and whether something may be disturbed.

Marks are what the kubelet plugin says, open device nodes what processes do. The rules, from DESIGN: marks and
open nodes of a VF keep it and all VFs beside it; open nodes of the GPU itself (monitoring) only keep its own
driver bound. Without marks (a machine outside a cluster) what was last given to an allocation counts as in
use while its nodes are open, or for good where processes can't be seen.

Records of what was given count only while the devices are there as they were given. A claim that still waits
for its VFs does not hold those of another layout that stand in its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace

from state.ids import DeviceName, LogicalDevice, Slot, Use, parse_logical_device
from state.layouts import function_of
from state.manifest import KernelDriver
from state.observed import DRM_DRIVERS, Changing, PfSeen, SriovSeen, Unreadable, UsersSeen
from state.records import AppliedDevice, OwnedLayout

_DRIVERS = {
    KernelDriver.DRM.value: DRM_DRIVERS,
    KernelDriver.VFIO.value: ("vfio-pci",),
    KernelDriver.XE_VFIO.value: ("xe-vfio-pci",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who was given a slot: ``key`` of the allocation. ``looks_on`` for admin access and monitors."""

    key: str
    use: Use
    looks_on: bool = False

    def __str__(self) -> str:
        origin, _, name = self.key.partition("-")
        return f"claim {name}" if origin == "claim" else f"allocation {name}"


Holders = Mapping[Slot, tuple[Holder, ...]]


class LookFirst:
    """The answer "unknown": somebody has to look who has the nodes of this GPU open."""


LOOK_FIRST = LookFirst()
Verdict = str | LookFirst | None
"""Why something is in use; that one has to look; or None, it is free."""


def holders_of(
    records: Mapping[str, tuple[AppliedDevice, ...]],
    gpus: Mapping[DeviceName, PfSeen | Changing],
    layouts: Mapping[str, OwnedLayout],
) -> dict[Slot, tuple[Holder, ...]]:
    """Who was given what, by allocation key, as far as it is still there as it was given."""
    holders: dict[Slot, tuple[Holder, ...]] = {}
    for key in sorted(records):
        for device, logical in _readable(records[key]):
            seen = gpus.get(logical.pf)
            gpu = seen.last if isinstance(seen, Changing) else seen
            if gpu is None or not _stands(device, logical, gpu, layouts.get(logical.pf)):
                continue
            slot = slot_of(logical)
            looks_on = device.admin_access or logical.use is Use.MONITOR
            holder = Holder(key=key, use=logical.use, looks_on=looks_on)
            holders[slot] = (*holders.get(slot, ()), holder)
    return holders


def logical_of(device: AppliedDevice) -> LogicalDevice:
    """What a record is about. Raises ValueError if its device is no name of ours.

    A GPU that is offered as one device for several claims bears the whole GPU's name. What a scheduler gave of it,
    told by the id of the share, is a share like any other; only for another kernel driver it has to be all of it.
    """
    logical = parse_logical_device(device.device)
    if logical.use is Use.WHOLE and device.share_id and device.kernel_driver == KernelDriver.DRM.value:
        return replace(logical, use=Use.SHARED)
    return logical


def slot_of(logical: LogicalDevice) -> Slot:
    """The PCI function behind a logical device."""
    return Slot(pf=logical.pf, vf=-1 if logical.index is None else logical.index)


def gpus_of(record: Iterable[AppliedDevice]) -> frozenset[DeviceName]:
    """The GPUs that a record is about."""
    return frozenset(logical.pf for _, logical in _readable(record))


Places = Mapping[tuple[Slot, str], Use]
"""Functions given out, by slot and VF profile ("" for the GPU itself): VF 0 of another layout is another one."""


def without_places(record: tuple[AppliedDevice, ...], taken: Places) -> tuple[AppliedDevice, ...]:
    """A record without what others have been given since; shares of one GPU go together."""
    gone = {device for device, logical in _readable(record) if _is_taken(device, logical, taken)}
    return tuple(device for device in record if device not in gone) if gone else record


def _is_taken(device: AppliedDevice, logical: LogicalDevice, taken: Places) -> bool:
    use = taken.get((slot_of(logical), device.profile))
    if use is None or device.admin_access or logical.use is Use.MONITOR:
        return False
    return not use is logical.use is Use.SHARED


def _readable(record: Iterable[AppliedDevice]) -> Iterator[tuple[AppliedDevice, LogicalDevice]]:
    for device in record:
        try:
            yield device, logical_of(device)
        except ValueError:
            continue  # written by a newer version: not a device this one could disturb by name


def _stands(device: AppliedDevice, logical: LogicalDevice, gpu: PfSeen, layout: OwnedLayout | None) -> bool:
    """Whether the device is there as it was given. What can't be read is taken to be."""
    slot = slot_of(logical)
    if slot.is_vf and isinstance(gpu.sriov, Unreadable):
        return True
    enabled = gpu.sriov.enabled if isinstance(gpu.sriov, SriovSeen) else 0
    if slot.is_vf and layout is not None and (layout.profile, layout.count) != (device.profile, enabled):
        return False  # there are other VFs than those it was about, which are gone
    function = function_of(gpu, slot.vf)
    if function is None:
        return False
    return isinstance(function.driver, Unreadable) or function.driver in _DRIVERS.get(device.kernel_driver, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Everything known about users. ``unclear`` says why nothing may be disturbed at all, if so.

    ``marked`` are prepared claims. ``given`` are all allocations that were served last, wanted still or not; in
    a cluster there are none, as marks decide there when processes can't be seen. ``forced`` are keys of
    allocations that a person has declared unused.
    """

    marked: Holders
    given: Holders
    users: Mapping[DeviceName, UsersSeen]
    forced: frozenset[str] = field(default_factory=frozenset)
    unclear: str | None = None

    def of_vfs(self, pf: DeviceName, indexes: Iterable[int]) -> Verdict:
        """Why the VFs of a GPU can't be turned off."""
        slots = [Slot(pf=pf, vf=index) for index in indexes]
        return self.unclear or self._marked(slots, unbinding=False) or self._open(pf, slots)

    def of_enabling(self, pf: DeviceName) -> Verdict:
        """Why VFs can't be turned on: somebody has the whole GPU, or a share of it."""
        slot = Slot(pf=pf)
        marked = self.unclear or self._marked([slot], unbinding=False)
        if marked is not None or not self._given(slot):
            return marked
        return self._open(pf, [slot])

    def of_unbinding(self, slot: Slot) -> Verdict:
        """Why a function can't be taken away from its driver."""
        return self.unclear or self._marked([slot], unbinding=True) or self._open(slot.pf, [slot])

    def of_giving(self, slot: Slot, use: Use, asking: str, served: Set[str]) -> Verdict:
        """Why ``asking`` can't be given a function: another who had it, and is not ``served`` now, has it open."""
        before = [holder for holder in self._given(slot) if holder.key != asking and holder.key not in served]
        if all(use is holder.use is Use.SHARED for holder in before):
            return None
        return self._open(slot.pf, [slot])

    def _given(self, slot: Slot) -> list[Holder]:
        """Allocations that may be using a function because they were given it."""
        holders = self.given.get(slot, ())
        return [holder for holder in holders if not holder.looks_on and holder.key not in self.forced]

    def _marked(self, slots: list[Slot], *, unbinding: bool) -> str | None:
        for slot in slots:
            for holder in self.marked.get(slot, ()):
                if unbinding or not holder.looks_on:
                    return f"{slot} is in use by {holder}"
        return None

    def _open(self, pf: DeviceName, slots: list[Slot]) -> Verdict:
        seen = self.users.get(pf)
        if seen is None:
            return LOOK_FIRST
        for slot in slots:
            processes = seen.by_slot.get(slot, ())
            if processes:
                return f"{slot} is open in {processes[0]}"
            given = self._given(slot)
            if seen.hidden is not None and given:
                name = given[0].key.removeprefix("alloc-")
                return (
                    f"{slot} was given to {name} and its users can't be seen: {seen.hidden}; "
                    f"once it is free, say --force-release {name}"
                )
        return None
