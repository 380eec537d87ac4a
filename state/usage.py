"""Who is using what, and whether something may be disturbed.

Marks are what the kubelet plugin says, open device nodes what processes do. The rules, from DESIGN: marks and
open nodes of a VF keep it and all VFs beside it; open nodes of the GPU itself (monitoring) only keep its own
driver bound. Without marks (a machine outside a cluster) what was last given to an allocation counts as in
use while its nodes are open, or for good where processes can't be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from state.ids import DeviceName, Slot, Use, parse_logical_device
from state.observed import OpenNode, UsersSeen
from state.records import AppliedDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A prepared claim on a slot. ``looks_on`` for admin access, which only keeps the driver bound."""

    who: str
    looks_on: bool


class LookFirst:
    """The answer "unknown": somebody has to look who has the nodes of this GPU open."""


LOOK_FIRST = LookFirst()
Verdict = str | LookFirst | None
"""Why something is in use; that one has to look; or None, it is free."""


def applied_slots(applied: Mapping[str, tuple[AppliedDevice, ...]]) -> dict[Slot, tuple[str, ...]]:
    """Slots that were last given to allocations, with the keys of those. Monitors don't count."""
    slots: dict[Slot, tuple[str, ...]] = {}
    for key in sorted(applied):
        for device in applied[key]:
            try:
                logical = parse_logical_device(device.device)
            except ValueError:
                continue  # written by a newer version: not a device this one could disturb by name
            if logical.use is Use.MONITOR:
                continue
            slot = Slot(pf=logical.pf, vf=-1 if logical.index is None else logical.index)
            slots[slot] = (*slots.get(slot, ()), key)
    return slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Everything known about users. ``unclear`` says why any removal at all has to wait, if so.

    ``by_marks`` is True in a cluster, where marks decide for devices whose processes can't be seen.
    ``forced`` are keys of allocations that a person has declared unused.
    """

    holders: Mapping[Slot, tuple[Holder, ...]]
    users: Mapping[DeviceName, UsersSeen]
    applied: Mapping[Slot, tuple[str, ...]]
    by_marks: bool
    forced: frozenset[str] = field(default_factory=frozenset)
    unclear: str | None = None

    def of_vfs(self, pf: DeviceName, indexes: Iterable[int]) -> Verdict:
        """Why the VFs of a GPU can't be turned off."""
        if self.unclear is not None:
            return self.unclear
        slots = [Slot(pf=pf, vf=index) for index in indexes]
        return self._held(slots, unbinding=False) or self._open(pf, slots)

    def of_enabling(self, pf: DeviceName) -> Verdict:
        """Why VFs can't be turned on: somebody has the whole GPU, or a share of it."""
        slot = Slot(pf=pf)
        held = self._held([slot], unbinding=False)
        if held is not None or self.by_marks or slot not in self.applied:
            return held
        return self._open(pf, [slot])

    def of_unbinding(self, slot: Slot) -> Verdict:
        """Why a function can't be taken away from its driver."""
        if self.unclear is not None:
            return self.unclear
        return self._held([slot], unbinding=True) or self._open(slot.pf, [slot])

    def _held(self, slots: list[Slot], *, unbinding: bool) -> str | None:
        for slot in slots:
            for holder in self.holders.get(slot, ()):
                if unbinding or not holder.looks_on:
                    return f"{slot} is in use by {holder.who}"
        return None

    def _open(self, pf: DeviceName, slots: list[Slot]) -> Verdict:
        seen = self.users.get(pf)
        if seen is None:
            return LOOK_FIRST
        for slot in slots:
            processes: tuple[OpenNode, ...] = seen.by_slot.get(slot, ())
            keys = [key for key in self.applied.get(slot, ()) if key not in self.forced]
            if processes:
                return f"{slot} is open in {processes[0]}"
            if seen.hidden is not None and keys and not self.by_marks:
                name = keys[0].removeprefix("alloc-")
                return (
                    f"{slot} was given to {name} and its users can't be seen: {seen.hidden}; "
                    f"once it is free, say --force-release {name}"
                )
        return None
