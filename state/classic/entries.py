"""From devices chosen for a claim to its entry in a node's ledger, and back to what the claim is told of them."""

from __future__ import annotations

from collections.abc import Sequence

from state.classic.handles import HandleError, handle_of, results_of
from state.classic.wishes import Wish
from state.dra.node_object import Entry, EntryDevice
from state.dra.projection import project
from state.dra.resource_claims import Claim
from state.profiles import ProfileTable


def entry_of(wish: Wish, node: str, source: str, devices: Sequence[EntryDevice], table: ProfileTable) -> Entry:
    """The entry, just as the claim's allocation will be projected. Raises HandleError where none can tell it."""
    claim = Claim(uid=wish.uid, ref=wish.ref, results=results_of(handle_of(node, devices)))
    projection = project(claim, node, table)
    if projection.refused is not None:
        raise HandleError(f"{projection.refused.path}: {projection.refused.reason}")
    return Entry(
        name=wish.uid,
        claim_namespace=wish.ref.namespace,
        claim_name=wish.ref.name,
        source=source,
        devices=tuple(each.device for each in projection.devices),
    )
