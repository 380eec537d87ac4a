"""What the controller does about one node: the projection of all claims' allocations into its GpuNodeState.

Any number of replicas may decide at the same time, each from caches of its own age. What keeps them right:
- A write is accepted only by the very object and version it was decided from.
- A cache is reason enough to add an entry, never to change or remove one, nor to fill a new object: that takes a
  live look at the claim.
- Equal knowledge gives equal writes, and what needs no change is written back as it was.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from state.dra.indexes import Indexes, NoIndexLeft, choose_indexes, with_indexes
from state.dra.node_object import Entry, EntryDevice, NodeObject, SeenRefusal
from state.dra.node_view import (
    Decision,
    NeedsListing,
    NeedsLiveLook,
    NodeView,
    Nothing,
    WaitUntil,
)
from state.dra.projection import ProjectedDevice, Projection, project
from state.dra.resource_claims import Claim, ClaimRef
from state.dra.spec_writing import same_entry, spec_write
from state.dra.withdrawals import Withdrawals, judge_withdrawals, useful_listing


def decide(view: NodeView) -> Decision:
    """The next step for one node. Deterministic: it depends on nothing but ``view``."""
    state = view.state
    if state is None:
        return Nothing(why=("the node has no GpuNodeState",))
    if state.deleting:
        return Nothing(why=("its GpuNodeState is being deleted",))
    if not state.reported:
        return Nothing(why=("the node has not reported yet",))
    projector = _Projector(view)
    # What has been looked at counts, whatever the cache says of it.
    doubts = dict.fromkeys(view.looks, "it was looked at") | _doubts(view, state, projector)
    unseen = {ref: why for ref, why in doubts.items() if ref not in view.looks}
    if unseen:
        return NeedsLiveLook(refs=tuple(sorted(unseen)), why=tuple(unseen[ref] for ref in sorted(unseen)))
    unknown = {ref: look.failed for ref in doubts if (look := view.looks[ref]).failed}
    if unknown and not state.adopted:
        return Nothing(why=tuple(f"can't look at {ref}: {unknown[ref]}" for ref in sorted(unknown)), retry=True)
    return _write(view, state, _Known.of(view, state, doubts, unknown, projector))


class _Projector:
    """Projects each claim once for a decision."""

    def __init__(self, view: NodeView) -> None:
        self._view = view
        self._done: dict[str, tuple[Claim, Projection]] = {}

    def of(self, claim: Claim) -> Projection:
        """What it means for this node."""
        done = self._done.get(claim.uid)
        if done is None or done[0] is not claim:
            done = self._done[claim.uid] = claim, project(claim, self._view.node, self._view.table)
        return done[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is known once all doubts have been looked into.

    ``projections`` are of claims that have devices here; ``kept`` are entries to be written back as they are: of
    claims that are being allocated just now, and of those about which nothing could be found out.
    """

    projections: tuple[Projection, ...]
    kept: tuple[Entry, ...]
    unknown: Mapping[ClaimRef, str]
    claimed: frozenset[str]

    @classmethod
    def of(
        cls,
        view: NodeView,
        state: NodeObject,
        doubts: Container[ClaimRef],
        unknown: Mapping[ClaimRef, str],
        projector: _Projector,
    ) -> _Known:
        """Put together what the cache, the list and the live looks say; the later word counts."""
        claims = {claim.uid: claim for claim in _heard_of(view, state)}
        for ref, look in view.looks.items():
            if look.failed and ref not in doubts:
                continue
            claims = {uid: claim for uid, claim in claims.items() if claim.ref != ref}
            if look.claim is not None and look.claim.on(view.node):
                claims[look.claim.uid] = look.claim
        kept = tuple(
            entry
            for entry, _ in state.entries
            if entry.name not in claims and (entry.ref in unknown or _is_open(entry, view))
        )
        devices = {result.device for claim in claims.values() for result in claim.on(view.node)}
        devices |= {device.device for entry in kept for device in entry.devices}
        return cls(
            projections=tuple(projector.of(claims[uid]) for uid in sorted(claims)),
            kept=kept,
            unknown=unknown,
            claimed=frozenset(devices),
        )


def _is_open(entry: Entry, view: NodeView) -> bool:
    """Whether the entry's claim is just being allocated. Unlike removing, keeping an entry needs but a cache."""
    look = view.looks.get(entry.ref)
    if look is None or look.failed:
        return entry.name in view.open
    return look.claim is not None and look.claim.uid == entry.name and look.claim.open


def _heard_of(view: NodeView, state: NodeObject) -> tuple[Claim, ...]:
    """Claims here by the cache, and by the list that is to decide a withdrawal."""
    listing = useful_listing(view, state)
    listed = () if listing is None else listing.claims
    return tuple(claim for claim in (*listed, *view.claims) if claim.on(view.node))


def _doubts(view: NodeView, state: NodeObject, projector: _Projector) -> dict[ClaimRef, str]:
    """Claims to be looked at before anything is done, and why."""
    doubts: dict[ClaimRef, str] = {}
    cached = {claim.uid: claim for claim in view.claims if claim.on(view.node)}
    entries = {entry.name: entry for entry, _ in state.entries}
    for uid, entry in entries.items():
        if uid not in cached and _is_open(entry, view):
            continue
        if uid not in cached:
            doubts[entry.ref] = f"{entry.ref} seems to have no devices here any more"
        elif not _same(entry, projector.of(cached[uid])):
            doubts[entry.ref] = doubts[cached[uid].ref] = f"{entry.ref} seems to have other devices now"
    for uid, claim in cached.items():
        if uid not in entries and (view.cautious or uid in view.unsure or not state.adopted):
            doubts[claim.ref] = f"{claim.ref} may have gone while this was decided"
    for claim in _heard_of(view, state):
        if claim != cached.get(claim.uid):
            doubts[claim.ref] = f"{claim.ref} has changed since all claims were listed"
    for ref in () if state.adopted else _held_on_node(state, cached):
        doubts[ref] = f"{ref} is on the node, and in no cache"
    return doubts


def _held_on_node(state: NodeObject, cached: Mapping[str, Claim]) -> Iterable[ClaimRef]:
    """Claims that a node still serves whose GpuNodeState was lost."""
    for allocation in state.allocations:
        namespace, slash, name = allocation.claim.partition("/")
        if allocation.origin == "claim" and allocation.name not in cached and slash:
            yield ClaimRef(namespace, name)


def _same(entry: Entry, projection: Projection) -> bool:
    """Whether the entry is this projection, whatever VFs it was given and whichever API version it came from."""
    return (
        entry.ref == projection.ref
        and entry.refused == projection.refused
        and entry.config == dict(projection.config)
        and len(entry.devices) == len(projection.devices)
        and all(map(_same_device, entry.devices, projection.devices))
    )


def _same_device(device: EntryDevice, projected: ProjectedDevice) -> bool:
    function = device.virtual_function
    if projected.layout is None:
        return device == projected.device
    if function is None or function.profile != projected.layout.name or function.index >= projected.layout.count:
        return False
    return device == msgspec.structs.replace(projected.device, virtual_function=function)


def _write(view: NodeView, state: NodeObject, known: _Known) -> Decision:
    indexes, without = choose_indexes(state, known.projections, known.kept)
    crowd = {} if known.unknown else _crowd(view, known, without)
    if crowd:
        return NeedsLiveLook(refs=tuple(sorted(crowd)), why=tuple(crowd[ref] for ref in sorted(crowd)))
    wanted, held_back = _entries(view, known, indexes, without)
    certain = not known.unknown and not held_back
    withdrawals = judge_withdrawals(view, state, known.claimed, certain=certain)
    changes = _changes(state, wanted, withdrawals)
    if changes:
        return spec_write(state, wanted, withdrawals.confirmed, changes)
    waits = tuple(f"{device} is to be withdrawn" for device in withdrawals.pending)
    if not certain:
        why = (*(f"can't look at {ref}: {why}" for ref, why in sorted(known.unknown.items())), *held_back)
        return Nothing(why=why, retry=True)
    if withdrawals.wait is not None:
        return WaitUntil(at=withdrawals.wait, why=waits)
    if withdrawals.list_after is not None:
        return NeedsListing(after=withdrawals.list_after, why=waits)
    return Nothing(why=("all is as it should be",))


def _crowd(view: NodeView, known: _Known, without: Mapping[str, NoIndexLeft]) -> dict[ClaimRef, str]:
    """Claims that may have left a layout with no VF left for others: nobody is refused before that is sure."""
    full = {(each.gpu, each.mode) for each in without.values()}
    crowd: dict[ClaimRef, str] = {}
    for projection in known.projections if full else ():
        places = {(each.device.physical_function, each.mode) for each in projection.devices if each.layout}
        if places & full and projection.ref not in view.looks:
            crowd[projection.ref] = f"{projection.ref} may have given its VF back: there is none left for others"
    return crowd


def _entries(
    view: NodeView, known: _Known, indexes: Indexes, without: Mapping[str, NoIndexLeft]
) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """The entries to stand in the spec by UID, and those claims that have to wait for theirs.

    Too many claims for a layout: somebody's entry must be about to go. While that can't be found out the claim
    waits; else it is refused, as long as it is so.
    """
    entries = {entry.name: entry for entry in known.kept}
    held_back: list[str] = []
    for projection in known.projections:
        full = without.get(projection.uid)
        if full is None:
            entries[projection.uid] = _entry(projection, view.source, with_indexes(projection, indexes))
        elif known.unknown:
            held_back.append(f"{projection.ref}: {full.reason}")
        else:
            entries[projection.uid] = _refused_entry(projection, view.source, full)
    return entries, tuple(held_back)


def _entry(projection: Projection, source: str, devices: tuple[EntryDevice, ...]) -> Entry:
    return Entry(
        name=projection.uid,
        claim_namespace=projection.ref.namespace,
        claim_name=projection.ref.name,
        source=source,
        devices=devices,
        config=dict(projection.config),
        refused=projection.refused,
    )


def _refused_entry(projection: Projection, source: str, full: NoIndexLeft) -> Entry:
    refused = SeenRefusal(path=full.path, reason=full.reason)
    return msgspec.structs.replace(_entry(projection, source, ()), config={}, refused=refused)


def _changes(state: NodeObject, wanted: Mapping[str, Entry], withdrawals: Withdrawals) -> tuple[str, ...]:
    """What a write would change, in words; empty: nothing."""
    there = {entry.name: entry for entry, _ in state.entries}
    changes = [] if state.adopted else [f"adopt object {state.uid}"]
    changes += [f"remove {entry.ref} ({uid})" for uid, entry in sorted(there.items()) if uid not in wanted]
    for uid, entry in sorted(wanted.items()):
        if uid not in there:
            changes.append(f"add {entry.ref} ({uid})")
        elif not same_entry(there[uid], entry):
            changes.append(f"change {entry.ref} ({uid})")
    old, new = state.confirmed, withdrawals.confirmed
    changes += [f"confirm the withdrawal of {device}" for device in sorted(new) if new[device] != old.get(device)]
    changes += [f"forget the withdrawal of {device}" for device in sorted(old) if device not in new]
    return tuple(changes)
