"""Replicas of the controller without threads: their caches are told of changes when a test says so."""

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

from reconciler.controller.controller_metrics import DECLARED
from reconciler.controller.front_ends import FRONT_ENDS
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.lister import Lister
from reconciler.controller.node_states import NodeStates
from reconciler.controller.reconciling import Reconciler
from reconciler.controller.turns import Turns
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.metrics import NoMetrics
from state.dra.node_object import read_node_object
from state.dra.node_view import Refused
from state.dra.resource_claims import ClaimReader, ClaimRef
from tests.model.controller.paper_server import PaperServer
from tests.unit.state.dra.objects import table


@functools.cache
def _reader() -> ClaimReader:
    return ClaimReader()


class Replica:
    """One controller: what it has yet to hear, whom it wants to look at, and when."""

    def __init__(self, server: PaperServer, clock: Callable[[], float]) -> None:
        self.leading = False
        self.refused: list[Refused] = []
        self.dirty: deque[str] = deque()
        self.timers: dict[str, float] = {}
        self.failures = 0
        self._busy = False
        self._clock = clock
        self._unheard: dict[str, deque[tuple[Any, bytes | None]]] = {"claim": deque(), "node": deque()}
        self.knowledge = Knowledge(clock)
        client, metrics = KubeClient(server, retries=NO_RETRIES), NoMetrics(DECLARED)
        self.lister = Lister(client, lambda: FRONT_ENDS[0], clock)
        self._reconciler = Reconciler(
            client,
            self.knowledge,
            Turns(),
            lambda: FRONT_ENDS[0],
            table(),
            self.lister,
            NodeStates(client, self.knowledge, metrics, inventory=lambda: False),
            leading=lambda: self.leading,
            on_refused=self.refused.append,
            metrics=metrics,
            clock=clock,
        )
        server.watchers.append(lambda kind, key, raw: self._unheard[kind].append((key, raw)))

    def hear(self, kind: str, most: int = 1_000_000) -> None:
        """Take in the next events of one watch."""
        unheard = self._unheard[kind]
        for _ in range(min(most, len(unheard))):
            self._take(kind, *unheard.popleft())

    def relist(self, kind: str) -> None:
        """Lose the watch: of what has happened meanwhile only the outcome is learnt."""
        last = dict(self._unheard[kind])
        self._unheard[kind].clear()
        for key, raw in last.items():
            self._take(kind, key, raw)

    def work(self) -> None:
        """Look at the next node, unless it is looking at one already: it does one thing at a time."""
        if not self.dirty or self._busy:
            return
        node = self.dirty.popleft()
        self._busy = True
        todo = self._reconciler.look_at(node)
        self._busy = False
        if todo.failed:
            self.failures += 1
            self._soon(node)
        elif todo.after is not None:
            self.timers[node] = min(self.timers.get(node, float("inf")), self._clock() + todo.after)

    def list(self) -> None:
        """Serve those who asked for a list, if any."""
        try:
            for node in self.lister.serve():
                self._soon(node)
        except ApiError:
            self.failures += 1

    def wake(self) -> None:
        """Look at nodes whose time has come."""
        for node, due in list(self.timers.items()):
            if due <= self._clock():
                del self.timers[node]
                self._soon(node)

    def _take(self, kind: str, key: Any, raw: bytes | None) -> None:
        if kind == "claim":
            claim = None if raw is None else _reader().claim(raw)
            for node in sorted(self.knowledge.take_claim(ClaimRef(*key), claim)):
                self._soon(node)
        elif self.knowledge.take_node(key, None if raw is None else read_node_object(raw)):
            self._soon(key)

    def _soon(self, node: str) -> None:
        if node not in self.dirty:
            self.dirty.append(node)
