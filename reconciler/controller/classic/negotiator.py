"""The negotiation of classic DRA as a whole: what is watched, and who is served when."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from reconciler.controller import controller_metrics as measures
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
from reconciler.controller.front_ends import Classic, FrontEnd
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.reconciling import Next, put_back
from reconciler.runtime.backoff import Backoff
from reconciler.runtime.kube.cache import Cache, Key
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.kube.events import EventRecorder
from reconciler.runtime.kube.queue import WorkQueue
from reconciler.runtime.kube.reflector import Reflector, Timing
from reconciler.runtime.kube.threads import start_thread
from reconciler.runtime.metrics import Metrics
from state.classic.claims import ClassicClaim
from state.classic.classes import ResourceClass
from state.classic.scheduling import PodScheduling, read_scheduling
from state.dra.resource_claims import ClaimRef

_TICK: Final = 0.02
_FIRST_RETRY: Final = 0.1
_LAST_RETRY: Final = 10.0

_log = logging.getLogger(__name__)


class _Kind(Enum):
    POD = "pod"
    CLAIM = "claim"


class _Task(NamedTuple):
    kind: _Kind
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the negotiator shares with the rest of the controller."""

    client: KubeClient
    knowledge: Knowledge
    ledger: Ledger
    events: EventRecorder
    leading: Callable[[], bool]
    metrics: Metrics
    on_crash: Callable[[BaseException], None]
    clock: Callable[[], float]
    rng: random.Random
    timing: Timing
    workers: int


class Negotiator:
    """Works from caches: of ``claims``, which somebody else keeps, and its own of classes and pods' scheduling."""

    def __init__(self, setting: Setting, row: FrontEnd, classic: Classic, claims: Cache[ClassicClaim]) -> None:
        self._setting = setting
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._threads: list[threading.Thread] = []
        backoff: Backoff[_Task] = Backoff(_FIRST_RETRY, _LAST_RETRY, setting.rng)
        self._queue: WorkQueue[_Task] = WorkQueue(backoff, clock=setting.clock)
        client = setting.client
        self._schedulings: Reflector[PodScheduling] = Reflector(
            client,
            row.path(classic.schedulings),
            read_scheduling,
            self._scheduling_changed,
            timing=setting.timing,
            metrics=setting.metrics,
            on_crash=setting.on_crash,
        )
        self._classes: Reflector[ResourceClass] = Reflector(
            client,
            row.path(classic.classes),
            classic.read_class,
            self._class_changed,
            timing=setting.timing,
            metrics=setting.metrics,
            on_crash=setting.on_crash,
        )
        known = KnownClaims(claims)
        self._desk = Desk(
            client=client,
            source=row.source,
            claims=known,
            classes=self._classes.cache,
            schedulings=self._schedulings.cache,
            knowledge=setting.knowledge,
            ledger=setting.ledger,
            asking=Asking(client, setting.clock),
            pods=Pods(client),
            wants=Wants(),
            writes=ClaimWrites(client, row, classic, known),
            events=setting.events,
            turn=Turn(setting.leading, setting.clock),
        )
        self._pods_waiting: Waiting[Key] = Waiting()
        self._claims_waiting: Waiting[ClaimRef] = Waiting()
        self._pod_talk = PodTalk(self._desk, self._pods_waiting, self._claim_let_go)
        self._claim_talk = ClaimTalk(self._desk, self._claims_waiting)

    def start(self) -> None:
        """Begin to watch, and to serve once ``begin`` is called. Once only."""
        self._classes.start()
        self._schedulings.start()
        for number in range(self._setting.workers):
            self._threads.append(start_thread(f"negotiator {number}", self._work, self._setting.on_crash))

    def listed(self) -> str:
        """What has not been listed completely yet; empty: nothing."""
        for reflector, what in ((self._classes, "classes"), (self._schedulings, "pods' scheduling")):
            if not reflector.synced.is_set():
                return f"{what} have not been listed yet" + (f": {reflector.trouble}" if reflector.trouble else "")
        return ""

    def begin(self) -> None:
        """Everything is known that was there at the start."""
        self._ready.set()

    def stop(self) -> None:
        """End; a request under way is finished or times out."""
        self._stopping.set()
        self._queue.close()
        self._classes.stop()
        self._schedulings.stop()
        for thread in self._threads:
            thread.join(1.0)

    def claim_changed(self, ref: ClaimRef) -> None:
        """A claim is new, changed or gone."""
        self._queue.add(_Task(_Kind.CLAIM, ref.namespace, ref.name))
        for pod in self._desk.wants.pods_of(ref):
            self._queue.add(_Task(_Kind.POD, *pod))

    def node_changed(self, node: str) -> None:
        """A GpuNodeState is new, changed or gone."""
        if self._setting.knowledge.node(node) is None:
            self._setting.ledger.forget(node)
        for pod in self._pods_waiting.on(node):
            self._queue.add(_Task(_Kind.POD, *pod))
        for ref in self._claims_waiting.on(node):
            self._queue.add(_Task(_Kind.CLAIM, ref.namespace, ref.name))

    def _scheduling_changed(self, key: Key) -> None:
        self._queue.add(_Task(_Kind.POD, *key))

    def _class_changed(self, key: Key) -> None:
        for pod, _ in self._desk.schedulings.items():
            self._queue.add(_Task(_Kind.POD, *pod))
        for claim, found in self._desk.claims.items():
            if found.class_name == key.name:
                self._queue.add(_Task(_Kind.CLAIM, *claim))

    def _work(self) -> None:
        while not self._ready.wait(_TICK):
            if self._stopping.is_set():
                return
        while (task := self._queue.get()) is not None:
            try:
                self._serve(task)
            finally:
                self._queue.done(task)

    def _serve(self, task: _Task) -> None:
        started = self._setting.clock()
        try:
            todo = self._next(task)
        except ApiError as error:
            todo = Next(failed=str(error), after=error.retry_after)
        except Crowded as error:
            todo = Next(failed=str(error))
        except Exception:  # noqa: BLE001 – a bug that one object brings out must not stop all others
            _log.exception("a negotiation crashed", extra={task.kind.value: f"{task.namespace}/{task.name}"})
            self._setting.metrics.count(measures.NEGOTIATIONS, about=task.kind.value, result="crashed")
            self._queue.failed(task)
            return
        self._setting.metrics.observe(
            measures.NEGOTIATION_SECONDS, self._setting.clock() - started, about=task.kind.value
        )
        result = "failed" if todo.failed else "ok"
        self._setting.metrics.count(measures.NEGOTIATIONS, about=task.kind.value, result=result)
        about = {task.kind.value: f"{task.namespace}/{task.name}"}
        wait = put_back(self._queue, task, todo)
        if wait is not None:
            level = logging.WARNING if todo.failed else logging.DEBUG
            why = todo.failed or f"there is no {todo.missing} yet"
            _log.log(level, "will try again: %s", why, extra=about | {"again_in": round(wait, 3)})

    def _next(self, task: _Task) -> Next:
        if task.kind is _Kind.CLAIM:
            return self._claim_talk.serve(ClaimRef(task.namespace, task.name))
        return self._pod_talk.serve(Key(task.namespace, task.name))

    def _claim_let_go(self, ref: ClaimRef) -> None:
        """A pod that had it is not being scheduled any more."""
        self._queue.add(_Task(_Kind.CLAIM, ref.namespace, ref.name))
