"""One look, one preview, one convergence: what the command line does without a daemon."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.node import agent_metrics, discovery
from reconciler.node.agent import PCI, Agent, Pass, Settings
from reconciler.node.apply_host import ApplyHost
from reconciler.node.applying import Step
from reconciler.node.cdi_dir import observe_cdi
from reconciler.node.clock import Clock
from reconciler.node.desired_source import FileSource, read_desired
from reconciler.node.directories import make_directories, sweep_directories
from reconciler.node.observing import Observer
from reconciler.node.record_files import read_held, read_marks, read_ownership
from reconciler.node.roots import Roots
from reconciler.node.tables import Tables
from reconciler.node.users import users_of
from reconciler.node.workers import ThreadWorkers
from reconciler.runtime.locks import FileLock
from reconciler.runtime.loop import RESYNC
from reconciler.runtime.metrics import NoMetrics
from reconciler.runtime.wakeups import WakeSet
from state.desired import Desired, resolve
from state.foresight import Foreseen, foresee
from state.ids import DeviceName
from state.observed import Changing, Observed, PfSeen, Unreadable, UsersSeen, with_origins
from state.planning import Memory, NotSynced, Plan, plan
from state.records import Ownership
from state.status import NodeStatus, condition_of
from state.summary import READY, SourceState, summarise

LOOK_SECONDS = 5.0
"""How long to wait for a GPU that another process is changing; a daemon, which looks again, waits less."""
STOP_SECONDS = 5.0
"""How long to wait for a kernel write under way when there is no time left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a manifest would do to the machine as it is now, all waves of it; nothing is changed."""

    desired: Desired | NotSynced
    observed: Observed
    foreseen: Foreseen
    status: NodeStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Converged:
    """How far a convergence came: the last status, whether all is as wanted, and if not, why it ended."""

    status: NodeStatus
    reached: bool
    why: str


def look(roots: Roots, tables: Tables) -> Observed:
    """The machine as it is now."""
    seen = Observer(roots, tables, patience=LOOK_SECONDS).look()
    boot_id = discovery.boot_id(roots.procfs)
    observed = Observed(
        boot_id=boot_id if isinstance(boot_id, str) else "",
        gpus=dict(seen.gpus),
        kernel_drivers=discovery.kernel_drivers(roots.sysfs),
        cdi=observe_cdi(roots.cdi),
        ownership=read_ownership(Path(roots.ownership_file)),
        held=read_held(Path(roots.held_file)),
        marks=read_marks(Path(roots.marks_dir)),
        unreadable=seen.unreadable + ((boot_id,) if isinstance(boot_id, Unreadable) else ()),
    )
    return with_origins(observed)


def preview(file: Path, settings: Settings, roots: Roots, tables: Tables, clock: Clock) -> Preview:
    """What applying ``file`` would do. Raises ManifestFileError, ManifestError or FileRefused."""
    state = read_desired(file, cluster=False)
    observed = look(roots, tables)
    ownership = Ownership() if isinstance(observed.ownership, Unreadable) else observed.ownership
    desired = resolve(state.spec, observed.gpus, tables.profiles, ownership.applied)
    gpus = [gpu for gpu in observed.gpus.values() if isinstance(gpu, PfSeen)]
    now = clock.steady()
    users: dict[DeviceName, UsersSeen] = {}

    def next_wave(machine: Observed) -> Plan:
        todo = plan(desired, replace(machine, users=users), Memory(), tables.profiles, settings.options, now)
        if todo.look - users.keys():
            users.update(users_of(roots, gpus, settings.visibility))
            todo = plan(desired, replace(machine, users=users), Memory(), tables.profiles, settings.options, now)
        return todo

    first = next_wave(observed)
    observed = replace(observed, users=users)
    status = summarise(
        desired, observed, first, SourceState(), None, tables.profiles, settings.version, clock.wall()
    )
    return Preview(desired=desired, observed=observed, foreseen=foresee(observed, next_wave), status=status)


def converge(
    file: Path,
    settings: Settings,
    roots: Roots,
    tables: Tables,
    clock: Clock,
    *,
    timeout: float,
    followed: Callable[[Pass], None] = lambda _: None,
    stepped: Callable[[Step], None] = lambda _: None,
) -> Converged:
    """Run passes until the machine is as ``file`` wants it, nothing more can be done now, or time is up.

    Raises ManifestFileError, ManifestError and FileRefused for the file, OSError for our directories, and
    LockBusy while another agent is at work here.
    """
    read_desired(file, cluster=False)
    make_directories(roots)
    with FileLock(Path(roots.agent_lock)).hold():
        sweep_directories(roots)
        patient = replace(settings, patience=max(settings.patience, LOOK_SECONDS))
        return _Convergence(file, patient, roots, tables, clock, followed, stepped).run(timeout)


class _Convergence:
    def __init__(
        self,
        file: Path,
        settings: Settings,
        roots: Roots,
        tables: Tables,
        clock: Clock,
        followed: Callable[[Pass], None],
        stepped: Callable[[Step], None],
    ) -> None:
        self._wakes = WakeSet()
        self._stopping = threading.Event()
        self._clock = clock
        self._followed = followed
        self._last: Pass | None = None
        host = ApplyHost(roots=roots, clock=clock.monotonic, stopping=self._stopping.is_set)
        self._workers = ThreadWorkers(host, self._wakes.wake, stepped)
        self._agent = Agent(
            settings,
            tables,
            FileSource(file, cluster=False),
            host,
            self._workers,
            clock,
            NoMetrics(agent_metrics.DECLARED),
            late=lambda address: self._wakes.wake(f"{PCI}{address}"),
            followed=self._follow,
        )

    def _follow(self, done: Pass) -> None:
        self._last = done
        self._followed(done)

    def run(self, timeout: float) -> Converged:
        """Pass until nothing is left to do, or for `timeout` seconds."""
        deadline = self._clock.monotonic() + timeout
        topics = frozenset((RESYNC,))
        try:
            while True:
                again = self._agent.one_pass(topics)
                why = self._end(again)
                left = deadline - self._clock.monotonic()
                if why is not None or left <= 0:
                    return self._converged(why if why is not None else "time is up")
                topics = self._wakes.wait(min(left, again if again is not None else left))
        finally:
            self._stopping.set()
            self._workers.join(STOP_SECONDS)

    def _end(self, again: float | None) -> str | None:
        """Why to stop now: nothing is left to do, or only things that waiting for won't change."""
        last = self._last
        if last is None or last.plan.actions or last.plan.wake_at is not None or again == 0:
            return None
        # A worker that was busy then may have ended since: what it did has yet to be looked at.
        if self._workers.busy() or any(isinstance(gpu, Changing) for gpu in last.observed.gpus.values()):
            return None
        ready = condition_of(last.status, READY)
        return "" if ready is None or ready.status == "True" else ready.message

    def _converged(self, why: str) -> Converged:
        assert self._last is not None  # a pass ran: run() calls this only after one
        ready = condition_of(self._last.status, READY)
        reached = ready is not None and ready.status == "True"
        return Converged(status=self._last.status, reached=reached, why="" if reached else why)
