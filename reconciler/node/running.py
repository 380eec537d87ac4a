"""The daemon: follows the desired-state file, kernel events, other people's changes, and time."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reconciler.node import agent_metrics
from reconciler.node.agent import DESIRED, EVERYWHERE, FILES, PCI, Agent, Settings
from reconciler.node.apply_host import ApplyHost
from reconciler.node.clock import Clock
from reconciler.node.desired_source import FileSource
from reconciler.node.directories import make_directories, sweep_directories
from reconciler.node.roots import Roots
from reconciler.node.tables import load_tables
from reconciler.node.workers import ThreadWorkers
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

STOP_SECONDS = 0.8
"""How long our threads get to end; a kernel write under way is waited for beyond that."""

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_WORKER = "worker"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What to run. ``uevents`` None: don't listen to the kernel, only look every ``resync`` seconds."""

    file: Path
    cluster: bool
    settings: Settings
    roots: Roots
    resync: float = 60.0
    uevents: Source | None = Source.KERNEL
    metrics: Listen | None = None


def run(config: RunConfig) -> int:
    """Run until SIGTERM or SIGINT; SIGHUP looks at everything anew. Returns the process's exit status.

    Raises OSError where our directories, the lock or the metrics port can't be had. While another agent holds
    the lock this one stands by and takes over when that one ends.
    """
    block_signals()
    dump_stacks_on()
    notifier = Notifier(os.environ)
    make_directories(config.roots)
    essentials = Essentials()
    with contextlib.ExitStack() as closing:
        metrics = open_metrics(agent_metrics.DECLARED, config.metrics)
        closing.callback(metrics.close)
        daemon = _Daemon(config, metrics, essentials)
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
        exit_by_force = HardExit(STOP_SECONDS, status=1, busy=daemon.writing_to_the_kernel)
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

    def __init__(self, config: RunConfig, metrics: Metrics, essentials: Essentials) -> None:
        self._config = config
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
        self._agent = Agent(
            config.settings,
            load_tables(config.roots.pci_ids),
            FileSource(config.file, cluster=config.cluster),
            self._host,
            self._workers,
            clock,
            metrics,
            late=lambda address: self._wakes.wake(f"{PCI}{address}"),
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

    def _interests(self) -> tuple[Interest, ...]:
        def waking(topic: str) -> Callable[[], None]:
            return lambda: self._wakes.wake(topic)

        file, roots = self._config.file.absolute(), self._config.roots
        return (
            # "..data" is the link that Kubernetes swaps when a ConfigMap changes.
            Interest(directory=file.parent, names=frozenset((file.name, "..data")), wake=waking(DESIRED)),
            Interest(directory=Path(roots.cdi).absolute(), names=None, wake=waking(FILES)),
            Interest(directory=Path(roots.marks_dir).absolute(), names=None, wake=waking(FILES)),
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
