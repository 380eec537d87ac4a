"""One pod's turn: which nodes can serve its claims, and, once the scheduler has chosen one, their allocation.

The claims of a pod are decided together, in one write to the ledger of the chosen node, and each is told only
after that. Whoever is interrupted finds the decision there, and goes on from it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.controller.classic.desk import SOON, Desk
from reconciler.controller.classic.waiting import Waiting
from reconciler.controller.reconciling import Next
from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.errors import Conflict, NotFound
from reconciler.runtime.kube.event_bodies import EventType, Regarding
from state.classic.claims import ClassicClaim, Consumer
from state.classic.classes import ResourceClass
from state.classic.negotiating import is_pending, nodes_of, of_nodes
from state.classic.parameters import ParametersError
from state.classic.placing import Unsuitable
from state.classic.scheduling import Pod, PodScheduling, answered
from state.classic.wishes import Wish
from state.dra.resource_claims import ClaimRef

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A claim of the pod that is ours to allocate; ``entry`` is the pod's name for it."""

    entry: str
    claim: ClassicClaim
    of_class: ResourceClass
    wish: Wish


class PodTalk:
    """Serves pods that are being scheduled; no two workers have the same at a time.

    ``let_go`` hears of claims that a pod wanted and doesn't any more.
    """

    def __init__(self, desk: Desk, waiting: Waiting[Key], let_go: Callable[[ClaimRef], None]) -> None:
        self._desk = desk
        self._waiting = waiting
        self._let_go = let_go

    def serve(self, key: Key) -> Next:
        """Do what there is to do for a pod. Raises ApiError."""
        scheduling = self._desk.schedulings.get(key)
        pod = None if scheduling is None else self._desk.pods.of(scheduling)
        if scheduling is None or pod is None:
            return self._end(key, known=scheduling is not None)
        self._desk.wants.note(key, frozenset(ClaimRef(key.namespace, one.claim) for one in pod.claims))
        claims = self._claims(key.namespace, pod)
        if isinstance(claims, Next):
            self._desk.pods.of(scheduling, again=True)
            return claims
        try:
            pending = self._pending(claims)
        except ParametersError as error:
            self._tell(scheduling, "AllocationFailed", str(error))
            return Next(failed=str(error))
        if not pending:
            self._waiting.wait(key, ())
            return Next()
        return self._negotiate(key, scheduling, pending, nodes_of(claims.values()))

    def _end(self, key: Key, *, known: bool) -> Next:
        """The pod is bound, or gone; ``known``: although the scheduler still asks for it."""
        self._waiting.wait(key, ())
        self._desk.turn.over(_name(key))
        claims = self._desk.wants.drop(key)
        if known:
            self._desk.wants.note(key, frozenset())
        for ref in claims:
            self._let_go(ref)
        return Next()

    def _claims(self, namespace: str, pod: Pod) -> Mapping[str, ClassicClaim] | Next:
        """The pod's claims by its names for them, unless one is not known, or is still another pod's."""
        claims = {}
        for one in pod.claims:
            claim = self._desk.claims.get(Key(namespace, one.claim))
            if claim is None or (one.made and claim.made_for != pod.uid):
                return Next(missing=f"claim {one.claim} of the pod")
            claims[one.entry] = claim
        return claims

    def _pending(self, claims: Mapping[str, ClassicClaim]) -> Sequence[_Pending]:
        """Those to be allocated by us. Raises ParametersError and ApiError."""
        pending = []
        for entry, claim in claims.items():
            of_class = self._desk.class_of(claim)
            if of_class is None or not of_class.ours or not is_pending(claim):
                continue
            wish = self._desk.asking.wish(claim, of_class)
            pending.append(_Pending(entry=entry, claim=claim, of_class=of_class, wish=wish))
        return pending

    def _negotiate(
        self, key: Key, scheduling: PodScheduling, pending: Sequence[_Pending], bound: frozenset[str]
    ) -> Next:
        self._waiting.wait(key, scheduling.nodes)  # from before the look on, so that no change is missed
        wishes = [one.wish for one in pending]
        reasons = {node: self._unsuitable(node, wishes, bound) for node in scheduling.nodes}
        selected = scheduling.selected
        wait = self._desk.turn.remaining(_name(key), scheduling.resource_version)
        if wait > 0:
            return Next(after=wait)
        try:
            if selected and not reasons[selected]:
                outcome = self._allocate(scheduling, pending)
                if isinstance(outcome, Next):
                    return outcome
                reasons[selected] = outcome.reasons
            self._answer(scheduling, pending, reasons)
        except Conflict as error:
            _log.info("has changed meanwhile: %s", error, extra={"pod": f"{key.namespace}/{key.name}"})
            return Next(after=SOON)
        except NotFound as error:
            _log.info("has gone meanwhile: %s", error, extra={"pod": f"{key.namespace}/{key.name}"})
            return Next(after=SOON)
        self._waiting.wait(key, [node for node, why in reasons.items() if why])
        return Next()

    def _unsuitable(self, node: str, wishes: Sequence[Wish], bound: frozenset[str]) -> Mapping[str, str]:
        """Why a node won't do. Where the pod has a claim on another already, all have to go there: the scheduler
        may have changed its mind in between.
        """
        elsewhere = bound - {node}
        if elsewhere:
            why = f"another claim of the pod is allocated on {', '.join(sorted(elsewhere))}"
            return {wish.uid: why for wish in wishes}
        return self._desk.ledger.unsuitable(node, wishes)

    def _allocate(self, scheduling: PodScheduling, pending: Sequence[_Pending]) -> Next | Unsuitable:
        """Allocate all on the selected node, or none. Raises ApiError."""
        desk, node = self._desk, scheduling.selected
        strays = [one.claim for one in pending if set(desk.knowledge.in_ledgers(one.claim.uid)) - {node}]
        if strays:
            # Decided for another node, and never told. Without the finalizer nobody can tell any more, and the
            # entries go; only then is it decided anew.
            for claim in strays:
                if claim.fence:
                    desk.writes.unfence(claim)
            return Next(after=SOON)
        fenced = [desk.writes.fence(one.claim, one.of_class.driver) for one in pending]
        entries = desk.ledger.take(node, desk.source, [one.wish for one in pending])
        if isinstance(entries, Unsuitable):
            return entries
        pod = Consumer(resource="pods", name=scheduling.name, uid=scheduling.pod_uid)
        for one, claim in zip(pending, fenced, strict=True):
            desk.writes.allocate(
                claim,
                entries[claim.uid],
                driver=one.of_class.driver,
                node=node,
                shareable=one.wish.claim.shareable,
                user=pod,
            )
        return Next()

    def _answer(
        self, scheduling: PodScheduling, pending: Sequence[_Pending], reasons: Mapping[str, Mapping[str, str]]
    ) -> None:
        unsuitable = tuple(node for node in scheduling.nodes if reasons[node])
        patch = answered(scheduling, {one.entry: unsuitable for one in pending})
        if patch is not None:
            self._desk.writes.answer(scheduling, patch)
        if len(unsuitable) == len(scheduling.nodes) and unsuitable:
            first = {node: next(iter(reasons[node].values())) for node in unsuitable}
            self._tell(scheduling, "NoSuitableNode", of_nodes(first))

    def _tell(self, scheduling: PodScheduling, reason: str, note: str) -> None:
        pod = Regarding(
            api_version="v1",
            kind="Pod",
            namespace=scheduling.namespace,
            name=scheduling.name,
            uid=scheduling.pod_uid,
        )
        self._desk.events.record(pod, EventType.WARNING, reason, note, "Allocate")


def _name(key: Key) -> str:
    return f"pod {key.namespace}/{key.name}"
