"""A node agent from start to death, with its dealings with the API server, driven by hand and easy to kill."""

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

from kubesim import Cluster
from reconciler.node import agent_metrics
from reconciler.node.agent import DESIRED, FILES, Agent, Pass, Settings
from reconciler.node.apply_host import ApplyHost, Timeouts
from reconciler.node.clock import Clock
from reconciler.node.cluster_side import ClusterSide, Place
from reconciler.node.desired_source import FileSource
from reconciler.node.directories import sweep_directories
from reconciler.node.status_file import recall_status
from reconciler.node.users import Visibility
from reconciler.runtime.kube import measures
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.transport import Request, Response, Stream
from reconciler.runtime.loop import DUE, RESYNC
from reconciler.runtime.metrics import NoMetrics
from state.actions import GpuAction
from state.manifest import Layout, Policy
from state.observed import PfSeen
from state.planning import Options
from tests.engine.machines import TABLES, Bench
from tests.kube_in_memory import InMemory
from tests.model.process import HandWorkers
from tests.whole.listening import Ears

RESYNC_SECONDS = 60.0
OFFER = Policy(layout=Layout.DYNAMIC, linger_seconds=1)
_TIMEOUTS = Timeouts(links=0.02, driver=0.02)


class Mortal:
    """A transport whose user may be killed before a request is sent, or before its answer comes."""

    def __init__(self, cluster: Cluster, tick: Callable[[], None]) -> None:
        self._inner = InMemory(cluster)
        self._tick = tick

    def send(self, request: Request) -> Response:
        if request.method != "GET":
            self._tick()
        answer = self._inner.send(request)
        if request.method != "GET":
            self._tick()
        return answer

    def stream(self, request: Request) -> AbstractContextManager[Stream]:
        return self._inner.stream(request)

    def close(self) -> None:
        """Nothing is open."""


class AgentProcess:
    """One node agent. ``began`` hears of actions handed to a worker, ``tick`` is called around each write."""

    def __init__(
        self,
        node: str,
        bench: Bench,
        cluster: Cluster,
        ears: Ears,
        *,
        began: Callable[[PfSeen, tuple[GpuAction, ...]], None],
        tick: Callable[[], None],
    ) -> None:
        self._bench, self._ears = bench, ears
        self._first = True
        self._resync_at = bench.time.seconds + RESYNC_SECONDS
        self._pass_due = self._side_due = bench.time.seconds
        self.last: Pass | None = None
        host = ApplyHost(roots=bench.roots, clock=time.monotonic, timeouts=_TIMEOUTS)
        self.workers = HandWorkers(host, began)
        sweep_directories(bench.roots)
        self._client = KubeClient(
            Mortal(cluster, tick), retries=NO_RETRIES, rng=random.Random(1), clock=bench.time.monotonic
        )
        last = recall_status(Path(bench.roots.status_file))
        self._side = ClusterSide(
            Place(
                node=node,
                file=bench.file,
                roots=bench.roots,
                table=TABLES.profiles,
                offer=OFFER,
                last_status=None if last is None else last.status,
            ),
            self._client,
            metrics=NoMetrics((*agent_metrics.DECLARED, *measures.DECLARED)),
            on_crash=_crashed,
            clock=bench.time.monotonic,
            rng=random.Random(len(cluster.requests)),
        )
        self._side._recall_server()
        self._side._reflector.start()
        self._agent = Agent(
            Settings(
                version="test",
                options=Options(by_marks=True),
                visibility=Visibility.VISIBLE,
                backoff_cap=60.0,
                patience=60.0,
            ),
            TABLES,
            FileSource(bench.file, cluster=True),
            host,
            self.workers,
            Clock(wall=bench.time.wall, monotonic=bench.time.monotonic),
            NoMetrics(agent_metrics.DECLARED),
            rng=Random(0),
            followed=self._followed,
        )

    def hear(self) -> None:
        """Learn what the API server has of this node's: its GpuNodeState and its slices."""
        self._ears.hear(self._client)

    def deal(self) -> None:
        """Write the file, and to the API server, what is due."""
        self._side_due = self._bench.time.seconds + self._side._step()

    def one_pass(self) -> Pass:
        """A pass over the files and whatever was heard of."""
        heard, self._bench.heard = self._bench.heard, set()
        topics = {FILES, DESIRED, DUE, *heard}
        if self._first or self._bench.time.seconds >= self._resync_at:
            topics.add(RESYNC)
            self._resync_at = self._bench.time.seconds + RESYNC_SECONDS
        self._first = False
        again = self._agent.one_pass(frozenset(topics))
        assert again is not None
        self._pass_due = self._bench.time.seconds + again
        assert self.last is not None
        return self.last

    @property
    def due(self) -> float:
        """When to have it deal or pass again."""
        return min(self._pass_due, self._side_due, self._resync_at)

    def wake(self) -> None:
        """Have it do what is due."""
        if self._bench.time.seconds >= min(self._pass_due, self._resync_at):
            self.one_pass()
        if self._bench.time.seconds >= self._side_due:
            self._ears.hear(self._client, first=True)
            self.deal()

    @property
    def is_quiet(self) -> bool:
        """Whether the last pass found nothing to do, and nothing is under way."""
        return self.last is not None and not self.last.plan.actions and not self.workers.waiting

    def _followed(self, done: Pass) -> None:
        self.last = done
        self._side.followed(done)


def _crashed(error: BaseException) -> None:
    raise error
