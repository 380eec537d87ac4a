"""The plan for a whole machine: what to do next, what has to wait and why, and how each allocation stands.

``plan`` is a pure function of what is wanted, what is seen, and the little that is remembered between passes
(failures that back off, and since when VFs have been unwanted). It is called again after every wave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from state.actions import Action, RemoveCdiSpec, WriteCdiSpec
from state.arbitration import Arbitration, arbitrate
from state.cdi import file_name
from state.cdi_planning import CdiPlan, plan_cdi
from state.desired import Desired, Origin, RefusedError, restore
from state.gpu_planning import Failure, GpuContext, GpuPlan, plan_gpu
from state.ids import DeviceName, Slot
from state.layouts import function_of
from state.observed import CdiFileSeen, Changing, Observed, PfSeen, Unreadable
from state.outcomes import Outcome, judge_outcomes
from state.profiles import ProfileTable
from state.records import AppliedDevice, Held, HeldClaim, Mark, OwnedBinding, OwnedLayout, Ownership
from state.usage import Holder, Usage, applied_slots

_Record = TypeVar("_Record", OwnedLayout, OwnedBinding)


class NotSynced:
    """No desired state has been read yet, so nothing may be taken away."""


NOT_SYNCED = NotSynced()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to plan. ``by_marks``: in a cluster, where the kubelet plugin's marks say what is in use.

    ``linger`` is how long VFs nobody wants are kept, unless the manifest's policy says. ``force_release`` are
    allocations that a person has declared unused. ``devfs`` prefixes host paths in CDI specs.
    """

    by_marks: bool = False
    linger: timedelta = timedelta(seconds=30)
    force_release: frozenset[str] = frozenset()
    devfs: str = "/dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is remembered between passes; a restart may forget it all.

    ``released`` has the nonces of marks that were released, from the last status: each is released once.
    """

    failures: Mapping[str, Failure] = field(default_factory=dict)
    idle_since: Mapping[DeviceName, datetime] = field(default_factory=dict)
    released: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Something wanted that can't be done now, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do next. Empty ``actions`` and ``look`` mean there is nothing to do but wait.

    ``ownership`` and ``held`` are the records as they must be on disk before the first action, None for
    "unchanged". ``look`` are GPUs whose users have to be looked up before anything can be said about them.
    ``nonces`` are those of marks whose devices are recorded, ``released`` those of marks to delete.
    """

    actions: tuple[Action, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    overridden: tuple[str, ...] = ()
    ownership: Ownership | None = None
    held: Held | None = None
    look: frozenset[DeviceName] = frozenset()
    nonces: Mapping[str, str] = field(default_factory=dict)
    released: Mapping[str, str] = field(default_factory=dict)
    idle_since: Mapping[DeviceName, datetime] = field(default_factory=dict)
    wake_at: datetime | None = None


def plan(
    desired: Desired | NotSynced,
    observed: Observed,
    memory: Memory,
    table: ProfileTable,
    options: Options,
    now: datetime,
) -> Plan:
    """What to do next on this machine. Pure: equal arguments give equal plans."""
    if isinstance(desired, NotSynced):
        return Plan(blocked=(Blocked(what="all changes", why="the desired state has not been read yet"),))
    return _Planning(desired, observed, memory, table, options, now).plan()


class _Planning:
    """One run of ``plan``; holds its arguments and what is derived from them once."""

    def __init__(
        self,
        desired: Desired,
        observed: Observed,
        memory: Memory,
        table: ProfileTable,
        options: Options,
        now: datetime,
    ) -> None:
        self.desired, self.observed, self.memory = desired, observed, memory
        self.table, self.options, self.now = table, options, now
        ownership = observed.ownership
        self.ownership = Ownership() if isinstance(ownership, Unreadable) else ownership
        self.marks: Mapping[str, Mark] = {} if isinstance(observed.marks, Unreadable) else observed.marks
        self.held_before = self._held_before()
        self.released, self.look_for_release = self._released()

    def plan(self) -> Plan:
        applied = self.ownership.applied
        court = arbitrate(
            self.desired, self.observed.gpus, self.table, applied, self.held_before, frozenset(self.released)
        )
        held = self._held_after(court)
        usage = self._usage(held)
        cdi = plan_cdi(
            court.served,
            self.observed,
            self.ownership.layouts,
            devfs=self.options.devfs,
            kept=self._kept_files(held, court),
        )
        gpus = {pf: self._plan_gpu(pf, gpu, court, usage, cdi) for pf, gpu in self._plannable(court)}
        ownership = self._ownership(gpus, court)
        outcomes = judge_outcomes(
            self.desired, court, cdi, gpus, self.memory.failures, self._in_use(held), self._leaving(ownership)
        )
        actions = self._actions(gpus.values(), cdi)
        look = {pf for pf, step in gpus.items() if step.look} | self.look_for_release
        return Plan(
            actions=() if self._frozen() else actions,
            blocked=(*self._blocked(court, gpus, cdi), *self._held_back(actions)),
            outcomes=outcomes,
            overridden=court.overridden,
            ownership=None if ownership == self.ownership or self._frozen() else ownership,
            held=None if held == self.observed.held or (self.observed.held is None and not held.claims) else held,
            look=frozenset(look),
            nonces={uid: held.claims[uid].nonce for uid in held.claims},
            released=self.released,
            idle_since={
                pf: self.memory.idle_since.get(pf, self.now) for pf, step in gpus.items() if step.lingering
            },
            wake_at=min((step.wake_at for step in gpus.values() if step.wake_at is not None), default=None),
        )

    def _leaving(self, ownership: Ownership) -> dict[str, tuple[AppliedDevice, ...]]:
        """What was given to allocations that are wanted no more and is not all taken back yet."""
        wanted = _wanted_keys(self.desired)
        return {key: record for key, record in ownership.applied.items() if key not in wanted}

    def _frozen(self) -> bool:
        """Whether nothing may be changed: paused by a person, or ownership is unknown."""
        return self.desired.paused or isinstance(self.observed.ownership, Unreadable)

    def _held_back(self, actions: Iterable[Action]) -> Iterable[Blocked]:
        if isinstance(self.observed.ownership, Unreadable):
            yield Blocked(what="all changes", why=f"what is ours can't be read: {self.observed.ownership}")
        elif self.desired.paused:
            for action in actions:
                yield Blocked(what=_what(action), why="paused (spec.paused)")

    # -- claims that hold devices --------------------------------------------------------------------------

    def _held_before(self) -> Held | None:
        """The held record, less the claims without a mark. None when there is no usable record."""
        held = self.observed.held
        if held is None or isinstance(held, Unreadable) or held.boot_id != self.observed.boot_id:
            return None
        claims = {
            uid: claim
            for uid, claim in held.claims.items()
            if uid in self.marks and self.marks[uid].boot_id == self.observed.boot_id
        }
        return Held(boot_id=held.boot_id, claims=claims)

    def _released(self) -> tuple[dict[str, str], set[DeviceName]]:
        """Marks of released claims that nobody is seen using; and the GPUs to look at before saying so."""
        released: dict[str, str] = {}
        look: set[DeviceName] = set()
        for uid in sorted(self.desired.releases):
            mark = self.marks.get(uid)
            nonce = "" if mark is None else mark.nonce
            before = self.memory.released.get(uid)
            if before is not None and mark is not None and before != nonce:
                released[uid] = before  # prepared again since: done once is done
                continue
            slots = self._slots_of_claim(uid)
            unseen = {slot.pf for slot in slots if slot.pf not in self.observed.users}
            look |= unseen
            if not unseen and not any(self._open_in(slot) for slot in slots):
                released[uid] = nonce
        return released, look

    def _slots_of_claim(self, uid: str) -> set[Slot]:
        record: tuple[AppliedDevice, ...] = self.ownership.applied.get(f"{Origin.CLAIM.value}-{uid}", ())
        if self.held_before is not None and uid in self.held_before.claims:
            record = self.held_before.claims[uid].devices
        try:
            return {device.slot for device in restore(record, self.observed.gpus, self.table)}
        except RefusedError:
            return set()

    def _open_in(self, slot: Slot) -> bool:
        return bool(self.observed.users[slot.pf].by_slot.get(slot))

    def _held_after(self, court: Arbitration) -> Held:
        """The held record for this pass: marked claims that are served, with the devices they get."""
        claims: dict[str, HeldClaim] = {}
        served = {entry.name: entry for entry in court.served if entry.origin is Origin.CLAIM}
        before = {} if self.held_before is None else self.held_before.claims
        for uid in sorted(self.marks):
            mark, entry = self.marks[uid], served.get(uid)
            if mark.boot_id != self.observed.boot_id or uid in self.released:
                continue
            if entry is not None and (entry.refusal is None or uid in before):
                devices = tuple(device.applied() for device in entry.devices)
                claims[uid] = HeldClaim(nonce=mark.nonce, devices=devices)
            elif uid in before:
                claims[uid] = before[uid]
        return Held(boot_id=self.observed.boot_id, claims=claims)

    # -- users ---------------------------------------------------------------------------------------------

    def _usage(self, held: Held) -> Usage:
        holders: dict[Slot, tuple[Holder, ...]] = {}
        for uid in sorted(held.claims):
            try:
                devices = restore(held.claims[uid].devices, self.observed.gpus, self.table)
            except RefusedError:
                continue
            for device in devices:
                holder = Holder(who=f"claim {uid}", looks_on=device.monitors)
                holders[device.slot] = (*holders.get(device.slot, ()), holder)
        return Usage(
            holders=holders,
            users=self.observed.users,
            applied=applied_slots(self.ownership.applied),
            by_marks=self.options.by_marks,
            forced=frozenset(f"{Origin.MANUAL.value}-{name}" for name in self.options.force_release),
            unclear=self._unclear(),
        )

    def _unclear(self) -> str | None:
        """Why nothing may be removed: marks or what they hold can't be read.

        A mark whose claim has no held record was never confirmed and holds nothing; but when the record of this
        boot itself is missing, nobody knows.
        """
        if isinstance(self.observed.marks, Unreadable):
            return f"in-use marks can't be read: {self.observed.marks}"
        if self.held_before is not None:
            return None
        unrecorded = sorted(uid for uid, mark in self.marks.items() if mark.boot_id == self.observed.boot_id)
        if not unrecorded:
            return None
        return f"what claim {unrecorded[0]} holds is not on record (held record missing or unreadable)"

    def _in_use(self, held: Held) -> frozenset[str]:
        return frozenset(f"{Origin.CLAIM.value}-{uid}" for uid in held.claims)

    def _kept_files(self, held: Held, court: Arbitration) -> frozenset[str]:
        """Keys of entries whose CDI file stays although they are not served now."""
        kept = {f"{Origin.CLAIM.value}-{uid}" for uid in held.claims}
        kept |= {entry.key for entry, _ in court.refused if entry.key in self.ownership.applied}
        if self._unclear() is not None:
            kept |= {f"{Origin.CLAIM.value}-{uid}" for uid in self.marks}
        return frozenset(kept)

    # -- GPUs ----------------------------------------------------------------------------------------------

    def _plannable(self, court: Arbitration) -> Iterable[tuple[DeviceName, PfSeen]]:
        for pf in sorted(self.observed.gpus):
            gpu = self.observed.gpus[pf]
            if isinstance(gpu, PfSeen) and pf not in court.hands_off:
                yield pf, gpu

    def _plan_gpu(self, pf: DeviceName, gpu: PfSeen, court: Arbitration, usage: Usage, cdi: CdiPlan) -> GpuPlan:
        linger = self.desired.policy.linger_seconds
        context = GpuContext(
            boot_id=self.observed.boot_id,
            now=self.now,
            usage=usage,
            kernel_drivers=self.observed.kernel_drivers,
            failures=self.memory.failures,
            layout=self.ownership.layouts.get(pf),
            binding=self.ownership.bindings.get(pf),
            stale_cdi=cdi.stale_on(pf, self.ownership.applied),
            idle_since=self.memory.idle_since.get(pf),
            linger=self.options.linger if linger is None else timedelta(seconds=linger),
        )
        return plan_gpu(gpu, court.demands.get(pf), context)

    def _actions(self, gpus: Iterable[GpuPlan], cdi: CdiPlan) -> tuple[Action, ...]:
        """Removals of CDI specs first, then each GPU's wave, then new CDI specs; each file once."""
        steps = [action for gpu in gpus for action in gpu.actions]
        unique = dict.fromkeys((*cdi.removals, *steps, *cdi.writes))
        files: set[str] = set()
        actions: list[Action] = []
        for action in unique:
            file = getattr(action, "file", None)
            if file is None or file not in files:
                actions.append(action)
            if file is not None:
                files.add(file)
        return tuple(actions)

    def _blocked(self, court: Arbitration, gpus: Mapping[DeviceName, GpuPlan], cdi: CdiPlan) -> Iterable[Blocked]:
        if cdi.blocked is not None:
            yield Blocked(what="CDI spec files", why=cdi.blocked)
        for path in self.observed.unreadable:
            yield Blocked(what=path.path, why=path.why)
        for refusal in self.desired.refused_overrides:
            yield Blocked(what=refusal.path, why=str(refusal))
        for pf, why in court.blocked_overrides:
            yield Blocked(what=f"override of {pf}", why=why)
        for waiting in court.waiting:
            yield Blocked(what=str(waiting.entry), why=waiting.why)
        for pf, step in gpus.items():
            if step.blocked is not None:
                yield Blocked(what=pf, why=step.blocked)
            for slot, why in sorted(step.slot_blocked.items()):
                yield Blocked(what=str(slot), why=why)

    # -- records -------------------------------------------------------------------------------------------

    def _ownership(self, gpus: Mapping[DeviceName, GpuPlan], court: Arbitration) -> Ownership:
        layouts, bindings = dict(self.ownership.layouts), dict(self.ownership.bindings)
        for pf, step in gpus.items():
            _put(layouts, pf, step.layout)
            _put(bindings, pf, step.binding)
        return Ownership(
            layouts=dict(sorted(layouts.items())),
            bindings=dict(sorted(bindings.items())),
            applied=self._applied(court),
            withdrawals=self.ownership.withdrawals,
        )

    def _applied(self, court: Arbitration) -> dict[str, tuple[AppliedDevice, ...]]:
        """What was given out last: that of every entry served, and what may still be in use."""
        applied = {
            entry.key: tuple(device.applied() for device in entry.devices)
            for entry in court.served
            if entry.devices
        }
        known = _wanted_keys(self.desired)
        for key, record in self.ownership.applied.items():
            if key not in applied and (key in known or self._may_be_in_use(key, record)):
                applied[key] = record
        return dict(sorted(applied.items()))

    def _may_be_in_use(self, key: str, record: tuple[AppliedDevice, ...]) -> bool:
        """Whether somebody could still be using what was given to an allocation that is wanted no more."""
        if any(seen.name == file_name(key) for seen in _files(self.observed)):
            return True
        if self.options.by_marks:
            return False
        return any(self._slot_may_be_in_use(slot) for slot in applied_slots({key: record}))

    def _slot_may_be_in_use(self, slot: Slot) -> bool:
        gpu = self.observed.gpus.get(slot.pf)
        if gpu is None or isinstance(gpu, Changing):
            return gpu is not None
        if slot.is_vf and not _exists(gpu, slot):
            return False
        users = self.observed.users.get(slot.pf)
        return users is None or users.hidden is not None or bool(users.by_slot.get(slot))


def _files(observed: Observed) -> Iterable[CdiFileSeen]:
    return () if isinstance(observed.cdi, Unreadable) else observed.cdi


def _exists(gpu: PfSeen, slot: Slot) -> bool:
    if isinstance(gpu.sriov, Unreadable):
        return True
    return function_of(gpu, slot.vf) is not None


def _put(records: dict[str, _Record], pf: DeviceName, record: _Record | None) -> None:
    if record is None:
        records.pop(pf, None)
    else:
        records[pf] = record


def _what(action: Action) -> str:
    match action:
        case RemoveCdiSpec() | WriteCdiSpec():
            return str(action)
        case _:
            return f"{action.pf}: {action}"


def _wanted_keys(desired: Desired) -> set[str]:
    return {entry.key for entry in desired.entries} | {entry.key for entry in desired.refused}
