"""What goes on record of a plan, before it is carried out: what is ours by then, and who was given what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from state.arbitration import Arbitration
from state.cdi import key_of
from state.cdi_planning import CdiPlan
from state.desired import Entry
from state.gpu_planning import GpuPlan
from state.ids import DeviceName
from state.observed import Observed, PfSeen, Unreadable
from state.records import AppliedDevice, OwnedBinding, OwnedLayout, Ownership
from state.usage import Holders, LookFirst, Places, Usage, without_places
from state.withdrawing import Withdrawals

_Record = TypeVar("_Record", OwnedLayout, OwnedBinding)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Makes the next ownership record out of the one ``before``.

    Of that, ``layouts`` and ``bindings`` still count in this boot. ``wanted`` are the keys of all allocations that
    count, ``given`` says who was given what, and ``usage`` who uses it as far as can be told without marks.
    """

    before: Ownership
    layouts: Mapping[str, OwnedLayout]
    bindings: Mapping[str, OwnedBinding]
    observed: Observed
    wanted: Set[str]
    given: Holders
    usage: Usage
    withdrawals: Withdrawals
    now: datetime

    def ownership(
        self, gpus: Mapping[DeviceName, GpuPlan], court: Arbitration, cdi: CdiPlan, look: set[DeviceName]
    ) -> Ownership:
        """The record. GPUs whose users have to be seen before it can be told are added to ``look``."""
        layouts, bindings = dict(self.layouts), dict(self.bindings)
        for pf, step in gpus.items():
            _put(layouts, pf, step.layout)
            _put(bindings, pf, step.binding)
        applied = self._applied(court, cdi, look)
        return Ownership(
            layouts=dict(sorted(layouts.items())),
            bindings=dict(sorted(bindings.items())),
            applied=applied,
            applied_boot_id=self.observed.boot_id if applied else "",
            withdrawals=self.withdrawals.after(
                court.rejected, self.observed.gpus, self.observed.boot_id, self.now
            ),
        )

    def _applied(
        self, court: Arbitration, cdi: CdiPlan, look: set[DeviceName]
    ) -> dict[str, tuple[AppliedDevice, ...]]:
        """What was given out last: that of every entry served, and what may still be in use."""
        files = () if isinstance(self.observed.cdi, Unreadable) else self.observed.cdi
        filed = {key_of(seen.name) for seen in files}
        # As long as a spec file is not as it should be, it may give out what the entry had before.
        outdated = {key for key in filed if key in cdi.states and not cdi.states[key].written}
        before = {key: self.before.applied.get(key, ()) for key in outdated}
        applied = {
            entry.key: _with_all_of(entry.records, before.get(entry.key, ()))
            for entry in court.served
            if entry.devices
        }
        kept = self.wanted | filed | self._still_open(look)
        taken = places_given(court.served)
        for key, record in self.before.applied.items():
            left = record if key in filed else without_places(record, taken)
            if key in kept and left:
                applied.setdefault(key, left)
        return dict(sorted(applied.items()))

    def _still_open(self, look: set[DeviceName]) -> set[str]:
        """Outside a cluster: allocations that are wanted no more, but whose devices may be open still."""
        still_open: set[str] = set()
        for slot in self.given:
            for key in {holder.key for holder in self.given[slot] if not holder.looks_on} - self.wanted:
                verdict = self.usage.of_unbinding(slot) if key not in self.usage.forced else None
                if isinstance(verdict, LookFirst) and isinstance(self.observed.gpus[slot.pf], PfSeen):
                    look.add(slot.pf)
                if verdict is not None:
                    still_open.add(key)
        return still_open


def places_given(served: Iterable[Entry]) -> Places:
    """The functions that entries are given, but for those they only look on."""
    return {
        (device.slot, device.record.profile): device.logical.use
        for entry in served
        for device in entry.devices
        if not device.monitors
    }


def _with_all_of(
    record: tuple[AppliedDevice, ...], before: tuple[AppliedDevice, ...]
) -> tuple[AppliedDevice, ...]:
    return (*record, *(device for device in before if device not in record))


def _put(records: dict[str, _Record], pf: DeviceName, record: _Record | None) -> None:
    if record is None:
        records.pop(pf, None)
    else:
        records[pf] = record
