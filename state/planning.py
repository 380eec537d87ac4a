"""The plan for a whole machine: what to do next, what has to wait and why, and how each allocation stands.

``plan`` is a pure function of what is wanted, what is seen, and the little that is remembered between passes
(failures that back off, and since when VFs have been unwanted). It is called again after every wave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from state.actions import Action, RemoveCdiSpec, unit_of
from state.arbitration import Arbitration, Standing, arbitrate
from state.cdi import key_of
from state.cdi_planning import CdiPlan, plan_cdi
from state.claims import Claims, marks_of
from state.desired import Desired, Entry, Origin
from state.gpu_planning import Failure, GpuContext, GpuPlan, plan_gpu
from state.ids import DeviceName, Slot, parse_device_name
from state.layouts import has_layout
from state.observed import Changing, Observed, PfSeen, SriovSeen, Unreadable
from state.outcomes import Frozen, Outcome, OutcomeJudge, Phase
from state.profiles import ProfileTable
from state.readiness import Readiness
from state.recording import Recording, places_given
from state.records import Held, OwnedBinding, OwnedLayout, Ownership
from state.stale_marks import Abandoned, abandoned
from state.usage import Holders, LookFirst, Usage, Verdict, holders_of, without_places
from state.wanted import WantedDevice
from state.withdrawing import Withdrawals

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
    ``abandoned_since`` is when claims with a mark that a kubelet may forget were first seen to be wanted no more.
    """

    failures: Mapping[str, Failure] = field(default_factory=dict)
    idle_since: Mapping[DeviceName, datetime] = field(default_factory=dict)
    released: Mapping[str, str] = field(default_factory=dict)
    abandoned_since: Mapping[str, datetime] = field(default_factory=dict)


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
    ``nonces`` are those of marks whose devices are recorded, ``released`` those of marks to delete, of which
    ``stale`` were released by nobody.
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
    stale: frozenset[str] = frozenset()
    idle_since: Mapping[DeviceName, datetime] = field(default_factory=dict)
    abandoned_since: Mapping[str, datetime] = field(default_factory=dict)
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
        unread = Blocked(what="all changes", why="the desired state has not been read yet")
        return Plan(
            blocked=(unread,),
            released=memory.released,
            idle_since=memory.idle_since,
            abandoned_since=memory.abandoned_since,
        )
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
        self.layouts = self._our_layouts()
        self.bindings = self._of_this_boot(self.ownership.bindings)
        recent = self._given_in_this_boot()
        # In a cluster marks decide, so that what was given out without one matters to nobody.
        self.recent = recent
        self.given = holders_of({} if options.by_marks else recent.applied, observed.gpus, self.layouts)
        self.abandoned = self._abandoned()
        self.claims = Claims.of(
            observed, recent, self.layouts, desired.releases, memory.released, self.abandoned.stale
        )
        self.withdrawals = Withdrawals.of(desired, self.ownership.withdrawals, needed=options.by_marks)
        self.wanted = desired.keys - {Origin.CLAIM.key(uid) for uid in self.claims.absent}

    def plan(self) -> Plan:
        """The whole plan: who gets what, then each GPU's wave, then CDI specs and records."""
        look: set[DeviceName] = set(self.claims.look)
        court = self._arbitrate(look)
        self._adopt(court)
        held = self.claims.held_after(court.served)
        unclear = self.claims.unclear(held)
        usage = replace(self._usage(), marked=self._marked(held), unclear=unclear)
        cdi = self._plan_cdi(court, held, unclear=unclear is not None)
        gpus = {pf: self._plan_gpu(pf, gpu, court, usage, cdi) for pf, gpu in self._plannable(court)}
        ownership = self._recording().ownership(gpus, court, cdi, look)
        frozen = self._frozen()
        touched = frozenset() if frozen is not None else _touched(court.served, gpus)
        actions = self._actions(gpus, cdi, touched)
        look.update(pf for pf, step in gpus.items() if step.look)
        return Plan(
            actions=actions if frozen is None else (),
            blocked=(*self._blocked(court, gpus, cdi), *self._held_back(actions, frozen)),
            outcomes=self._outcomes(court, cdi, gpus, held, ownership, touched, frozen),
            overridden=court.overridden,
            ownership=ownership if frozen is None and ownership != self.ownership else None,
            held=held if self._held_is_news(held) else None,
            look=frozenset(look),
            nonces={uid: held.claims[uid].nonce for uid in held.claims},
            released=self.claims.released,
            stale=self.claims.stale,
            idle_since=self._idle_since(gpus),
            abandoned_since=self.abandoned.since,
            wake_at=min(self._wakes(gpus), default=None),
        )

    def _of_this_boot(self, records: Mapping[str, _Record]) -> dict[str, _Record]:
        """Records of an earlier boot count for nothing: VFs and bindings don't survive one."""
        return {pf: record for pf, record in records.items() if record.boot_id == self.observed.boot_id}

    def _given_in_this_boot(self) -> Ownership:
        """The record without what was given out before a reboot, which has ended every use."""
        if self.ownership.applied_boot_id == self.observed.boot_id:
            return self.ownership
        return msgspec.structs.replace(self.ownership, applied={})

    def _our_layouts(self) -> dict[str, OwnedLayout]:
        """The layouts we made. Where there are more VFs than we ever made, somebody else has made them."""
        layouts = self._of_this_boot(self.ownership.layouts)
        for pf, gpu in self.observed.gpus.items():
            sriov = gpu.sriov if isinstance(gpu, PfSeen) else None
            if isinstance(sriov, SriovSeen) and pf in layouts and sriov.enabled > layouts[pf].count:
                del layouts[pf]
        return layouts

    def _abandoned(self) -> Abandoned:
        marks, keys = marks_of(self.observed), self.desired.keys
        return abandoned(
            marks,
            {uid for uid in marks if Origin.CLAIM.key(uid) in keys},
            self.memory.abandoned_since,
            self.memory.released,
            self.now,
            registered=self.observed.registered,
        )

    def _held_is_news(self, held: Held) -> bool:
        """Whether the held record is to be written; outside a cluster not before there is a claim."""
        first = self.observed.held is None and not held.claims
        return self.claims.is_news(held) and (self.options.by_marks or not first)

    def _frozen(self) -> Frozen | None:
        """Whether nothing may be changed: paused by a person, or ownership is unknown."""
        if isinstance(self.observed.ownership, Unreadable):
            why = f"what is ours can't be read: {self.observed.ownership}"
            return Frozen(phase=Phase.BLOCKED, why=why)
        return Frozen(phase=Phase.PENDING, why="paused (spec.paused)") if self.desired.paused else None

    # -- who gets what -------------------------------------------------------------------------------------

    def _arbitrate(self, look: set[DeviceName]) -> Arbitration:
        usage = self._usage()

        def open_still(slot: Slot, verdict: Verdict) -> str | None:
            if isinstance(verdict, LookFirst):
                look.add(slot.pf)
                return f"{slot} may still be open"
            return verdict

        def still_open(entry: Entry, device: WantedDevice, served: Set[str]) -> str | None:
            for slot in self._left_by(entry):
                why = open_still(slot, usage.of_unbinding(slot))
                if slot.pf in look:
                    # Who gets what, and so whom to look at, follows from the answer: one look at all tells it.
                    look.update(self._not_looked_at())
                if why is not None:
                    return why
            if device.monitors:
                return None
            layout = self.layouts.get(device.logical.pf)
            if device.profile is not None and (layout is None or layout.profile != device.profile.name):
                return None  # the VF that is wanted has yet to be made
            slot = device.slot
            return open_still(slot, usage.of_giving(slot, device.logical.use, entry.key, served))

        standing = Standing(
            applied=self.ownership.applied,
            held=self.claims.held,
            released=self.claims.absent,
            withdrawals=self.withdrawals,
        )
        return arbitrate(self.desired, self.observed.gpus, self.table, standing, still_open)

    def _not_looked_at(self) -> Iterable[DeviceName]:
        gpus = self.observed.gpus
        return (pf for pf in gpus if isinstance(gpus[pf], PfSeen) and pf not in self.observed.users)

    def _left_by(self, entry: Entry) -> Iterable[Slot]:
        """Outside a cluster: functions that an entry was given and wants no more; its user may have them open."""
        if self.options.by_marks or entry.name in self.options.force_release:
            return ()
        wanted = {(record.device, record.kernel_driver) for record in entry.records}
        given = self.recent.applied.get(entry.key, ())
        left = tuple(record for record in given if (record.device, record.kernel_driver) not in wanted)
        holders = holders_of({entry.key: left}, self.observed.gpus, self.layouts)
        return [slot for slot, (holder, *_) in holders.items() if not holder.looks_on]

    def _adopt(self, court: Arbitration) -> None:
        """Take over VFs that somebody else made where an override names exactly their layout."""
        for pf, demand in court.demands.items():
            gpu = self.observed.gpus[pf]
            if not demand.adopt or demand.profile is None or pf in self.layouts or isinstance(gpu, Changing):
                continue
            if has_layout(gpu, demand.profile):
                name, count = demand.profile.name, demand.profile.count
                self.layouts[pf] = OwnedLayout(profile=name, count=count, boot_id=self.observed.boot_id)

    def _usage(self) -> Usage:
        """Who uses what, as far as processes and what was given out tell; marks come on top."""
        return Usage(
            marked={},
            given=self.given,
            users=self.observed.users,
            forced=frozenset(Origin.MANUAL.key(name) for name in self.options.force_release),
        )

    def _recording(self) -> Recording:
        return Recording(
            before=self.ownership,
            layouts=self.layouts,
            bindings=self.bindings,
            observed=self.observed,
            wanted=self.wanted,
            given=self.given,
            usage=self._usage(),
            withdrawals=self.withdrawals,
            now=self.now,
        )

    def _marked(self, held: Held) -> Holders:
        records = {Origin.CLAIM.key(uid): claim.devices for uid, claim in held.claims.items()}
        return holders_of(records, self.observed.gpus, self.layouts)

    # -- CDI and GPUs --------------------------------------------------------------------------------------

    def _plan_cdi(self, court: Arbitration, held: Held, *, unclear: bool) -> CdiPlan:
        readable = not isinstance(self.observed.ownership, Unreadable)
        kept = {Origin.CLAIM.key(uid) for uid in held.claims}
        kept |= self._not_taken({entry.key for entry, _ in court.refused}, court)
        kept |= self._unseen().keys()

        def is_kept(key: str) -> bool:
            return key in kept or (unclear and key.startswith(f"{Origin.CLAIM.value}-"))

        return plan_cdi(
            court.served,
            self.observed.cdi,
            Readiness(gpus=self.observed.gpus, layouts=self.layouts if readable else None),
            self.ownership.applied,
            devfs=self.options.devfs,
            kept=is_kept,
        )

    def _not_taken(self, keys: set[str], court: Arbitration) -> set[str]:
        """Those of ``keys`` that have what they were given before, none of it being another's by now."""
        taken, applied = places_given(court.served), self.ownership.applied
        return {key for key in keys & applied.keys() if without_places(applied[key], taken) == applied[key]}

    def _unseen(self) -> dict[str, Unreadable]:
        """Allocations of GPUs that are not seen, but may be there: something at their address can't be read."""
        unseen: dict[str, Unreadable] = {}
        for entry in self.desired.refused:
            if entry.refusal.absent is not None:
                address, _ = parse_device_name(entry.refusal.absent)
                for place in self.observed.unreadable:
                    if address in place.path:
                        unseen[entry.key] = place
        return unseen

    def _plannable(self, court: Arbitration) -> Iterable[tuple[DeviceName, PfSeen]]:
        """GPUs that something may be done to: not while it is unknown what of them is ours."""
        for pf in () if isinstance(self.observed.ownership, Unreadable) else sorted(self.observed.gpus):
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
            layout=self.layouts.get(pf),
            binding=self.bindings.get(pf),
            stale_cdi=cdi.stale.get(pf, ()),
            standing_cdi=cdi.standing.get(pf, ()),
            cdi_blocked=cdi.blocked,
            idle_since=self.memory.idle_since.get(pf),
            linger=self.options.linger if linger is None else timedelta(seconds=linger),
        )
        return plan_gpu(gpu, court.demands.get(pf), context)

    def _actions(
        self, gpus: Mapping[DeviceName, GpuPlan], cdi: CdiPlan, touched: frozenset[str]
    ) -> tuple[Action, ...]:
        """Removals of CDI specs first, then each GPU's wave, then new CDI specs; what backs off is left out.

        The spec of an entry whose devices are being changed is written when that is over.
        """
        writes = (write for write in cdi.writes if key_of(write.file) not in touched)
        rebuilt = (
            RemoveCdiSpec(file=file, pf=pf, why="its VFs are made anew") for pf in gpus for file in gpus[pf].remove
        )
        return (
            *(removal for removal in (*cdi.removals, *rebuilt) if not self._backs_off(removal)),
            *(action for pf in gpus for action in gpus[pf].actions),
            *(write for write in writes if not self._backs_off(write)),
        )

    def _backs_off(self, action: Action) -> bool:
        failure = self.memory.failures.get(unit_of(action))
        return failure is not None and failure.retry_at > self.now

    def _wakes(self, gpus: Mapping[DeviceName, GpuPlan]) -> Iterable[datetime]:
        """When something is due although nothing may be heard: a retry, the end of a linger, a stale mark."""
        yield from (step.wake_at for step in gpus.values() if step.wake_at is not None)
        next_stale = self.abandoned.next_stale()
        if next_stale is not None:
            yield next_stale
        for unit, failure in self.memory.failures.items():
            if unit.startswith("cdi/") and failure.retry_at > self.now:
                yield failure.retry_at

    def _idle_since(self, gpus: Mapping[DeviceName, GpuPlan]) -> dict[DeviceName, datetime]:
        """Since when VFs are unwanted; GPUs that nothing is planned for now (changing, say) keep their time."""
        before = self.memory.idle_since
        idle = {pf: before.get(pf, self.now) for pf, step in gpus.items() if step.idle}
        return idle | {pf: before[pf] for pf in before if pf in self.observed.gpus and pf not in gpus}

    # -- what is said about it -----------------------------------------------------------------------------

    def _outcomes(
        self,
        court: Arbitration,
        cdi: CdiPlan,
        gpus: Mapping[DeviceName, GpuPlan],
        held: Held,
        ownership: Ownership,
        touched: frozenset[str],
        frozen: Frozen | None,
    ) -> tuple[Outcome, ...]:
        return OutcomeJudge(
            desired=self.desired,
            court=court,
            cdi=cdi,
            gpus=gpus,
            failures=self.memory.failures,
            in_use=frozenset(Origin.CLAIM.key(uid) for uid in held.claims),
            touched=touched,
            unseen=self._unseen(),
            leaving={key: record for key, record in ownership.applied.items() if key not in self.wanted},
            frozen=frozen,
        ).outcomes()

    def _held_back(self, actions: Iterable[Action], frozen: Frozen | None) -> Iterable[Blocked]:
        if isinstance(self.observed.ownership, Unreadable) and frozen is not None:
            yield Blocked(what="all changes", why=frozen.why)
        elif frozen is not None:
            for action in actions:
                what = str(action) if action.pf is None else f"{action.pf}: {action}"
                yield Blocked(what=what, why=frozen.why)

    def _blocked(self, court: Arbitration, gpus: Mapping[DeviceName, GpuPlan], cdi: CdiPlan) -> Iterable[Blocked]:
        if cdi.blocked is not None:
            yield Blocked(what="CDI spec files", why=cdi.blocked)
        for path in self.observed.unreadable:
            yield Blocked(what=path.path, why=path.why)
        for refusal in self.desired.refused_overrides:
            yield Blocked(what=refusal.path, why=refusal.reason)
        for pf, why in court.blocked_overrides:
            yield Blocked(what=f"override of {pf}", why=why)
        for waiting in court.waiting:
            yield Blocked(what=str(waiting.entry), why=waiting.why)
        for pf, step in gpus.items():
            if step.blocked is not None:
                yield Blocked(what=pf, why=step.blocked)
            for slot, why in sorted(step.slot_blocked.items()):
                yield Blocked(what=str(slot), why=why)


def _touched(served: Iterable[Entry], gpus: Mapping[DeviceName, GpuPlan]) -> frozenset[str]:
    """Entries under whose devices something is changed."""
    busy = {pf: step for pf, step in gpus.items() if step.actions or step.remove}
    return frozenset(
        entry.key
        for entry in (served if busy else ())
        for device in entry.devices
        if device.logical.pf in busy and busy[device.logical.pf].touches(device.slot, monitor=device.monitors)
    )
