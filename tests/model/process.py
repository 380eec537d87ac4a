"""One agent process on a simulated machine, and how it dies."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

from reconciler.node import agent_metrics
from reconciler.node.agent import DESIRED, FILES, Agent, Pass, Settings
from reconciler.node.apply_host import ApplyHost, Timeouts
from reconciler.node.applying import apply_all, doing
from reconciler.node.clock import Clock
from reconciler.node.desired_source import FileSource
from reconciler.node.directories import sweep_directories
from reconciler.node.users import Visibility
from reconciler.node.workers import Job, Result
from reconciler.runtime.loop import DUE, RESYNC
from reconciler.runtime.metrics import NoMetrics
from state.actions import GpuAction
from state.ids import DeviceName
from state.observed import PfSeen
from state.planning import Options
from tests.engine.machines import TABLES, Bench

RESYNC_SECONDS = 60.0
_TIMEOUTS = Timeouts(links=0.02, driver=0.02)


class Killed(BaseException):
    """The agent was killed here: nothing after this line happens, no handler can help."""


@dataclass(slots=True)
class HandWorkers:
    """Workers that take up their work when told to, so that anything can happen between plan and action."""

    host: ApplyHost
    began: Callable[[PfSeen, tuple[GpuAction, ...]], None]
    waiting: dict[DeviceName, tuple[PfSeen, tuple[GpuAction, ...], datetime]] = field(default_factory=dict)
    ended: list[Result] = field(default_factory=list)

    def busy(self) -> Mapping[DeviceName, Job]:
        return {
            pf: Job(doing=doing(actions[0], gpu), since=since, actions=actions)
            for pf, (gpu, actions, since) in self.waiting.items()
        }

    def start(self, gpu: PfSeen, actions: Sequence[GpuAction], now: datetime) -> None:
        assert gpu.name not in self.waiting, f"{gpu.name} is being changed already"
        self.began(gpu, tuple(actions))
        self.waiting[gpu.name] = (gpu, tuple(actions), now)

    def work(self, pf: DeviceName) -> None:
        """Do what waits for this GPU."""
        _, actions, _ = self.waiting[pf]
        applied = apply_all(actions, self.host)
        del self.waiting[pf]
        self.ended.append(Result(pf=pf, applied=applied))

    def results(self) -> tuple[Result, ...]:
        ended, self.ended = tuple(self.ended), []
        return ended


class AgentProcess:
    """An agent from start to death, driven by hand."""

    def __init__(
        self, bench: Bench, *, cluster: bool, began: Callable[[PfSeen, tuple[GpuAction, ...]], None]
    ) -> None:
        self._bench = bench
        self._first = True
        self._again = 0.0
        self._resync_at = bench.time.seconds + RESYNC_SECONDS
        self.last: Pass | None = None
        host = ApplyHost(roots=bench.roots, clock=time.monotonic, timeouts=_TIMEOUTS)
        self.workers = HandWorkers(host, began)
        sweep_directories(bench.roots)
        self._agent = Agent(
            Settings(
                version="test",
                options=Options(by_marks=cluster),
                visibility=Visibility.VISIBLE,
                backoff_cap=60.0,
                patience=60.0,
            ),
            TABLES,
            FileSource(bench.file, cluster=cluster),
            host,
            self.workers,
            Clock(wall=bench.time.wall, monotonic=bench.time.monotonic),
            NoMetrics(agent_metrics.DECLARED),
            rng=Random(0),
            followed=self._follow,
        )

    def _follow(self, done: Pass) -> None:
        self.last = done

    def one_pass(self, *topics: str) -> Pass:
        """A pass over the files, whatever was heard of, and ``topics``."""
        heard, self._bench.heard = self._bench.heard, set()
        first = {RESYNC} if self._first else set[str]()
        self._first = False
        again = self._agent.one_pass(frozenset({FILES, DESIRED, *topics} | heard | first))
        assert again is not None
        self._again = again
        assert self.last is not None
        return self.last

    def sleep(self, most: float) -> float:
        """Let time pass until the agent wants to wake up, at most so many seconds, and wake it. Returns them."""
        seconds = min(most, max(0.001, self._again), max(0.001, self._resync_at - self._bench.time.seconds))
        self._bench.time.seconds += seconds
        heard, self._bench.heard = self._bench.heard, set()
        if self._bench.time.seconds >= self._resync_at:
            heard.add(RESYNC)
            self._resync_at += RESYNC_SECONDS
        again = self._agent.one_pass(frozenset({DUE, *heard}))
        assert again is not None
        self._again = again
        return seconds

    @property
    def is_quiet(self) -> bool:
        """Whether the last pass found nothing to do, and nothing is under way."""
        return self.last is not None and not self.last.plan.actions and not self.workers.waiting
