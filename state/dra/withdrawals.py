"""Withdrawals: a node takes a device back only once no claim can have it any more.

The node taints the device and reports a token. The scheduler may be about to allocate it all the same; so some
time later all claims are listed, and only if none has the device the token is confirmed, in a write that has an
entry for every claim of that list. An entry for the device is the answer that it can't be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from state.dra.node_object import NodeObject
from state.dra.node_view import Listing, NodeView

PATIENCE: Final = 1.0
"""Seconds from first hearing of a withdrawal to the list that decides it: schedulers saw the taint by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawals:
    """What becomes of the withdrawals of a node.

    ``confirmed`` are the tokens to stand in the spec. Of the others ``wait`` says until when to wait,
    ``list_after`` when the list may begin that decides them; at most one of the two is set.
    """

    confirmed: Mapping[str, str]
    wait: float | None = None
    list_after: float | None = None
    pending: tuple[str, ...] = ()


def useful_listing(view: NodeView, state: NodeObject) -> Listing | None:
    """The list, if there is a withdrawal that it can decide."""
    listing = view.listing
    if listing is None:
        return None
    waiting = [key for key in state.withdrawn.items() if state.confirmed.get(key[0]) != key[1]]
    return listing if any(listing.started >= _due(view, key) for key in waiting) else None


def judge_withdrawals(view: NodeView, state: NodeObject, claimed: Set[str], *, certain: bool) -> Withdrawals:
    """``claimed`` are the devices that claims have here; ``certain``: each of these claims has an entry."""
    confirmed: dict[str, str] = {}
    pending: list[str] = []
    due: list[float] = []
    for device, token in sorted(state.withdrawn.items()):
        if device in claimed:
            continue
        if state.confirmed.get(device) == token:
            confirmed[device] = token
            continue
        ripe = _due(view, (device, token))
        if certain and view.listing is not None and view.listing.started >= ripe:
            confirmed[device] = token
        else:
            pending.append(device)
            due.append(ripe)
    if not due:
        return Withdrawals(confirmed=confirmed)
    soonest = min(due)
    if view.now < soonest:
        return Withdrawals(confirmed=confirmed, wait=soonest, pending=tuple(pending))
    return Withdrawals(confirmed=confirmed, list_after=soonest, pending=tuple(pending))


def _due(view: NodeView, withdrawal: tuple[str, str]) -> float:
    return view.withdrawals_seen.get(withdrawal, view.now) + PATIENCE
