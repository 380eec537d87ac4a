"""What is to be done about one claim of classic DRA, besides what pods ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from state.classic.claims import DELAYED, DRIVERS, ClassicClaim
from state.classic.handles import HandleError
from state.classic.parameters import ParametersError
from state.classic.wishes import Wish
from state.mismatches import Problem

_NODES_TOLD: Final = 3


class Step(Enum):
    """What a claim needs next."""

    NOTHING = "nothing"
    DEALLOCATE = "deallocate"
    """Take its allocation out of it: its node has nothing of it any more."""
    GIVE_UP = "give up"
    """Take our finalizer away: nothing is allocated, and nothing is to be."""
    ALLOCATE = "allocate"
    """Find a node and allocate it, for whoever may come."""


def next_step(claim: ClassicClaim, *, held: bool, wanted: bool, ours: bool) -> Step:
    """What ``claim`` needs.

    ``held``: its node may still have something of it. ``wanted``: a pod that is being scheduled has it, or may
    have. ``ours``: its class names us.
    """
    if claim.allocated:
        ready = claim.driver in DRIVERS and claim.releasing and not held
        return Step.DEALLOCATE if ready else Step.NOTHING
    if claim.deleting:
        return Step.GIVE_UP if claim.fence else Step.NOTHING
    if claim.immediate:
        return Step.ALLOCATE if ours else Step.NOTHING
    return Step.GIVE_UP if claim.fence and not wanted else Step.NOTHING


def check_immediate(wish: Wish) -> None:
    """Raise ParametersError for what can't be allocated before a pod comes: monitors watch the pod's own node."""
    if wish.of_class.monitor:
        why = "is Immediate, but which node is to be monitored depends on the pod"
        raise ParametersError(
            f"ResourceClaim {wish.ref}", [Problem(path="spec.allocationMode", why=why, allowed=(DELAYED,))]
        )


def is_pending(claim: ClassicClaim) -> bool:
    """Whether it waits for a pod's node to be chosen."""
    return not (claim.allocated or claim.immediate or claim.deleting)


def nodes_of(claims: Iterable[ClassicClaim]) -> frozenset[str]:
    """Where claims are allocated by us. What can't be read any more, or is another driver's, says nothing."""
    nodes: set[str] = set()
    for claim in claims:
        with contextlib.suppress(HandleError):
            nodes |= claim.projected().nodes
    return frozenset(nodes)


def of_nodes(reasons: Mapping[str, str]) -> str:
    """Why none of these nodes will do, in a sentence for people: nodes that have the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for node, reason in reasons.items():
        by_reason.setdefault(reason, []).append(node)
    told = [f"{_names(nodes)}: {reason}" for reason, nodes in list(by_reason.items())[:_NODES_TOLD]]
    more = len(by_reason) - _NODES_TOLD
    return ". ".join(told) + (f". And {more} other reasons" if more > 0 else "")


def _names(nodes: list[str]) -> str:
    more = len(nodes) - _NODES_TOLD
    return ", ".join(nodes[:_NODES_TOLD]) + (f" and {more} more nodes" if more > 0 else "")
