"""One life of the product: converge on a desired-state file as `apply` and the daemon do, GPUs taking turns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reconciler.node import agent_metrics
from reconciler.node.agent import Agent, Settings
from reconciler.node.apply_host import ApplyHost
from reconciler.node.clock import Clock
from reconciler.node.desired_source import FileSource
from reconciler.node.directories import make_directories, sweep_directories
from reconciler.node.once import converge
from reconciler.node.roots import Roots
from reconciler.node.tables import Tables
from reconciler.node.users import Visibility
from reconciler.node.workers import ThreadWorkers
from reconciler.runtime.locks import FileLock
from reconciler.runtime.loop import RESYNC
from reconciler.runtime.metrics import NoMetrics
from reconciler.runtime.wakeups import WakeSet
from state.actions import GpuAction
from state.observed import PfSeen
from state.planning import Options

_MOST_PASSES = 100
_PATIENCE = 60.0


def roots_at(where: Path) -> Roots:
    """The machine that is laid out in a directory."""
    return Roots(
        sysfs=f"{where}/sys",
        devfs=f"{where}/dev",
        procfs=f"{where}/proc",
        cdi=f"{where}/cdi",
        run=f"{where}/run",
        state=f"{where}/lib",
        pci_ids="/nonexistent/pci.ids",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a product process is to do. ``cluster``: marks count. ``threads``: GPUs at the same time."""

    where: Path
    cluster: bool = False
    threads: bool = False

    @property
    def file(self) -> Path:
        return self.where / "node.json"

    @property
    def settings(self) -> Settings:
        # Nobody else changes these GPUs: a read that takes long only says that this machine is busy.
        options = Options(by_marks=self.cluster)
        return Settings(version="crash", options=options, visibility=Visibility.VISIBLE, patience=_PATIENCE)


class InTurn(ThreadWorkers):
    """Workers of which only one works at a time, so that a run makes the same calls in the same order."""

    def start(self, gpu: PfSeen, actions: Sequence[GpuAction], now: datetime) -> None:
        super().start(gpu, actions, now)
        self.join(_PATIENCE)


def live(order: Order, tables: Tables) -> None:
    """Converge as far as it goes. Raises TimeoutError if there is no end to it."""
    if order.threads:
        converge(order.file, order.settings, roots_at(order.where), tables, Clock(), timeout=_PATIENCE)
        return
    roots = roots_at(order.where)
    make_directories(roots)
    with FileLock(Path(roots.agent_lock)).hold():
        sweep_directories(roots)
        _passes(order, roots, tables)


def _passes(order: Order, roots: Roots, tables: Tables) -> None:
    clock = Clock()
    host = ApplyHost(roots=roots, clock=clock.monotonic)
    wakes = WakeSet()
    agent = Agent(
        order.settings,
        tables,
        FileSource(order.file, cluster=order.cluster),
        host,
        InTurn(host, wakes.wake, lambda _: None),
        clock,
        NoMetrics(agent_metrics.DECLARED),
        rng=random.Random(0),
    )
    topics = frozenset((RESYNC,))
    for _ in range(_MOST_PASSES):
        again = agent.one_pass(topics)
        topics = wakes.wait(0.0)
        if again != 0.0 and not topics:
            return
    raise TimeoutError(f"no end after {_MOST_PASSES} passes")
