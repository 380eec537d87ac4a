"""One claim's turn, apart from what pods ask for: immediate allocation, and taking allocations back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from reconciler.controller.classic.desk import SOON, Desk
from reconciler.controller.classic.waiting import Waiting
from reconciler.controller.reconciling import Next
from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.errors import Conflict, Garbled, NotFound
from reconciler.runtime.kube.event_bodies import EventType, Regarding
from state.classic.claims import ClassicClaim
from state.classic.classes import ResourceClass
from state.classic.handles import HandleError, results_of
from state.classic.negotiating import Step, check_immediate, next_step, of_nodes
from state.classic.parameters import ParametersError
from state.classic.placing import Unsuitable
from state.classic.wishes import Wish
from state.dra.resource_claims import ClaimRef

_FULL: Final = 5.0
"""Seconds after which a claim for which there was no room anywhere tries again."""
_NODE_GONE: Final = 30.0
"""Seconds after which to look again whether a node that doesn't report is gone for good."""

_log = logging.getLogger(__name__)


class ClaimTalk:
    """Serves claims; no two workers have the same at a time."""

    def __init__(self, desk: Desk, waiting: Waiting[ClaimRef]) -> None:
        self._desk = desk
        self._waiting = waiting

    def serve(self, ref: ClaimRef) -> Next:
        """Do what there is to do for a claim. Raises ApiError."""
        claim = self._desk.claims.get(Key(ref.namespace, ref.name))
        if claim is None:
            return self._settled(ref)
        of_class = self._desk.class_of(claim)
        ours = of_class is not None and of_class.ours
        held = claim.releasing and self._held(claim)
        unknown = claim.open and self._may_be_wanted(ref)
        wanted = unknown or bool(self._desk.wants.pods_of(ref))
        step = next_step(claim, held=held, wanted=wanted, ours=ours)
        if step is Step.NOTHING and held:
            return Next(after=_NODE_GONE)
        if step is Step.NOTHING:
            return Next(after=SOON) if unknown else self._settled(ref)
        wait = self._desk.turn.remaining(f"claim {ref}", claim.resource_version)
        if wait > 0:
            return Next(after=wait)
        try:
            return self._do(step, claim, of_class)
        except Conflict as error:
            _log.info("has changed meanwhile: %s", error, extra={"claim": str(ref)})
            return Next(after=SOON)
        except NotFound:
            return Next(after=SOON)  # its watch will tell

    def _settled(self, ref: ClaimRef) -> Next:
        self._waiting.wait(ref, ())
        self._desk.turn.over(f"claim {ref}")
        return Next()

    def _may_be_wanted(self, ref: ClaimRef) -> bool:
        """Whether there are pods being scheduled of which it is not known yet what they claim."""
        pods = (key for key, _ in self._desk.schedulings.items() if key.namespace == ref.namespace)
        return any(not self._desk.wants.knows(pod) for pod in pods)

    def _held(self, claim: ClassicClaim) -> bool:
        """Whether a node may still have something of it. Nodes that no longer exist have nothing."""
        knowledge, uid = self._desk.knowledge, claim.uid
        try:
            nodes = {result.pool for result in results_of(claim.handle)}
        except HandleError:  # not written by us: then there is nothing, unless a node knows better
            nodes = {name for name in knowledge.nodes() if self._names(name, uid)}
        nodes |= set(knowledge.in_ledgers(uid))
        self._waiting.wait(claim.ref, nodes)
        return any(self._held_on(node, uid) for node in nodes)

    def _names(self, name: str, uid: str) -> bool:
        node = self._desk.knowledge.node(name)
        return node is not None and any(allocation.name == uid for allocation in node.allocations)

    def _held_on(self, name: str, uid: str) -> bool:
        node = self._desk.knowledge.node(name)
        if node is not None:
            return node.holds(uid, self._desk.knowledge.without_since(name, uid))
        return self._node(name) is not None

    def _node(self, name: str) -> Mapping[str, str] | None:
        """The labels of a Node; None if there is none of that name. Raises ApiError."""
        path = f"/api/v1/nodes/{quote(name, safe='')}"
        try:
            return _read_node(self._desk.client.get(path)).metadata.labels or {}
        except NotFound:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Garbled(f"not a Node: {error}", status=200, about=path) from error

    def _do(self, step: Step, claim: ClassicClaim, of_class: ResourceClass | None) -> Next:
        writes = self._desk.writes
        if step is Step.DEALLOCATE:
            claim = writes.deallocate(claim)
        if step is Step.ALLOCATE and of_class is not None:
            return self._allocate(claim, of_class)
        if claim.fence:
            writes.unfence(claim)
        return Next()

    def _allocate(self, claim: ClassicClaim, of_class: ResourceClass) -> Next:
        """Allocate at once, wherever there is room: what was decided before stands. Raises ApiError."""
        desk = self._desk
        decided = desk.knowledge.in_ledgers(claim.uid)
        if len(decided) > 1:  # two replicas at once: neither is to be told, and it is decided anew
            if claim.fence:
                desk.writes.unfence(claim)
            return Next(after=SOON)
        try:
            wish = desk.asking.wish(claim, of_class)
            check_immediate(wish)
        except ParametersError as error:
            self._tell(claim, "AllocationFailed", str(error))
            return Next(failed=str(error))
        reasons: dict[str, str] = {}
        for node in decided or desk.ledger.in_order(desk.knowledge.nodes()):
            why = self._try(claim, of_class, wish, node)
            if not why:
                return Next()
            reasons[node] = why
        self._tell(claim, "NoSuitableNode", of_nodes(reasons) or "no node has reported GPUs")
        return Next(after=_FULL)

    def _try(self, claim: ClassicClaim, of_class: ResourceClass, wish: Wish, node: str) -> str:
        """Allocate on one node; returns why not. Raises ApiError."""
        desk = self._desk
        why = desk.ledger.unsuitable(node, [wish])
        if why:
            return why[claim.uid]
        if of_class.suitable_nodes is not None:
            labels = self._node(node)
            if labels is None or not of_class.suitable_nodes.matches(node, labels):
                return f"is not among suitableNodes of class {of_class.name}"
        fenced = desk.writes.fence(claim, of_class.driver)
        entries = desk.ledger.take(node, desk.source, [wish])
        if isinstance(entries, Unsuitable):
            return entries.reasons[claim.uid]
        desk.writes.allocate(
            fenced,
            entries[claim.uid],
            driver=of_class.driver,
            node=node,
            shareable=wish.claim.shareable,
            user=None,
        )
        return ""

    def _tell(self, claim: ClassicClaim, reason: str, note: str) -> None:
        regarding = Regarding(
            api_version=self._desk.source,
            kind="ResourceClaim",
            namespace=claim.ref.namespace,
            name=claim.ref.name,
            uid=claim.uid,
        )
        self._desk.events.record(regarding, EventType.WARNING, reason, note, "Allocate")


class _Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Node(msgspec.Struct):
    metadata: _Metadata


_read_node = msgspec.json.Decoder(_Node).decode
