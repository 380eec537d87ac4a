"""The controller at work: what it watches, who looks at nodes, and how it ends."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from reconciler.controller import controller_metrics as measures
from reconciler.controller.classic.ledger import Ledger
from reconciler.controller.classic.negotiator import Negotiator, Setting
from reconciler.controller.front_ends import Classic, FrontEnd, NoFrontEnd, discover
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.lister import Lister
from reconciler.controller.node_states import NODE_STATES, NodeStates
from reconciler.controller.reconciling import Reconciler, put_back
from reconciler.controller.turns import Turns
from reconciler.runtime.backoff import Backoff
from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.kube.event_bodies import EventType, Regarding
from reconciler.runtime.kube.events import EventRecorder
from reconciler.runtime.kube.lease import Elector
from reconciler.runtime.kube.queue import WorkQueue
from reconciler.runtime.kube.reflector import Reflector, Timing
from reconciler.runtime.kube.threads import start_thread
from reconciler.runtime.metrics import Metrics
from state.classic.claims import ClassicClaim, projected
from state.classic.spots import Policy
from state.dra.node_object import NodeObject, read_node_object
from state.dra.node_view import Refused
from state.dra.resource_claims import Claim, ClaimRef
from state.profiles import ProfileTable

_TICK: Final = 1.0
"""Seconds between looks at whether the version of claims we watch is still served; gauges are set then too."""

_SYNC_TICK: Final = 0.02
_TIMING: Final = Timing(longest_wait=10.0)
"""Pods wait for what is heard here: several broken watches in a row must not make us deaf for half a minute."""

_FIRST_RETRY: Final = 0.1
_NODE_RETRY: Final = 5.0
"""At most this many seconds until a node that failed is tried again: after an outage pods wait for it."""
_LAST_RETRY: Final = 30.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """``identity`` tells this replica from others in the Lease; ``workers`` look at nodes at the same time.

    ``policy`` is how devices are chosen where it is us who allocate (classic DRA).
    """

    lease_namespace: str
    lease_name: str = "gpu-controller"
    identity: str
    workers: int = 4
    policy: Policy = field(default_factory=Policy)


class Controller:
    """Watches claims and GpuNodeStates and keeps the latter as the former want them.

    ``on_crash`` hears of a thread that died of a bug: without it the controller is of no use.
    """

    def __init__(
        self,
        client: KubeClient,
        table: ProfileTable,
        settings: ControllerSettings,
        *,
        metrics: Metrics,
        on_crash: Callable[[BaseException], None],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._on_crash = on_crash
        self._clock = clock
        self._rng = rng
        self._stopping = threading.Event()
        self._synced = threading.Event()
        self._row: FrontEnd | None = None
        self._trouble = "not started"
        self._threads: list[threading.Thread] = []
        self._queue: WorkQueue[str] = WorkQueue(Backoff(_FIRST_RETRY, _NODE_RETRY, rng), clock=clock)
        self._knowledge = Knowledge(clock)
        self._turns = Turns()
        self._table = table
        self._negotiator: Negotiator | None = None
        self._lister = Lister(client, self._front_end, clock)
        self._node_states = NodeStates(
            client, self._knowledge, metrics, inventory=lambda: self._front_end().allocates
        )
        self._nodes: Reflector[NodeObject] = Reflector(
            client,
            NODE_STATES,
            lambda raw: read_node_object(raw, inventory=self._front_end().allocates),
            self._node_changed,
            timing=_TIMING,
            metrics=metrics,
            on_crash=on_crash,
        )
        self._elector = self._new_elector()
        self._events = EventRecorder(
            client, "gpu-controller", settings.identity, metrics=metrics, on_crash=on_crash
        )
        self._reconciler = self._new_reconciler()

    def start(self) -> None:
        """Begin everything in threads of their own. Once only."""
        self._trouble = "GpuNodeStates have not been listed yet"
        self._elector.start()
        self._events.start()
        self._start("front end", self._follow_claims)
        self._start("lister", self._serve_lists)
        for number in range(self._settings.workers):
            self._start(f"worker {number}", self._work)

    def stop(self) -> None:
        """End everything; a write under way is finished or times out, the Lease is given back."""
        self._stopping.set()
        self._queue.close()
        self._lister.close()
        self._client.close()
        self._nodes.stop()
        self._elector.stop(1.0)
        self._events.stop()
        for thread in self._threads:
            thread.join(1.0)

    def not_ready(self) -> str:
        """Why nothing is decided yet; empty once it is, whether leading or not."""
        return "" if self._synced.is_set() else self._trouble

    def _new_elector(self) -> Elector:
        return Elector(
            self._client,
            namespace=self._settings.lease_namespace,
            name=self._settings.lease_name,
            identity=self._settings.identity,
            on_change=lambda leading: self._metrics.gauge(measures.LEADING, int(leading)),
            on_crash=self._on_crash,
        )

    def _new_reconciler(self) -> Reconciler:
        return Reconciler(
            self._client,
            self._knowledge,
            self._turns,
            self._front_end,
            self._table,
            self._lister,
            self._node_states,
            leading=lambda: self._elector.leading,
            on_refused=self._tell_of_refusal,
            metrics=self._metrics,
            clock=self._clock,
        )

    def _start(self, name: str, run: Callable[[], None]) -> None:
        self._threads.append(start_thread(name, run, self._on_crash))

    def _front_end(self) -> FrontEnd:
        row = self._row
        if row is None:
            raise ValueError("nothing can be decided before a front end has been found")
        return row

    def _follow_claims(self) -> None:
        """Find the version of claims to watch and watch it for as long as it is served; then look again."""
        backoff: Backoff[str] = Backoff(_FIRST_RETRY, _LAST_RETRY, self._rng)
        while not self._stopping.is_set():
            try:
                row = discover(self._client)
            except (NoFrontEnd, ApiError) as error:
                self._trouble = f"claims can't be watched: {error}"
                _log.warning("%s", self._trouble)
                self._stopping.wait(backoff.failed("discovery", self._clock()))
                continue
            backoff.succeeded("discovery")
            _log.info("watching claims", extra={"version": row.source})
            if self._row is None:
                self._row = row
                self._nodes.start()
            elif self._row.allocates != row.allocates:
                # What is read of each node differs, and such a change of the server comes once in years.
                self._on_crash(RuntimeError(f"{row.source} is served now: to be started again for that"))
                return
            self._row = row
            if row.classic is None:
                self._follow(row)
            else:
                self._follow_and_negotiate(row, row.classic)
            self._stopping.wait(_FIRST_RETRY)

    def _follow(self, row: FrontEnd) -> None:
        claims: Reflector[Claim] = self._watch(
            row, row.reader.claim, lambda key: self._claim_changed(key, claims.cache.get(key))
        )
        self._knowledge.expect_claims_anew()
        claims.start()
        try:
            if self._all_listed(claims):
                self._go_on()
            while not claims.absent and not self._stopping.wait(_TICK):
                self._set_gauges()
        finally:
            claims.stop()

    def _follow_and_negotiate(self, row: FrontEnd, classic: Classic) -> None:
        claims: Reflector[ClassicClaim] = self._watch(
            row,
            classic.reader.negotiated,
            lambda key: self._classic_claim_changed(key, claims.cache.get(key), negotiator),
        )
        negotiator = Negotiator(self._setting(), row, classic, claims.cache)
        self._negotiator = negotiator
        self._knowledge.expect_claims_anew()
        claims.start()
        negotiator.start()
        try:
            if self._all_listed(claims, negotiator.listed):
                self._go_on()
                negotiator.begin()
            while not claims.absent and not self._stopping.wait(_TICK):
                self._set_gauges()
        finally:
            self._negotiator = None
            claims.stop()
            negotiator.stop()

    def _watch(
        self, row: FrontEnd, decode: Callable[[bytes], T], on_change: Callable[[Key], None]
    ) -> Reflector[T]:
        return Reflector(
            self._client,
            row.claims_path,
            decode,
            on_change,
            timing=_TIMING,
            metrics=self._metrics,
            on_crash=self._on_crash,
        )

    def _setting(self) -> Setting:
        return Setting(
            client=self._client,
            knowledge=self._knowledge,
            ledger=Ledger(self._node_states, self._knowledge, self._turns, self._table, self._settings.policy),
            events=self._events,
            leading=lambda: self._elector.leading,
            metrics=self._metrics,
            on_crash=self._on_crash,
            clock=self._clock,
            rng=self._rng,
            timing=_TIMING,
            workers=self._settings.workers,
        )

    def _go_on(self) -> None:
        """All that was there at the start is known."""
        self._look_at(self._knowledge.forget_unheard_claims())
        self._synced.set()

    def _all_listed(self, claims: Reflector[T], others: Callable[[], str] = str) -> bool:
        """Wait for the first complete lists. False if they are not to come."""
        for reflector, what in ((self._nodes, "GpuNodeStates"), (claims, "claims")):
            while not reflector.synced.wait(_SYNC_TICK):
                self._trouble = f"{what} have not been listed yet" + (
                    f": {reflector.trouble}" if reflector.trouble else ""
                )
                if claims.absent or self._stopping.is_set():
                    return False
        while trouble := others():
            self._trouble = trouble
            if claims.absent or self._stopping.wait(_SYNC_TICK):
                return False
        return True

    def _claim_changed(self, key: Key, claim: Claim | None) -> None:
        self._look_at(self._knowledge.take_claim(ClaimRef(key.namespace, key.name), claim))

    def _classic_claim_changed(self, key: Key, claim: ClassicClaim | None, negotiator: Negotiator) -> None:
        try:
            self._claim_changed(key, None if claim is None else projected(claim))
        except msgspec.ValidationError as error:
            _log.error("%s", error, extra={"claim": f"{key.namespace}/{key.name}"})
        negotiator.claim_changed(ClaimRef(key.namespace, key.name))

    def _node_changed(self, key: Key) -> None:
        if self._knowledge.take_node(key.name, self._nodes.cache.get(key)):
            self._queue.add(key.name)
        if self._negotiator is not None:
            self._negotiator.node_changed(key.name)

    def _look_at(self, nodes: frozenset[str]) -> None:
        for node in nodes:
            self._queue.add(node)

    def _work(self) -> None:
        while not self._synced.wait(_SYNC_TICK):
            if self._stopping.is_set():
                return
        while (node := self._queue.get()) is not None:
            try:
                self._look(node)
            finally:
                self._queue.done(node)

    def _look(self, node: str) -> None:
        started = self._clock()
        try:
            todo = self._reconciler.look_at(node)
        except Exception:  # noqa: BLE001 – a bug that one node's objects bring out must not stop all others
            _log.exception("a look at a node crashed", extra={"node": node})
            self._metrics.count(measures.ROUNDS, result="crashed")
            self._queue.failed(node)
            return
        self._metrics.observe(measures.ROUND_SECONDS, self._clock() - started)
        self._metrics.count(measures.ROUNDS, result="failed" if todo.failed else "ok")
        wait = put_back(self._queue, node, todo)
        if todo.failed and wait is not None:
            _log.warning("will try again: %s", todo.failed, extra={"node": node, "again_in": round(wait, 3)})

    def _serve_lists(self) -> None:
        backoff: Backoff[str] = Backoff(1.0, _LAST_RETRY, self._rng)
        while not self._stopping.is_set():
            if not self._lister.wait():
                return
            try:
                served = self._lister.serve()
            except ApiError as error:
                self._metrics.count(measures.LISTS, result="failed")
                _log.warning("claims can't be listed for a withdrawal: %s", error)
                self._stopping.wait(backoff.failed("list", self._clock()))
                continue
            self._metrics.count(measures.LISTS, result="ok")
            backoff.succeeded("list")
            self._look_at(served)

    def _tell_of_refusal(self, refused: Refused) -> None:
        claim = Regarding(
            api_version=self._front_end().source,
            kind="ResourceClaim",
            namespace=refused.ref.namespace,
            name=refused.ref.name,
            uid=refused.uid,
        )
        note = f"{refused.refusal.path}: {refused.refusal.reason}"
        self._events.record(claim, EventType.WARNING, "AllocationRefused", note, "Project")

    def _set_gauges(self) -> None:
        nodes, claims = self._knowledge.sizes()
        self._metrics.gauge(measures.NODES, nodes)
        self._metrics.gauge(measures.CLAIMS, claims)
        self._metrics.gauge(measures.WAITING, len(self._queue))
