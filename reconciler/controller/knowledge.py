"""What the controller knows of the cluster: claims by node, and the GpuNodeStates, each as last heard of.

It costs the same to hear of a change, and to look up a node, however big the cluster is.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from reconciler.controller.answers import Answers, version_of
from state.classic.claims import CLASSIC_SOURCES
from state.dra.node_object import NodeObject
from state.dra.resource_claims import Claim, ClaimRef

DOUBT: Final = 120.0
"""Seconds for which claims are doubted that may have gone unnoticed: longer than a watch can hang unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lost:
    """When an entry was last seen to have gone, and in which generation of its spec."""

    at: float
    generation: int


class Knowledge:
    """Filled by reflectors, read by workers: all methods may be called from any thread.

    Of claims only those are kept that have devices of ours, or whose allocation is under way (classic DRA).
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._claims: dict[ClaimRef, Claim] = {}
        self._unheard: set[ClaimRef] = set()
        self._by_node: defaultdict[str, set[ClaimRef]] = defaultdict(set)
        self._nodes: dict[str, NodeObject] = {}
        self._answers: Answers[str, NodeObject] = Answers()
        self._open: dict[str, ClaimRef] = {}
        self._ledger: defaultdict[str, set[str]] = defaultdict(set)
        self._lost: dict[str, dict[str, _Lost]] = {}
        self._doubtful: dict[str, float] = {}

    def take_claim(self, ref: ClaimRef, claim: Claim | None) -> frozenset[str]:
        """Take in a claim as it is now, None if it is gone; returns the nodes it matters to."""
        with self._lock:
            self._unheard.discard(ref)
            return self._take_claim(ref, claim)

    def expect_claims_anew(self) -> None:
        """Somebody begins to tell of all claims from the start, and knows nothing of those that are gone."""
        with self._lock:
            self._unheard = set(self._claims)

    def forget_unheard_claims(self) -> frozenset[str]:
        """All claims have been told of: those that were not are gone. Returns the nodes it matters to."""
        with self._lock:
            gone, self._unheard = self._unheard, set()
            return frozenset().union(*(self._take_claim(ref, None) for ref in gone))

    def take_node(self, name: str, node: NodeObject | None) -> bool:
        """Take in a GpuNodeState as it is now; True if there may be something to do about it."""
        with self._lock:
            before, newest = self._nodes.get(name), self._newest(name)
            if node is None:
                self._note_ledger(name, newest, None)
                self._nodes.pop(name, None)
                self._answers.drop(name)
                self._lost.pop(name, None)
                self._doubtful.pop(name, None)
                return before is not None
            self._note_lost_entries(name, before, node)
            self._nodes[name] = node
            self._note_ledger(name, newest, self._newest(name))
            return before is None or before.signature != node.signature

    def versions(self, name: str) -> frozenset[str | None]:
        """Those known of a GpuNodeState, None: there is none. What is asked for from now on is no older."""
        with self._lock:
            return frozenset(version_of(node) for node in (self._nodes.get(name), self._newest(name)))

    def take_answer(self, node: NodeObject, older: frozenset[str | None]) -> None:
        """Take in what the server just answered about a GpuNodeState: it counts until the cache has moved on.

        ``older`` is what ``versions`` said before the server was asked. If the cache has something else by now,
        that may be the newer one, and nothing else might come to tell so.
        """
        with self._lock:
            if version_of(self._nodes.get(node.name)) not in older:
                return
            before = self._newest(node.name)
            self._note_ledger(node.name, before, node)
            self._note_lost_entries(node.name, before, node)
            self._answers.take(node.name, node, older)

    def node(self, name: str) -> NodeObject | None:
        """The newest GpuNodeState known."""
        with self._lock:
            return self._newest(name)

    def claims_on(self, node: str) -> tuple[Claim, ...]:
        """Claims with devices on a node, by UID."""
        with self._lock:
            claims = [self._claims[ref] for ref in self._by_node.get(node, ())]
        return tuple(sorted(claims, key=lambda claim: claim.uid))

    def nodes(self) -> tuple[str, ...]:
        """The names of all nodes that have a GpuNodeState, sorted."""
        with self._lock:
            return tuple(sorted(self._nodes))

    def open_on(self, node: str) -> frozenset[str]:
        """Claims with an entry on a node whose allocation is under way."""
        with self._lock:
            newest = self._newest(node) if self._open else None
            entries = newest.entries if newest else ()
            return frozenset(entry.name for entry, _ in entries if entry.name in self._open)

    def in_ledgers(self, uid: str) -> tuple[str, ...]:
        """The nodes that have an entry of a claim of classic DRA, sorted."""
        with self._lock:
            return tuple(sorted(self._ledger.get(uid, ())))

    def without_since(self, node: str, uid: str) -> int | None:
        """The generation in which an entry was first missed, as far as that is remembered."""
        with self._lock:
            lost = self._lost.get(node, {}).get(uid)
            return lost.generation if lost else None

    def unsure(self, node: str) -> frozenset[str]:
        """Claims whose entries have been removed lately.

        Our cache of claims may be further behind than whoever removed them: it is no reason to put them back.
        """
        with self._lock:
            return frozenset(self._lost.get(node, ()))

    def doubtful(self, node: str) -> bool:
        """Whether our cache of claims may not do for this node, however little contradicts it.

        So it is when the object is new, or new to us: whoever adopted it looked at claims that we only know from
        the cache. And when specs were missed (each has a generation): entries may have come and gone with them.
        """
        with self._lock:
            return self._clock() - self._doubtful.get(node, float("-inf")) < DOUBT

    def sizes(self) -> tuple[int, int]:
        """How many GpuNodeStates there are, and how many claims with devices of ours."""
        with self._lock:
            return len(self._nodes), len(self._claims)

    def _take_claim(self, ref: ClaimRef, claim: Claim | None) -> frozenset[str]:
        before = self._claims.get(ref)
        nodes = claim.nodes if claim else frozenset()
        old_nodes = before.nodes if before else frozenset()
        for node in old_nodes - nodes:
            self._by_node[node].discard(ref)
            if not self._by_node[node]:
                del self._by_node[node]
        for node in nodes - old_nodes:
            self._by_node[node].add(ref)
        if before is not None and before.open:
            self._open.pop(before.uid, None)
        if claim is not None and claim.open:
            self._open[claim.uid] = ref
        if claim is not None and (nodes or claim.open):
            self._claims[ref] = claim
        elif before is not None:
            del self._claims[ref]
        if before == claim:
            return frozenset()
        uids = {one.uid for one in (before, claim) if one is not None}
        return old_nodes.union(nodes, *(self._ledger[uid] for uid in uids if uid in self._ledger))

    def _newest(self, name: str) -> NodeObject | None:
        return self._answers.newest(name, self._nodes.get(name))

    def _note_lost_entries(self, name: str, before: NodeObject | None, now: NodeObject) -> None:
        at = self._clock()
        specs = now.generation - (before.generation if before and before.uid == now.uid else 0)
        if specs > 1 or (now.adopted and not (before and before.uid == now.uid and before.adopted)):
            self._doubtful[name] = at
        if before is None:
            return
        present = {entry.name for entry, _ in now.entries}
        gone = {entry.name for entry, _ in before.entries} - present
        if not gone and name not in self._lost:
            return
        lost = self._lost.pop(name, {}) | dict.fromkeys(gone, _Lost(at=at, generation=now.generation))
        lost = {uid: one for uid, one in lost.items() if at - one.at < DOUBT and uid not in present}
        if lost:
            self._lost[name] = lost

    def _note_ledger(self, name: str, before: NodeObject | None, now: NodeObject | None) -> None:
        """Keep track of where claims of classic DRA have entries: nobody else knows that while they are open."""
        old = _classic_entries(before)
        new = _classic_entries(now)
        for uid in old - new:
            self._ledger[uid].discard(name)
            if not self._ledger[uid]:
                del self._ledger[uid]
        for uid in new - old:
            self._ledger[uid].add(name)


def _classic_entries(node: NodeObject | None) -> frozenset[str]:
    entries = () if node is None else node.entries
    return frozenset(entry.name for entry, _ in entries if entry.source in CLASSIC_SOURCES)
