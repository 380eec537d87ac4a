"""The allocation policy of classic DRA: which devices of one node several claims get together, or why not.

Whatever the order in which claims are given, the hardest to satisfy is seated first; where the next finds no seat,
earlier ones are moved. The search is bounded: a set that is hard to fit may be refused although it would fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from state.classic.parameters import ClaimParameters, ClassParameters
from state.classic.reasons import of_claim
from state.classic.room import NodeRoom, Tenancy
from state.classic.spots import Policy, Rank, Spot, charge_of, spots_of, tenancy_after
from state.classic.wishes import Wish
from state.dra.node_object import EntryDevice, SeenFunction
from state.ids import DeviceName, LogicalDevice, Use

MOST_CLAIMS: Final = 256
"""Claims that are allocated together at most: each is a level of the search."""

_TRIES: Final = 32
"""Seats tried in one attempt, beside two for each claim: a few milliseconds at most."""
_ATTEMPTS: Final = 4
"""Orders of claims that are tried: those like the one that found no seat come first in the next."""

_HARDEST_FIRST: Final = (Use.WHOLE, Use.SHARED, Use.VF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The devices of every claim, by UID."""

    devices: Mapping[str, tuple[EntryDevice, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsuitable:
    """The node can't serve the claims together: by claim UID why, for people."""

    reasons: Mapping[str, str]


def place(room: NodeRoom, wishes: Sequence[Wish], policy: Policy) -> Placement | Unsuitable:
    """Devices for all wishes, or for none. A claim that has an entry keeps the devices in that.

    The answer depends on nothing else: not on the order of the wishes, and not on earlier answers.
    """
    decided = {wish.uid: room.decided[wish.uid] for wish in wishes if wish.uid in room.decided}
    undecided = [wish for wish in wishes if wish.uid not in decided]
    if len(undecided) > MOST_CLAIMS:
        why = f"no more than {MOST_CLAIMS} claims are allocated together, and the pod has {len(undecided)}"
        return Unsuitable(reasons={wish.uid: why for wish in wishes})
    monitors = {wish.uid: _monitors(room, wish) for wish in undecided if wish.of_class.monitor}
    seeking = [wish for wish in undecided if not wish.of_class.monitor]
    market = _Market(room=room, policy=policy)
    alone = {wish.uid: market.objection(wish, wish.claim.count) for wish in seeking}
    alone |= {uid: "" if devices else "no GPU of this node can be looked at" for uid, devices in monitors.items()}
    if not any(alone.values()):
        seats = _seats(market, seeking)
        if seats is not None:
            found = {wish.uid: _devices(room.node, wish, seat) for wish, seat in seats}
            return Placement(devices={**monitors, **found, **decided})
    return Unsuitable(reasons={wish.uid: alone.get(wish.uid) or _together(wish.uid in decided) for wish in wishes})


def _together(is_decided: bool) -> str:
    there = "it has devices here" if is_decided else "it would fit"
    return f"{there}, but not all other claims of the pod fit beside it"


def _monitors(room: NodeRoom, wish: Wish) -> tuple[EntryDevice, ...]:
    """The monitor of every GPU of the node that the class is for."""
    return tuple(
        EntryDevice(
            request="",
            pool=room.node,
            device=str(LogicalDevice(pf=DeviceName(gpu.name), use=Use.MONITOR)),
            physical_function=gpu.name,
            admin_access=True,
        )
        for gpu in room.gpus
        if Use.MONITOR not in gpu.barred and wish.selects(gpu.labels, Use.MONITOR)
    )


_Kind = tuple[ClaimParameters, ClassParameters]
"""What a wish asks for: wishes that are alike in this can have each other's devices."""


def _kind(wish: Wish) -> _Kind:
    return wish.claim, wish.of_class


@dataclass(slots=True, kw_only=True)
class _Market:
    """What GPUs have for wishes. Answers are remembered: from one seat to the next a single GPU changes."""

    room: NodeRoom
    policy: Policy
    _kinds: dict[_Kind, int] = field(default_factory=dict)
    _known: dict[tuple[int, str], tuple[Tenancy, tuple[Spot, ...], str]] = field(default_factory=dict)

    def spots(self, wish: Wish, tenancies: Mapping[str, Tenancy]) -> tuple[list[Spot], Mapping[str, str]]:
        """All spots, the best first, and why the GPUs that have none don't.

        ``tenancies`` are those that differ from the room's.
        """
        kind = self._kinds.setdefault(_kind(wish), len(self._kinds))
        found: list[Spot] = []
        objections: dict[str, str] = {}
        for gpu in self.room.gpus:
            tenancy = tenancies.get(gpu.name, gpu.tenancy)
            known = self._known.get((kind, gpu.name))
            if known is None or known[0] is not tenancy:
                known = (tenancy, *spots_of(gpu, tenancy, wish, self.policy))
                self._known[kind, gpu.name] = known
            _, spots, objection = known
            found += spots
            if objection:
                objections[gpu.name] = objection
        found.sort(key=_rank)
        return found, objections

    def objection(self, wish: Wish, count: int) -> str:
        """Why ``count`` devices like this can't be had, with nobody seated; empty if they can."""
        spots, objections = self.spots(wish, {})
        can_be_had = _capacity(spots, count)
        return "" if can_be_had >= count else of_claim(count, can_be_had, objections)


def _rank(spot: Spot) -> Rank:
    return spot.rank


def _capacity(spots: Iterable[Spot], enough: int) -> int:
    """How many devices can be had of all these, of each GPU in one way only; no more than is ``enough``."""
    by_way: dict[tuple[str, str], int] = {}
    best: dict[str, int] = {}
    total = 0
    for spot in spots:
        gpu = spot.gpu.name
        way = gpu, spot.mode
        by_way[way] = count = by_way.get(way, 0) + spot.devices
        if count > best.get(gpu, 0):
            total += count - best.get(gpu, 0)
            best[gpu] = count
        if total >= enough:
            return enough
    return total


Seat = tuple[tuple[Spot, Sequence[int]], ...]
"""Spots taken for one claim, and which VFs of each."""


def _ways(spots: Sequence[Spot], count: int) -> Iterator[Seat]:
    """Ways to have ``count`` devices of these spots, the best first. A spot that is taken is taken up."""
    if _capacity(spots, count) < count:
        return
    for position, spot in enumerate(spots):
        indexes = spot.indexes[:count]
        left = count - (len(indexes) or 1)
        if not left:
            yield ((spot, indexes),)
            continue
        others = [one for one in spots[position + 1 :] if one.goes_with(spot)]
        for way in _ways(others, left):
            yield ((spot, indexes), *way)


def _hardness(wish: Wish) -> tuple[object, ...]:
    """Small for the hardest to satisfy: bound to whole GPUs, big, many."""
    claim = wish.claim
    flexible = len(wish.uses) > 1
    size = (-(claim.memory or 0), -(claim.millicores or 0), -claim.count)
    return flexible, _HARDEST_FIRST.index(wish.uses[0]), *size, wish.ref, wish.uid


Seats = tuple[tuple[Wish, Seat], ...]


def _seats(market: _Market, wishes: Sequence[Wish]) -> Seats | None:
    """Seats for all."""
    if any(market.objection(wish, count) for wish, count in _of_one_kind(wishes)):
        return None
    order = sorted(wishes, key=_hardness)
    for _ in range(_ATTEMPTS):
        search = _Search(market=market, tries=_TRIES + 2 * len(order))
        found = search.seat(order, {})
        if found is not None:
            return found
        if search.tries > 0:
            return None  # everything has been tried
        hardest, _ = search.failed.most_common(1)[0]
        order.sort(key=lambda wish: _kind(wish) != hardest)
    return None


def _of_one_kind(wishes: Sequence[Wish]) -> Iterable[tuple[Wish, int]]:
    """One wish for all that ask for the same, and how many devices they ask for together."""
    kinds: dict[_Kind, list[Wish]] = {}
    for wish in wishes:
        kinds.setdefault(_kind(wish), []).append(wish)
    # Of one GPU a claim has one share, but several claims have several.
    return (
        (alike[0], sum(wish.claim.count for wish in alike))
        for alike in kinds.values()
        if Use.SHARED not in alike[0].uses and len(alike) > 1
    )


@dataclass(slots=True, kw_only=True)
class _Search:
    """One attempt. ``tries`` are left; ``failed`` counts how often claims that ask for this found no seat."""

    market: _Market
    tries: int
    failed: Counter[_Kind] = field(default_factory=Counter)

    def seat(self, wishes: Sequence[Wish], tenancies: Mapping[str, Tenancy]) -> Seats | None:
        """Seats for these wishes, where ``tenancies`` is what seats taken before make of GPUs."""
        if not wishes:
            return ()
        first, others = wishes[0], wishes[1:]
        spots, _ = self.market.spots(first, tenancies)
        for seat in _ways(spots, first.claim.count):
            if self.tries <= 0:
                return None
            self.tries -= 1
            found = self.seat(others, _seated(tenancies, first, seat))
            if found is not None:
                return ((first, seat), *found)
        self.failed[_kind(first)] += 1
        return None


def _seated(tenancies: Mapping[str, Tenancy], wish: Wish, seat: Seat) -> Mapping[str, Tenancy]:
    after = dict(tenancies)
    for spot, indexes in seat:
        gpu = spot.gpu
        after[gpu.name] = tenancy_after(after.get(gpu.name, gpu.tenancy), spot, indexes, wish)
    return after


def _devices(node: str, wish: Wish, seat: Seat) -> tuple[EntryDevice, ...]:
    """What goes into the entry of a claim. Classic DRA has no requests, so theirs is empty."""
    devices = []
    for spot, indexes in seat:
        memory, millicores = charge_of(spot, wish)
        for index in indexes or (None,):
            logical = LogicalDevice(pf=DeviceName(spot.gpu.name), use=spot.use, mode=spot.mode, index=index)
            function = None
            if spot.layout is not None and index is not None:
                function = SeenFunction(profile=spot.layout.profile, index=index)
            device = EntryDevice(
                request="",
                pool=node,
                device=str(logical),
                physical_function=spot.gpu.name,
                virtual_function=function,
                memory=memory,
                millicores=millicores,
            )
            devices.append(device)
    return tuple(sorted(devices, key=_place))


def _place(device: EntryDevice) -> tuple[str, int]:
    function = device.virtual_function
    return device.physical_function, -1 if function is None else function.index
