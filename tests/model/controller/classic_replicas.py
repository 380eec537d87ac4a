"""Replicas of a controller that negotiates, without threads: they hear and work when a test says so."""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from reconciler.controller.classic.asking import Asking
from reconciler.controller.classic.claim_talk import ClaimTalk
from reconciler.controller.classic.claim_writes import ClaimWrites
from reconciler.controller.classic.desk import Desk, Turn
from reconciler.controller.classic.known_claims import KnownClaims
from reconciler.controller.classic.ledger import Crowded, Ledger
from reconciler.controller.classic.pod_talk import PodTalk
from reconciler.controller.classic.pods import Pods
from reconciler.controller.classic.waiting import Waiting
from reconciler.controller.classic.wants import Wants
from reconciler.controller.controller_metrics import DECLARED
from reconciler.controller.front_ends import FRONT_ENDS
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.lister import Lister
from reconciler.controller.node_states import NodeStates
from reconciler.controller.reconciling import Next, Reconciler
from reconciler.controller.turns import Turns
from reconciler.runtime.kube.cache import Cache, Key, Seen
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.kube.events import EventRecorder
from reconciler.runtime.metrics import NoMetrics
from state.classic.claims import ClassicClaim, ClassicReader, projected
from state.classic.classes import ResourceClass
from state.classic.scheduling import PodScheduling, read_scheduling
from state.classic.spots import Policy
from state.dra.node_object import read_node_object
from state.dra.resource_claims import ClaimRef
from tests.model.controller.classic_paper import ClassicPaper
from tests.unit.state.dra.objects import table

(ROW,) = (row for row in FRONT_ENDS if row.version == "v1alpha1")
KINDS = ("claim", "scheduling", "node")
_AGAIN = 0.1
_READER = ClassicReader()


class Task(NamedTuple):
    kind: str
    namespace: str
    name: str


class ClassicReplica:
    """One controller, which begins by listing everything."""

    def __init__(
        self,
        server: ClassicPaper,
        clock: Callable[[], float],
        classes: tuple[ResourceClass, ...],
        *,
        leading: bool,
    ) -> None:
        self.leading = leading
        self.tasks: deque[Task] = deque()
        self.timers: dict[Task, float] = {}
        self._under_way: list[Task] = []
        self.claims: Cache[ClassicClaim] = Cache()
        self.schedulings: Cache[PodScheduling] = Cache()
        self.knowledge = Knowledge(clock)
        self._clock = clock
        self._server = server
        self._unheard: dict[str, deque[tuple[Any, bytes | None]]] = {kind: deque() for kind in KINDS}
        self._claims_waiting: Waiting[ClaimRef] = Waiting()
        self._pods_waiting: Waiting[Key] = Waiting()
        client, turns, metrics = KubeClient(server, retries=NO_RETRIES), Turns(), NoMetrics(DECLARED)
        self._lister = Lister(client, lambda: ROW, clock)
        node_states = NodeStates(client, self.knowledge, metrics, inventory=lambda: True)
        self._reconciler = Reconciler(
            client,
            self.knowledge,
            turns,
            lambda: ROW,
            table(),
            self._lister,
            node_states,
            leading=lambda: self.leading,
            on_refused=lambda refused: None,
            metrics=metrics,
            clock=clock,
        )
        ledger = Ledger(node_states, self.knowledge, turns, table(), Policy())
        self._desk = self._furnished(client, ledger, classes)
        self._pod_talk = PodTalk(self._desk, self._pods_waiting, self._let_go)
        self._claim_talk = ClaimTalk(self._desk, self._claims_waiting)
        self._list_everything()
        server.watchers.append(self._tell)

    def _furnished(self, client: KubeClient, ledger: Ledger, classes: tuple[ResourceClass, ...]) -> Desk:
        assert ROW.classic is not None
        known: Cache[ResourceClass] = Cache()
        for one in classes:
            known.put(Seen(key=Key("", one.name), uid=one.name, resource_version="1", value=one))
        claims = KnownClaims(self.claims)
        return Desk(
            client=client,
            source=ROW.source,
            claims=claims,
            classes=known,
            schedulings=self.schedulings,
            knowledge=self.knowledge,
            ledger=ledger,
            asking=Asking(client, self._clock),
            pods=Pods(client),
            wants=Wants(),
            writes=ClaimWrites(client, ROW, ROW.classic, claims),
            events=EventRecorder(client, "gpu-controller", "r"),
            turn=Turn(lambda: self.leading, self._clock),
        )

    def leave(self) -> None:
        """It is dead, and hears nothing more."""
        self._server.watchers.remove(self._tell)

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

    @property
    def waits(self) -> bool:
        """Whether there is something to do, for another thread if one is at work."""
        able = not self._under_way or self._server.lets_others_work
        return able and any(task not in self._under_way for task in self.tasks)

    def work(self) -> None:
        """Serve the next task."""
        if not self.waits:
            return
        task = next(task for task in self.tasks if task not in self._under_way)
        self.tasks.remove(task)
        self._under_way.append(task)
        try:
            todo = self._next(task)
        except (ApiError, Crowded) as error:
            todo = Next(failed=str(error))
        finally:
            self._under_way.remove(task)
        after = _AGAIN if todo.failed or todo.missing else todo.after
        if after is not None:
            self.timers[task] = min(self.timers.get(task, float("inf")), self._clock() + after)

    def wake(self) -> None:
        """Those whose time has come are to be served."""
        for task, due in list(self.timers.items()):
            if due <= self._clock():
                del self.timers[task]
                self._soon(task)

    def _next(self, task: Task) -> Next:
        if task.kind == "node":
            return self._reconciler.look_at(task.name)
        if task.kind == "claim":
            return self._claim_talk.serve(ClaimRef(task.namespace, task.name))
        return self._pod_talk.serve(Key(task.namespace, task.name))

    def _list_everything(self) -> None:
        server = self._server
        for kind, objects in (
            ("node", server.nodes),
            ("claim", server.claims),
            ("scheduling", server.schedulings),
        ):
            for key, raw in objects.items():
                self._take(kind, key, msgspec.json.encode(raw))

    def _tell(self, kind: str, key: Any, raw: bytes | None) -> None:
        self._unheard[kind].append((key, raw))

    def _take(self, kind: str, key: Any, raw: bytes | None) -> None:
        if kind == "node":
            self._take_node(key, raw)
        elif kind == "claim":
            self._take_claim(Key(*key), raw)
        else:
            _put(self.schedulings, Key(*key), None if raw is None else read_scheduling(raw))
            self._soon(Task("pod", *key))

    def _take_node(self, name: str, raw: bytes | None) -> None:
        if self.knowledge.take_node(name, None if raw is None else read_node_object(raw, inventory=True)):
            self._soon(Task("node", "", name))
        for pod in self._pods_waiting.on(name):
            self._soon(Task("pod", *pod))
        for ref in self._claims_waiting.on(name):
            self._let_go(ref)

    def _take_claim(self, key: Key, raw: bytes | None) -> None:
        claim, ref = None if raw is None else _READER.negotiated(raw), ClaimRef(*key)
        _put(self.claims, key, claim)
        for node in sorted(self.knowledge.take_claim(ref, None if claim is None else projected(claim))):
            self._soon(Task("node", "", node))
        self._let_go(ref)
        for pod in self._desk.wants.pods_of(ref):
            self._soon(Task("pod", *pod))

    def _let_go(self, ref: ClaimRef) -> None:
        self._soon(Task("claim", ref.namespace, ref.name))

    def _soon(self, task: Task) -> None:
        if task not in self.tasks:
            self.tasks.append(task)


def _put(cache: Cache[Any], key: Key, value: ClassicClaim | PodScheduling | None) -> None:
    if value is None:
        cache.remove(key)
    else:
        cache.put(Seen(key=key, uid=value.uid, resource_version=value.resource_version, value=value))
