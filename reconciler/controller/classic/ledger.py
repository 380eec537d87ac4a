"""The ledger: what claims have on a node stands in its GpuNodeState before anybody is told."""

from __future__ import annotations

import threading
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from reconciler.controller.knowledge import Knowledge
from reconciler.controller.node_states import NodeStates
from reconciler.controller.turns import Turns
from reconciler.runtime.kube.errors import Conflict
from state.classic.entries import entry_of
from state.classic.handles import HandleError
from state.classic.parameters import ClaimParameters, ClassParameters
from state.classic.placing import Placement, Unsuitable, place
from state.classic.room import NodeRoom
from state.classic.sources import RoomUnknown, room_on
from state.classic.spots import Policy, PreferredAllocation
from state.classic.wishes import Wish
from state.dra.node_object import Entry, NodeObject
from state.dra.spec_writing import spec_write
from state.profiles import ProfileTable

_TRIES: Final = 8
"""Writes of one decision: more are only refused where others keep writing to the same object."""


class Crowded(Exception):
    """Others kept changing the node's object: to be tried again."""


_Kind = tuple[int, ClaimParameters, ClassParameters]
"""So many claims that ask for the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What was worked out of one version of a node's object.

    ``objections``: why claims of one kind, that have nothing here yet, can't be served; empty if they can. The
    same is asked of every node for every pod of a template, and mostly of nodes of which nothing has changed.
    """

    state: NodeObject | None
    room: NodeRoom | RoomUnknown
    objections: dict[_Kind, str] = field(default_factory=dict)


class Ledger:
    """Asks for and takes room on nodes. All methods may be called from any thread."""

    def __init__(
        self,
        node_states: NodeStates,
        knowledge: Knowledge,
        turns: Turns,
        table: ProfileTable,
        policy: Policy,
    ) -> None:
        self._node_states = node_states
        self._knowledge = knowledge
        self._turns = turns
        self._table = table
        self._policy = policy
        self._lock = threading.Lock()
        self._nodes: dict[str, _Known] = {}

    def unsuitable(self, node: str, wishes: Sequence[Wish]) -> Mapping[str, str]:
        """Why a node can't serve all these claims together, by claim UID; empty if it can. From caches alone."""
        known = self._known(self._knowledge.node(node), node)
        kind = _kind(known, wishes)
        if kind is not None and (objection := known.objections.get(kind)) is not None:
            return dict.fromkeys((wish.uid for wish in wishes), objection) if objection else {}
        answer = self._place(known, wishes)
        reasons = answer.reasons if isinstance(answer, Unsuitable) else {}
        if kind is not None:
            known.objections[kind] = next(iter(reasons.values()), "")
        return reasons

    def take(self, node: str, source: str, wishes: Sequence[Wish]) -> Mapping[str, Entry] | Unsuitable:
        """Give all these claims devices of a node, or none; returns their entries, which stand from then on.

        What a claim has already it keeps. Raises Crowded and ApiError.
        """
        with self._turns.at(node):
            for _ in range(_TRIES):
                state = self._knowledge.node(node)
                answer = self._place(self._known(state, node), wishes)
                if isinstance(answer, Unsuitable):
                    return answer
                if state is None:
                    raise ValueError(f"{node}: devices of a node without GpuNodeState")
                there = {entry.name: entry for entry, _ in state.entries}
                try:
                    missing = self._entries(node, source, wishes, answer, there)
                except HandleError as error:
                    return _no_room(wishes, str(error))
                if not missing:
                    return {wish.uid: there[wish.uid] for wish in wishes}
                try:
                    self._write(state, {**there, **missing}, missing)
                except Conflict:
                    continue
        raise Crowded(f"others keep changing the GpuNodeState of {node}")

    def in_order(self, nodes: Sequence[str]) -> tuple[str, ...]:
        """Nodes as the policy would have them tried: those in use first, or last, or by name."""
        users = {node: len(state.entries) for node in nodes if (state := self._knowledge.node(node)) is not None}
        sign = {PreferredAllocation.PACKED: -1, PreferredAllocation.BALANCED: 1}.get(self._policy.preferred, 0)
        return tuple(sorted(users, key=lambda node: (sign * users[node], node)))

    def forget(self, node: str) -> None:
        """The node is gone."""
        with self._lock:
            self._nodes.pop(node, None)

    def _place(self, known: _Known, wishes: Sequence[Wish]) -> Placement | Unsuitable:
        try:
            return place(_room(known), wishes, self._policy)
        except RoomUnknown as error:
            return _no_room(wishes, str(error))

    def _entries(
        self, node: str, source: str, wishes: Sequence[Wish], placed: Placement, there: Container[str]
    ) -> dict[str, Entry]:
        return {
            wish.uid: entry_of(wish, node, source, placed.devices[wish.uid], self._table)
            for wish in wishes
            if wish.uid not in there
        }

    def _known(self, state: NodeObject | None, node: str) -> _Known:
        """What is known of ``state``: worked out once for each version of the object."""
        with self._lock:
            known = self._nodes.get(node)
        if known is None or known.state is not state:
            try:
                known = _Known(state=state, room=room_on(state, self._table))
            except RoomUnknown as error:
                known = _Known(state=state, room=error)
            with self._lock:
                self._nodes[node] = known
        return known

    def _write(self, state: NodeObject, entries: Mapping[str, Entry], added: Mapping[str, Entry]) -> None:
        why = tuple(f"allocate {entry.ref} ({uid})" for uid, entry in added.items())
        self._node_states.write(state.name, spec_write(state, entries, state.confirmed, why))


def _room(known: _Known) -> NodeRoom:
    if isinstance(known.room, RoomUnknown):
        raise RoomUnknown(str(known.room))
    return known.room


def _kind(known: _Known, wishes: Sequence[Wish]) -> _Kind | None:
    """What all these claims ask for; None if they differ, or have something here already."""
    first = wishes[0]
    asked = first.claim, first.of_class
    if any((wish.claim, wish.of_class) != asked for wish in wishes[1:]):
        return None
    if isinstance(known.room, NodeRoom) and any(wish.uid in known.room.decided for wish in wishes):
        return None
    return len(wishes), *asked


def _no_room(wishes: Sequence[Wish], why: str) -> Unsuitable:
    return Unsuitable(reasons={wish.uid: why for wish in wishes})
