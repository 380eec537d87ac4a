"""One look at one node: decide, do what was decided, and decide again until nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import msgspec

from reconciler.controller import controller_metrics as measures
from reconciler.controller.front_ends import FrontEnd
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.lister import Lister
from reconciler.controller.node_states import NodeStates
from reconciler.controller.standby import Patience
from reconciler.controller.turns import Turns
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError, Conflict, NotFound
from reconciler.runtime.kube.queue import WorkQueue
from reconciler.runtime.metrics import Metrics
from state.dra.node_view import (
    Look,
    NeedsListing,
    NeedsLiveLook,
    NodeView,
    Nothing,
    Refused,
    SpecWrite,
    WaitUntil,
)
from state.dra.resource_claims import ClaimRef
from state.profiles import ProfileTable

_Key = TypeVar("_Key", bound=Hashable)

_STEPS: Final = 8
"""Steps of one look. More are only needed where others keep writing to the same object: then it has to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """When to look at the node again: in ``after`` seconds (None: when something changes); ``failed`` says why
    it could not be done now, and then the wait grows with each failure, ``after`` being the least. So it does
    while something is ``missing`` that should come by itself: nobody need be told.
    """

    after: float | None = None
    failed: str = ""
    missing: str = ""


def put_back(queue: WorkQueue[_Key], key: _Key, todo: Next) -> float | None:
    """Have ``key`` looked at again when ``todo`` says so; returns the wait if that grows."""
    if todo.failed or todo.missing:
        return queue.failed(key, at_least=todo.after or 0.0)
    queue.succeeded(key)
    if todo.after is not None:
        queue.add_after(key, todo.after)
    return None


class Reconciler:
    """Looks at nodes, for any number of workers as long as no two have the same node.

    ``leading`` says whether this replica leads; one that doesn't only does what nobody else has done for a while.
    ``on_refused`` hears of each claim when its refusal has been written.
    """

    def __init__(
        self,
        client: KubeClient,
        knowledge: Knowledge,
        turns: Turns,
        front_end: Callable[[], FrontEnd],
        table: ProfileTable,
        lister: Lister,
        node_states: NodeStates,
        *,
        leading: Callable[[], bool],
        on_refused: Callable[[Refused], None],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._knowledge = knowledge
        self._turns = turns
        self._front_end = front_end
        self._table = table
        self._lister = lister
        self._node_states = node_states
        self._leading = leading
        self._on_refused = on_refused
        self._metrics = metrics
        self._clock = clock
        self._patience = Patience()
        self._withdrawals: dict[str, dict[tuple[str, str], float]] = {}

    def look_at(self, node: str) -> Next:
        """Do what there is to do for a node."""
        with self._turns.at(node):
            return self._look_at(node)

    def _look_at(self, node: str) -> Next:
        leading = self._leading()
        round_ = _Round(cautious=not leading, acting=leading, looks={})
        for _ in range(_STEPS):
            decision = self._front_end().decide(self._view(node, round_))
            if leading or isinstance(decision, Nothing | WaitUntil):
                self._patience.forget(node)
            if isinstance(decision, Nothing):
                return Next(failed="; ".join(decision.why)) if decision.retry else Next()
            if isinstance(decision, WaitUntil):
                return Next(after=max(0.0, decision.at - self._clock()))
            if not round_.acting:
                wait = self._patience.remaining(node, decision.why, self._clock())
                if wait > 0:
                    return Next(after=wait)
                round_ = replace(round_, acting=True)
            if isinstance(decision, NeedsListing):
                self._lister.want(node)
                return Next()  # the list wakes us
            try:
                round_ = self._do(node, decision, round_)
            except ApiError as error:
                return Next(failed=str(error), after=error.retry_after)
        return Next(failed="others keep changing it")

    def forget(self, node: str) -> None:
        """The node is gone."""
        self._patience.forget(node)
        self._withdrawals.pop(node, None)
        self._lister.forget(node)

    def _view(self, node: str, round_: _Round) -> NodeView:
        state = self._knowledge.node(node)
        now = self._clock()
        if state is None:
            self.forget(node)
        withdrawn = state.withdrawn if state else {}
        seen = self._withdrawals.get(node, {})
        self._withdrawals[node] = seen = {key: seen.get(key, now) for key in withdrawn.items()}
        if not seen:
            del self._withdrawals[node]
            self._lister.forget(node)
        return NodeView(
            node=node,
            source=self._front_end().source,
            table=self._table,
            state=state,
            claims=self._knowledge.claims_on(node),
            now=now,
            looks=round_.looks,
            listing=self._lister.found(node) if seen else None,
            unsure=self._knowledge.unsure(node),
            open=self._knowledge.open_on(node),
            cautious=round_.cautious or self._knowledge.doubtful(node),
            withdrawals_seen=seen,
        )

    def _do(self, node: str, decision: SpecWrite | NeedsLiveLook, round_: _Round) -> _Round:
        if isinstance(decision, NeedsLiveLook):
            looks = {ref: self._look(ref) for ref in decision.refs}
            return replace(round_, looks={**round_.looks, **looks})
        try:
            self._node_states.write(node, decision)
        except Conflict:
            return replace(round_, looks={})
        for refused in decision.refused:
            self._metrics.count(measures.REFUSALS)
            self._on_refused(refused)
        return round_

    def _look(self, ref: ClaimRef) -> Look:
        self._metrics.count(measures.LOOKS)
        row = self._front_end()
        try:
            return Look(claim=row.reader.claim(self._client.get(row.claim_path(ref))))
        except NotFound as error:
            # Where nobody serves claims any more, nothing is known about this one.
            return Look(failed=str(error)) if error.resource_absent else Look()
        except ApiError as error:
            return Look(failed=str(error))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Look(failed=f"not a claim: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """What one look at a node has found out so far; ``acting``: the others have had their time."""

    cautious: bool
    acting: bool
    looks: dict[ClaimRef, Look]
