"""Claims that hold devices: marks of the kubelet plugin, what was confirmed to them, and what ends that.

A mark says that a claim was, or is being, prepared. What it holds stands in the held record, which is written
before the mark's nonce is echoed. A mark without a held record was never confirmed and holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from state.desired import Entry, Origin
from state.ids import DeviceName, Slot
from state.observed import Observed, Unreadable
from state.records import AppliedDevice, Held, HeldClaim, Mark, OwnedLayout, Ownership
from state.usage import holders_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Claims with a mark, before anything is weighed.

    ``marks`` are those of this boot. ``held`` is what marked claims hold; ``absent`` are claims that count as
    gone because a person released them, or their marks are ``stale``. ``released`` has the nonces of marks to
    delete ("" where there was none), ``look`` the GPUs whose users have to be seen before a claim can be released.
    """

    observed: Observed
    marks: Mapping[str, Mark]
    held: Held
    absent: frozenset[str]
    released: Mapping[str, str]
    look: frozenset[DeviceName]
    stale: frozenset[str]

    @classmethod
    def of(
        cls,
        observed: Observed,
        ownership: Ownership,
        layouts: Mapping[str, OwnedLayout],
        releases: Iterable[str],
        released_before: Mapping[str, str],
        stale: Set[str] = frozenset(),
    ) -> Claims:
        """Judge marks and releases. ``released_before`` are the nonces of earlier passes: each is done once.

        ``stale`` are claims to release although nobody said so: only if it is seen that nobody uses them.
        """
        marks = marks_of(observed)
        held = _held(observed, marks, ownership)
        absent: set[str] = set()
        released: dict[str, str] = {}
        look: set[DeviceName] = set()
        asked = frozenset(releases)
        for uid in sorted(asked | stale):
            nonce = marks[uid].nonce if uid in marks else ""
            before = released_before.get(uid)
            if before is not None and (uid in asked or nonce == before):
                released[uid] = before
                if nonce in ("", before):
                    absent.add(uid)  # else it has been prepared again since
                continue
            slots = _slots(uid, observed, held, ownership, layouts)
            look.update(slot.pf for slot in slots if slot.pf not in observed.users)
            if _unused(slots, observed, surely=uid not in asked):
                released[uid] = nonce
                absent.add(uid)
        return cls(
            observed=observed,
            marks=marks,
            held=held,
            absent=frozenset(absent),
            released=released,
            look=frozenset(look),
            stale=frozenset(absent - asked),
        )

    def held_after(self, served: Iterable[Entry]) -> Held:
        """The held record for this pass: marked claims that are served, with the devices they get."""
        if isinstance(self.observed.marks, Unreadable):
            return self.held
        entries = {entry.name: entry for entry in served if entry.origin is Origin.CLAIM}
        claims: dict[str, HeldClaim] = {}
        for uid, mark in self.marks.items():
            entry, before = entries.get(uid), self.held.claims.get(uid)
            if uid in self.absent:
                continue
            if entry is not None and (entry.refusal is None or before is not None):
                claims[uid] = HeldClaim(nonce=mark.nonce, devices=entry.records)
            elif before is not None:
                claims[uid] = before
        return Held(boot_id=self.observed.boot_id, claims=claims)

    def is_news(self, held: Held) -> bool:
        """Whether the record on disk has to be written anew.

        One that holds nothing is written too, before the first mark comes: its absence then means that it was
        lost. With marks there that it says nothing of, it might have been lost just now.
        """
        before = self.observed.held
        if isinstance(self.observed.marks, Unreadable):
            return False
        if before is None and not held.claims:
            return not self._unrecorded(held)
        return held != before

    def _unrecorded(self, held: Held) -> list[str]:
        return [uid for uid in self.marks if uid not in held.claims and uid not in self.absent]

    def unclear(self, held: Held) -> str | None:
        """Why nothing may be disturbed: marks, or what they hold, can't be read.

        When the record of this boot itself is missing, nobody knows what a mark that is not in it holds.
        """
        if isinstance(self.observed.marks, Unreadable):
            return f"in-use marks can't be read: {self.observed.marks}"
        if _usable(self.observed) is not None:
            return None
        unrecorded = self._unrecorded(held)
        if not unrecorded:
            return None
        return f"what claim {unrecorded[0]} holds is not on record (held record missing or unreadable)"


def marks_of(observed: Observed) -> dict[str, Mark]:
    """The marks of this boot, by claim UID: a reboot has ended every use."""
    seen = {} if isinstance(observed.marks, Unreadable) else observed.marks
    return {uid: mark for uid, mark in sorted(seen.items()) if mark.boot_id == observed.boot_id}


def _usable(observed: Observed) -> Held | None:
    held = observed.held
    return held if isinstance(held, Held) and held.boot_id == observed.boot_id else None


def _held(observed: Observed, marks: Mapping[str, Mark], ownership: Ownership) -> Held:
    """What marked claims hold; from the ownership record where the held record was lost."""
    record = _usable(observed)
    if record is None:
        applied = {uid: ownership.applied.get(Origin.CLAIM.key(uid)) for uid in marks}
        claims = {
            uid: HeldClaim(nonce=marks[uid].nonce, devices=devices)
            for uid, devices in applied.items()
            if devices is not None
        }
    elif isinstance(observed.marks, Unreadable):
        claims = dict(record.claims)
    else:
        # Another nonce means that the claim was given back in between.
        claims = {
            uid: claim for uid, claim in record.claims.items() if uid in marks and marks[uid].nonce == claim.nonce
        }
    return Held(boot_id=observed.boot_id, claims=claims)


def _unused(slots: Iterable[Slot], observed: Observed, *, surely: bool) -> bool:
    """Whether nobody is seen to use any of them; ``surely``: where nobody could be seen, that means nothing."""
    for slot in slots:
        users = observed.users.get(slot.pf)
        if users is None or users.by_slot.get(slot) or (surely and users.hidden is not None):
            return False
    return True


def _slots(
    uid: str, observed: Observed, held: Held, ownership: Ownership, layouts: Mapping[str, OwnedLayout]
) -> Iterable[Slot]:
    """Where a claim's devices are, as far as they are still there."""
    key = Origin.CLAIM.key(uid)
    record: tuple[AppliedDevice, ...] = ownership.applied.get(key, ())
    if uid in held.claims:
        record = held.claims[uid].devices
    return holders_of({key: record}, observed.gpus, layouts).keys()
