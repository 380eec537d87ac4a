"""The daemon: follows the desired-state file, kernel events, other people's changes, and time."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reconciler.node import agent_metrics
from reconciler.node.agent import DESIRED, EVERYWHERE, FILES, PCI, Agent, Pass, Settings
from reconciler.node.apply_host import ApplyHost
from reconciler.node.clock import Clock
from reconciler.node.cluster_side import ClusterSide, Place
from reconciler.node.desired_source import FileSource
from reconciler.node.directories import make_directories, sweep_directories
from reconciler.node.roots import Roots
from reconciler.node.status_file import recall_status
from reconciler.node.tables import load_tables
from reconciler.node.workers import ThreadWorkers
from reconciler.runtime.kube import measures
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.locks import FileLock
from reconciler.runtime.loop import Loop
from reconciler.runtime.metrics import Listen, Metrics, open_metrics
from reconciler.runtime.notify import Notifier
from reconciler.runtime.signals import (
    After,
    Essentials,
    HardExit,
    block_signals,
    dump_stacks_on,
    wait_for_signals,
)
from reconciler.runtime.uevents import Source, Uevent, UeventListener, UeventsUnavailable
from reconciler.runtime.wakeups import WakeSet
from reconciler.runtime.watching import FileWatcher, Interest
from state.ids import PciAddress, parse_pci_address
from state.manifest import Policy

STOP_SECONDS = 0.8
"""How long our threads are asked to take to end; a kernel write under way is waited for beyond that."""
FORCE_SECONDS = 4.0
"""After this the process ends, whatever hangs: on a busy machine an orderly end may take its time."""

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_WORKER = "worker"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class InCluster:
    """The node that this machine is, and how to reach its API server: ``connect`` may raise ConfigError.

    ``offer`` says what is offered to schedulers where the manifest's policy is silent.
    """

    node: str
    connect: Callable[[Metrics], KubeClient]
    offer: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What to run. ``uevents`` None: don't listen to the kernel, only look every ``resync`` seconds.

    In a ``cluster`` the file is kept as the node's GpuNodeState says, else it is a person's.
    """

    file: Path
    cluster: InCluster | None
    settings: Settings
    roots: Roots
    resync: float = 60.0
    uevents: Source | None = Source.KERNEL
    metrics: Listen | None = None


def run(config: RunConfig) -> int:
    """Run until SIGTERM or SIGINT; SIGHUP looks at everything anew. Returns the process's exit status.

    Raises OSError where our directories, the lock or the metrics port can't be had, and what connecting to a
    cluster raises. While another agent holds the lock this one stands by and takes over when that one ends.
    """
    block_signals()
    dump_stacks_on()
    notifier = Notifier(os.environ)
    make_directories(config.roots)
    essentials = Essentials()
    with contextlib.ExitStack() as closing:
        metrics = open_metrics((*agent_metrics.DECLARED, *measures.DECLARED), config.metrics)
        closing.callback(metrics.close)
        client = None if config.cluster is None else config.cluster.connect(metrics)
        daemon = _Daemon(config, metrics, essentials, client)
        _calm_garbage_collection()
        essentials.start("agent", daemon.run)
        notifier.ready(f"following {config.file}")

        def reload() -> After:
            notifier.reloading()
            daemon.look_everywhere()
            notifier.ready(f"following {config.file}")
            return After.GO_ON

        wait_for_signals(
            {signal.SIGTERM: lambda: After.END, signal.SIGINT: lambda: After.END, signal.SIGHUP: reload}
        )
        notifier.stopping()
        essentials.expect_end()
        exit_by_force = HardExit(FORCE_SECONDS, status=1, busy=daemon.writing_to_the_kernel)
        daemon.stop()
        while essentials.join(STOP_SECONDS):
            pass  # the kernel has a write of ours, or exit_by_force is about to end this
        exit_by_force.cancel()
        daemon.close()
    if essentials.failed is not None:
        _log.critical("ended: %s", essentials.failed)
        return 1
    return 0


def _calm_garbage_collection() -> None:
    """Keep the collector away from what lives as long as the process, and from running in the middle of each pass.

    A pass makes thousands of small objects and hardly a cycle; by default each few hundred of them have the whole
    heap searched now and then, for up to 0.2 s with 500 allocations.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class _Daemon:
    """The agent with all that wakes it. ``run`` is its thread; the other methods may come from any."""

    def __init__(
        self, config: RunConfig, metrics: Metrics, essentials: Essentials, client: KubeClient | None
    ) -> None:
        self._config = config
        self._client = client
        self._metrics = metrics
        self._essentials = essentials
        self._wakes = WakeSet()
        self._stopping = threading.Event()
        clock = Clock()
        self._host = ApplyHost(roots=config.roots, clock=clock.monotonic, stopping=self._stopping.is_set)
        self._workers = ThreadWorkers(
            self._host,
            lambda _: self._wakes.wake(_WORKER),
            lambda step: agent_metrics.report_step(metrics, step),
        )
        self._tables = load_tables(config.roots.pci_ids)
        self._agent = Agent(
            config.settings,
            self._tables,
            FileSource(config.file, cluster=config.cluster is not None),
            self._host,
            self._workers,
            clock,
            metrics,
            late=lambda address: self._wakes.wake(f"{PCI}{address}"),
            followed=self._followed,
        )
        self._loop = Loop(
            self._pass,
            self._wakes,
            resync=config.resync,
            clock=clock.monotonic,
            on_run=lambda ran: agent_metrics.report_run(metrics, ran),
        )
        self._watcher = FileWatcher(self._interests())
        self._listener: UeventListener | None = None
        self._side: ClusterSide | None = None

    def run(self) -> None:
        """Wait to be the only agent here, then run passes until told to stop."""
        lock = FileLock(Path(self._config.roots.agent_lock))
        if not lock.try_acquire():
            _log.info("standing by: %s", lock.holder() or "another agent is at work")
            if not lock.acquire(self._stopping):
                return
        _log.info("following %s", self._config.file)
        try:
            sweep_directories(self._config.roots)
            self._listen()
            self._join_cluster()
            self._loop.run()
        finally:
            self._close()
            lock.release()

    def look_everywhere(self) -> None:
        """Read the desired state and the whole machine again."""
        self._wakes.wake(DESIRED)
        self._wakes.wake(EVERYWHERE)

    def stop(self) -> None:
        """Begin nothing new and end."""
        self._stopping.set()
        self._loop.stop()
        if self._side is not None:
            self._side.stop()
        with self._host.stirred:
            self._host.stirred.notify_all()

    def close(self) -> None:
        """Let go of the kernel's events, after all threads have ended."""
        if self._listener is not None:
            self._listener.close()

    def writing_to_the_kernel(self) -> bool:
        """Whether a worker is at a GPU, which may be in a write that must not be cut short."""
        return bool(self._workers.busy())

    def _pass(self, topics: frozenset[str]) -> float | None:
        self._watcher.check()
        return self._agent.one_pass(topics)

    def _followed(self, done: Pass) -> None:
        if self._side is not None:
            self._side.followed(done)

    def _join_cluster(self) -> None:
        """Only now that no other agent acts here: the file and the status have one writer."""
        config = self._config
        if config.cluster is None or self._client is None:
            return
        last = recall_status(Path(config.roots.status_file))
        self._side = ClusterSide(
            Place(
                node=config.cluster.node,
                file=config.file,
                roots=config.roots,
                table=self._tables.profiles,
                offer=config.cluster.offer,
                last_status=None if last is None else last.status,
            ),
            self._client,
            metrics=self._metrics,
            on_crash=self._essentials.crashed,
            clock=Clock().monotonic,
            rng=random.Random(),
        )
        self._essentials.start("cluster", self._side.run)
        if self._stopping.is_set():
            self._side.stop()

    def _file_changed(self) -> None:
        self._wakes.wake(DESIRED)
        self._lock_changed()

    def _lock_changed(self) -> None:
        if self._side is not None:
            self._side.look_again()

    def _interests(self) -> tuple[Interest, ...]:
        def waking(topic: str) -> Callable[[], None]:
            return lambda: self._wakes.wake(topic)

        file, roots = self._config.file.absolute(), self._config.roots
        return (
            # "..data" is the link that Kubernetes swaps when a ConfigMap changes.
            Interest(directory=file.parent, names=frozenset((file.name, "..data")), wake=self._file_changed),
            Interest(directory=Path(roots.cdi).absolute(), names=None, wake=waking(FILES)),
            Interest(directory=Path(roots.marks_dir).absolute(), names=None, wake=waking(FILES)),
            Interest(directory=Path(roots.lock_dir).absolute(), names=None, wake=self._lock_changed),
        )

    def _listen(self) -> None:
        if self._config.uevents is None:
            return
        try:
            listener = UeventListener(self._heard, self._lost, source=self._config.uevents)
        except UeventsUnavailable as error:
            _log.warning("no kernel events, looking every %g s instead: %s", self._config.resync, error)
            return
        self._listener = listener
        self._essentials.start("uevents", listener.run)

    def _heard(self, event: Uevent) -> None:
        with self._host.stirred:
            self._host.stirred.notify_all()
        address = _address_of(event)
        wedged = event.properties.get("WEDGED", "none")
        if address is not None and wedged != "none":
            self._agent.note_wedged(address, f"the driver asks for: {wedged}")
        self._wakes.wake(EVERYWHERE if address is None else f"{PCI}{address}")

    def _lost(self) -> None:
        self._wakes.wake(EVERYWHERE)

    def _close(self) -> None:
        self._workers.join(STOP_SECONDS)
        while stuck := self._workers.busy():
            _log.warning(
                "waiting for the kernel: %s", ", ".join(f"{pf}: {job.doing}" for pf, job in stuck.items())
            )
            self._workers.join(10.0)
        self._watcher.stop()
        if self._listener is not None:
            self._listener.stop()


def _address_of(event: Uevent) -> PciAddress | None:
    """The PCI function that an event is about, or on which the thing it is about sits."""
    addresses = _PCI_ADDRESS.findall(event.pci_slot_name or event.devpath)
    return parse_pci_address(addresses[-1]) if addresses else None
