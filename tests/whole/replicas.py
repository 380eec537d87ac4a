"""A replica of the controller, driven by hand: it hears, looks at nodes and lists claims when told to."""

from collections import deque

from kubesim import Cluster
from reconciler.controller.controller_metrics import DECLARED
from reconciler.controller.front_ends import FrontEnd, discover
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.lister import Lister
from reconciler.controller.node_states import NODE_STATES, NodeStates
from reconciler.controller.reconciling import Reconciler
from reconciler.controller.turns import Turns
from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.metrics import NoMetrics
from state.dra.node_object import NodeObject, read_node_object
from state.dra.resource_claims import Claim, ClaimRef
from tests.engine.machines import TABLES, Time
from tests.kube_in_memory import InMemory
from tests.whole.listening import HandReflector

RETRY_SECONDS = 5.0


class Replica:
    """One controller process, from start to death."""

    def __init__(self, cluster: Cluster, time: Time, *, leading: bool) -> None:
        self.leading = leading
        self._time = time
        self._row: FrontEnd | None = None
        self._synced = False
        self._dirty: deque[str] = deque()
        self._timers: dict[str, float] = {}
        self._client = client = KubeClient(InMemory(cluster), retries=NO_RETRIES, clock=time.monotonic)
        self._knowledge = Knowledge(time.monotonic)
        self._lister = Lister(client, self._front_end, time.monotonic)
        self._nodes: HandReflector[NodeObject] = HandReflector(
            client, NODE_STATES, read_node_object, self._node_changed, clock=time.monotonic
        )
        self._nodes.start()
        self._claims: HandReflector[Claim] | None = None
        metrics = NoMetrics(DECLARED)
        self._reconciler = Reconciler(
            client,
            self._knowledge,
            Turns(),
            self._front_end,
            TABLES.profiles,
            self._lister,
            NodeStates(client, self._knowledge, metrics, inventory=lambda: False),
            leading=lambda: self.leading,
            on_refused=lambda _: None,
            metrics=metrics,
            clock=time.monotonic,
        )

    def hear_nodes(self) -> None:
        self._nodes.hear()

    def hear_claims(self) -> None:
        if self._row is None:
            try:
                self._row = discover(self._client)
            except ApiError:
                return
        if self._claims is None:
            self._claims = self._following(self._row)
            self._knowledge.expect_claims_anew()
        self._claims.hear()
        if not self._synced and self._claims.synced.is_set() and self._nodes.synced.is_set():
            self._synced = True
            for node in self._knowledge.forget_unheard_claims():
                self._soon(node)

    def work(self) -> None:
        """Look at all nodes that something was heard of, and serve those who want a list."""
        if not self._synced:
            return
        for _ in range(len(self._dirty)):
            self._look(self._dirty.popleft())
        try:
            for node in self._lister.serve():
                self._soon(node)
        except ApiError:
            self._timers[""] = self._time.monotonic() + RETRY_SECONDS

    def wake(self) -> None:
        """Look at nodes whose time has come."""
        due = [node for node, at in self._timers.items() if at <= self._time.monotonic()]
        for node in due:
            del self._timers[node]
            if node:
                self._soon(node)
        if due:
            self.work()

    @property
    def due(self) -> float | None:
        """When there is something to do."""
        return min(self._timers.values(), default=None)

    def _look(self, node: str) -> None:
        todo = self._reconciler.look_at(node)
        after = RETRY_SECONDS if todo.failed else todo.after
        if after is not None:
            at = self._time.monotonic() + after
            self._timers[node] = min(self._timers.get(node, at), at)

    def _following(self, row: FrontEnd) -> HandReflector[Claim]:
        claims: HandReflector[Claim] = HandReflector(
            self._client,
            row.claims_path,
            row.reader.claim,
            lambda key: self._claim_changed(key, claims.cache.get(key)),
            clock=self._time.monotonic,
        )
        claims.start()
        return claims

    def _front_end(self) -> FrontEnd:
        assert self._row is not None
        return self._row

    def _claim_changed(self, key: Key, claim: Claim | None) -> None:
        for node in sorted(self._knowledge.take_claim(ClaimRef(key.namespace, key.name), claim)):
            self._soon(node)

    def _node_changed(self, key: Key) -> None:
        if self._knowledge.take_node(key.name, self._nodes.cache.get(key)):
            self._soon(key.name)

    def _soon(self, node: str) -> None:
        if node not in self._dirty:
            self._dirty.append(node)
