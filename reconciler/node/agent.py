"""The node agent's pass: look, plan, say what was seen, act; then look again.

One pass after the other brings a machine to its desired state, from whatever state it is in. Nothing here
remembers what was done: what is right is judged by looking.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from reconciler.node import agent_metrics, discovery
from reconciler.node.announcing import announce
from reconciler.node.apply_host import ApplyHost
from reconciler.node.applying import Step, apply_all
from reconciler.node.cdi_dir import CdiDirectory
from reconciler.node.clock import Clock
from reconciler.node.desired_source import Sourced
from reconciler.node.failures import Failures
from reconciler.node.observing import Observer
from reconciler.node.plugin_presence import is_any_registered
from reconciler.node.record_files import OwnershipFile, read_held, read_marks, write_held
from reconciler.node.status_file import StatusWriter
from reconciler.node.tables import Tables
from reconciler.node.users import Visibility, users_of
from reconciler.node.workers import Job, Workers
from reconciler.runtime.loop import DUE, RESYNC
from reconciler.runtime.metrics import Metrics
from state.actions import Action, GpuAction, RemoveCdiSpec, WriteCdiSpec, unit_of
from state.desired import Desired, resolve
from state.ids import DeviceName, PciAddress, parse_device_name, parse_pci_address
from state.manifest import Spec
from state.observed import Changing, Observed, PfSeen, Unreadable, UsersSeen, with_origins
from state.planning import NOT_SYNCED, Blocked, Memory, NotSynced, Options, Plan, plan
from state.records import AppliedDevice, Ownership
from state.recovery import rebuild_ownership
from state.stale_marks import may_be_forgotten
from state.status import NodeStatus
from state.summary import SourceState, summarise
from state.wanted import Gpus

_log = logging.getLogger(__name__)

DESIRED = "desired"
"""Topic: the desired-state file may have changed."""
FILES = "files"
"""Topic: CDI spec files or marks may have changed."""
EVERYWHERE = "everywhere"
"""Topic: look at all GPUs again; events may have been lost."""
PCI = "pci/"
"""Prefix of topics naming the PCI function that something was heard of."""

USERS_AGAIN = timedelta(seconds=5)
"""When to look again for those who keep something from being done: nobody announces that a process ended."""

MOST_LOOKS = 4
"""How often one pass looks up users before it leaves the rest to the next."""


class Source(Protocol):
    """Where the desired state comes from."""

    def latest(self) -> Sourced:
        """The desired state in force, and what is wrong with the newest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an agent works, from its flags. Times in seconds.

    ``patience`` is how long one pass waits for reading a GPU that another process is changing.
    """

    version: str
    options: Options = field(default_factory=Options)
    visibility: Visibility = Visibility.AUTO
    backoff_base: float = 1.0
    backoff_cap: float = 300.0
    patience: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass, for those who want to follow: what was wanted, seen, planned, and said."""

    desired: Desired | NotSynced
    observed: Observed
    plan: Plan
    status: NodeStatus
    busy: Mapping[DeviceName, Job]
    source: Sourced


class Agent:
    """Runs passes on one machine. All but ``note_wedged`` belongs to one thread."""

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        source: Source,
        host: ApplyHost,
        workers: Workers,
        clock: Clock,
        metrics: Metrics,
        *,
        rng: random.Random | None = None,
        late: Callable[[PciAddress], None] = lambda _: None,
        followed: Callable[[Pass], None] = lambda _: None,
    ) -> None:
        self._settings, self._tables, self._source = settings, tables, source
        self._host, self._workers, self._clock, self._metrics = host, workers, clock, metrics
        self._followed = followed
        self._roots = host.roots
        self._cdi = CdiDirectory(host.roots.cdi)
        self._observer = Observer(host.roots, tables, patience=settings.patience, late=late)
        self._ownership = OwnershipFile(Path(host.roots.ownership_file), self._rebuild_ownership)
        self._status = StatusWriter(Path(host.roots.status_file))
        self._failures = Failures(base=settings.backoff_base, cap=settings.backoff_cap, rng=rng or random.Random())
        self._idle_since: Mapping[DeviceName, datetime] = {}
        self._abandoned_since: Mapping[str, datetime] = {}
        self._dirty: set[PciAddress] = set()
        self._resolved: tuple[tuple[object, ...], Desired] | None = None
        self._looked = False
        self._due: datetime | None = None
        self._users_matter = False
        self._progress = agent_metrics.Progress(metrics, clock.monotonic)

    def note_wedged(self, address: PciAddress, message: str) -> None:
        """A GPU announced that it is wedged."""
        self._observer.note_wedged(address, message)

    def one_pass(self, topics: frozenset[str]) -> float | None:
        """One pass. Returns in how many seconds the next is due even if nothing is heard."""
        now = self._clock.steady()
        if topics == {DUE} and (self._due is None or now < self._due):
            self._status.refresh(self._clock)
            return self._seconds_to_next(now)
        busy = self._workers.busy()
        self._collect(now)
        sourced = self._source.latest()
        observed = self._observe(topics, busy)
        desired, todo = self._plan(sourced, observed, now)
        todo = self._write_records(todo)
        status = self._publish(desired, observed, todo, sourced)
        changing = frozenset(pf for pf, gpu in observed.gpus.items() if isinstance(gpu, Changing))
        self._failures.settle(frozenset(unit_of(action) for action in todo.actions), changing, now)
        self._idle_since, self._abandoned_since = todo.idle_since, todo.abandoned_since
        self._followed(
            Pass(desired=desired, observed=observed, plan=todo, status=status, busy=busy, source=sourced)
        )
        self._progress.report(todo, status, len(self._failures.now()))
        acted = self._act(todo.actions, observed, now)
        self._due = now if acted else self._next_pass(todo, now)
        return self._seconds_to_next(now)

    # -- looking -------------------------------------------------------------------------------------------

    def _collect(self, now: datetime) -> None:
        """Take in what workers have done since the last pass."""
        for result in self._workers.results():
            gpu = self._observer.last_seen(result.pf)
            if gpu is not None:
                self._dirty.add(gpu.function.address)
            if result.applied.failed is not None:
                action, failed = result.applied.failed
                self._failures.failed(unit_of(action), f"{action}: {failed}", now)

    def _observe(self, topics: frozenset[str], busy: Mapping[DeviceName, Job]) -> Observed:
        everywhere = not self._looked or not topics.isdisjoint((RESYNC, EVERYWHERE))
        self._dirty |= {parse_pci_address(topic.removeprefix(PCI)) for topic in topics if topic.startswith(PCI)}
        seen = self._observer.look(None if everywhere else frozenset(self._dirty), leave=frozenset(busy))
        self._looked = True
        # What was heard of a GPU while it was being changed counts when that is over.
        self._dirty = {parse_device_name(pf)[0] for pf in busy} if busy else set()
        gpus: dict[DeviceName, PfSeen | Changing] = dict(seen.gpus)
        for pf in seen.overdue:
            doing = "another process is changing it"
            gpus[pf] = Changing(last=seen.gpus[pf], doing=doing, since=self._clock.wall())
        for pf, job in busy.items():
            last = self._observer.last_seen(pf)
            if last is not None:
                gpus[pf] = Changing(last=last, doing=job.doing, since=job.since, actions=job.actions)
        boot_id = discovery.boot_id(self._roots.procfs)
        marks = read_marks(Path(self._roots.marks_dir))
        unreadable = seen.unreadable + ((boot_id,) if isinstance(boot_id, Unreadable) else ())
        observed = Observed(
            boot_id="" if isinstance(boot_id, Unreadable) else boot_id,
            gpus=gpus,
            kernel_drivers=discovery.kernel_drivers(self._roots.sysfs),
            cdi=self._cdi.observe(anew=everywhere),
            ownership=boot_id if isinstance(boot_id, Unreadable) else self._ownership.load(),
            held=read_held(Path(self._roots.held_file)),
            marks=marks,
            registered=may_be_forgotten(marks) and is_any_registered(Path(self._roots.lock_dir)),
            unreadable=unreadable,
        )
        return with_origins(observed)

    def _rebuild_ownership(self) -> Ownership:
        boot_id = discovery.boot_id(self._roots.procfs)
        rebuilt = rebuild_ownership(self._status.last, "" if isinstance(boot_id, Unreadable) else boot_id)
        if rebuilt != Ownership():
            _log.warning("the ownership record was lost; it is rebuilt from the last status")
        return rebuilt

    # -- planning ------------------------------------------------------------------------------------------

    def _plan(self, sourced: Sourced, observed: Observed, now: datetime) -> tuple[Desired | NotSynced, Plan]:
        """Plan, looking up users where the plan depends on them."""
        desired: Desired | NotSynced = NOT_SYNCED
        if sourced.state is not None:
            ownership = observed.ownership
            applied = {} if isinstance(ownership, Unreadable) else ownership.applied
            desired = self._resolve(sourced.state.spec, observed.gpus, applied)
        memory = Memory(
            failures=self._failures.now(),
            idle_since=self._idle_since,
            released=self._status.released,
            abandoned_since=self._abandoned_since,
        )
        users: dict[DeviceName, UsersSeen] = {}
        todo = plan(desired, observed, memory, self._tables.profiles, self._settings.options, now)
        for _ in range(MOST_LOOKS):
            missing = [gpu for pf in sorted(todo.look - users.keys()) if (gpu := _settled(observed, pf))]
            if not missing:
                break
            users |= users_of(self._roots, missing, self._settings.visibility)
            observed = replace(observed, users=users)
            todo = plan(desired, observed, memory, self._tables.profiles, self._settings.options, now)
        self._users_matter = bool(users)
        return desired, todo

    def _resolve(self, spec: Spec, gpus: Gpus, applied: Mapping[str, tuple[AppliedDevice, ...]]) -> Desired:
        """The same question has the same answer: between most passes nothing changed that it depends on."""
        if self._resolved is None or self._resolved[0] != (spec, gpus, applied):
            desired = resolve(spec, gpus, self._tables.profiles, applied)
            self._resolved = ((spec, gpus, applied), desired)
        return self._resolved[1]

    # -- records and status --------------------------------------------------------------------------------

    def _write_records(self, todo: Plan) -> Plan:
        """Write what must be on record before anything is done or said; without it, nothing is done."""
        try:
            if todo.ownership is not None:
                self._ownership.store(todo.ownership)
            if todo.held is not None:
                write_held(Path(self._roots.held_file), todo.held)
        except OSError as error:
            _log.error("can't write a record, so nothing is changed: %s", error)
            blocked = Blocked(what="all changes", why=f"a record can't be written: {error}")
            return replace(todo, actions=(), nonces={}, blocked=(blocked, *todo.blocked))
        return todo

    def _publish(
        self, desired: Desired | NotSynced, observed: Observed, todo: Plan, sourced: Sourced
    ) -> NodeStatus:
        generation = None if sourced.state is None else sourced.state.metadata.generation
        status = summarise(
            desired,
            observed,
            todo,
            SourceState(generation=generation, error=sourced.error),
            self._status.last,
            self._tables.profiles,
            self._settings.version,
            self._clock.wall(),
        )
        announce(self._status.last, status)
        self._status.publish(status, todo, self._clock)
        return status

    # -- acting --------------------------------------------------------------------------------------------

    def _act(self, actions: tuple[Action, ...], observed: Observed, now: datetime) -> bool:
        """Do what concerns files here and hand the rest to the GPUs' workers. True if files were changed."""
        changed = False
        by_gpu: dict[DeviceName, list[GpuAction]] = {}
        for action in actions:
            if isinstance(action, RemoveCdiSpec | WriteCdiSpec):
                changed = self._write_cdi(action, now) or changed
            else:
                by_gpu.setdefault(action.pf, []).append(action)
        for pf, steps in by_gpu.items():
            gpu = _settled(observed, pf)
            if gpu is not None:
                self._workers.start(gpu, steps, self._clock.wall())
        return changed

    def _write_cdi(self, action: RemoveCdiSpec | WriteCdiSpec, now: datetime) -> bool:
        unit = unit_of(action)
        if self._failures.backs_off(unit, now):
            return False
        applied = apply_all((action,), self._host, ended=self._stepped)
        if applied.failed is not None:
            self._failures.failed(unit, f"{action}: {applied.failed[1]}", now)
        return bool(applied.done)

    def _stepped(self, step: Step) -> None:
        agent_metrics.report_step(self._metrics, step)

    def _next_pass(self, todo: Plan, now: datetime) -> datetime | None:
        due: list[datetime] = [failure.retry_at for failure in self._failures.now().values()]
        if self._users_matter:
            due.append(now + USERS_AGAIN)
        if todo.wake_at is not None:
            due.append(todo.wake_at)
        return min(due, default=None)

    def _seconds_to_next(self, now: datetime) -> float:
        """Until the next pass is due, or at least the status file."""
        refresh = self._status.refresh_in(self._clock)
        return refresh if self._due is None else max(0.0, min(refresh, (self._due - now).total_seconds()))


def _settled(observed: Observed, pf: DeviceName) -> PfSeen | None:
    """A GPU that nobody is changing now."""
    gpu = observed.gpus.get(pf)
    return gpu if isinstance(gpu, PfSeen) else None
