"""One pod against all nodes: where it could go, with which devices, and why not elsewhere."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubesim.actors import extended, nodes
from kubesim.actors.allocation import CannotAllocate, Chosen, search
from kubesim.actors.asks import Usage, Wish, wish
from kubesim.actors.binding import failure
from kubesim.actors.devices import Pool
from kubesim.actors.extended import Demand
from kubesim.actors.reservations import allocated
from kubesim.actors.selectors import Selectors
from kubesim.values import Object, at

NO_DEVICES = "cannot allocate all claims"
NOT_HERE = "resourceclaim not available on the node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A node for a pod. `chosen` has the devices of each claim to allocate, the extended resources' claim last."""

    node: Object
    claims: tuple[Object, ...]
    chosen: tuple[tuple[Chosen, ...], ...]
    demand: Demand | None

    def rank(self) -> int:
        """How far down the lists of alternatives the devices are: less is better."""
        return sum(_rank(claim, chosen) for claim, chosen in zip(self.claims, self.chosen, strict=False))


def _rank(claim: Object, chosen: Sequence[Chosen]) -> int:
    order = {
        f"{request['name']}/{sub['name']}": place
        for request in claim["spec"]["devices"].get("requests", ())
        for place, sub in enumerate(request.get("firstAvailable", ()))
    }
    return sum(order.get(name, 0) for name in {each.ask.request for each in chosen})


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What there is to choose from, at one moment."""

    nodes: tuple[tuple[Object, tuple[Pool, ...]], ...]
    classes: Mapping[str, Object]
    usage: Usage
    selectors: Selectors


def offers(pod: Object, claims: Sequence[Object], around: Surroundings) -> tuple[list[Offer], Counter[str]]:
    """The nodes a pod could go to, and the reasons against the others with their numbers.

    Raises UnknownClass and SelectorError: then the pod can go nowhere.
    """
    found: list[Offer] = []
    reasons: Counter[str] = Counter()
    for node, pools in around.nodes:
        reason = nodes.why_not(pod, node) or _held_elsewhere(claims, node)
        offer = None if reason else offer_on(node, pools, claims, _demand(pod, around, node), around)
        if offer is None:
            reasons[reason or NO_DEVICES] += 1
        else:
            found.append(offer)
    return found, reasons


def _held_elsewhere(claims: Sequence[Object], node: Object) -> str:
    for claim in claims:
        if not allocated(claim):
            continue
        selector = at(claim, "status", "allocation", "nodeSelector")
        if failure(claim) or (selector is not None and not nodes.selected(selector, node)):
            return NOT_HERE
    return ""


def _demand(pod: Object, around: Surroundings, node: Object) -> Demand | None:
    if at(pod, "status", "extendedResourceClaimStatus") is not None:
        return None
    return extended.demand(pod, around.classes.values(), node)


def offer_on(
    node: Object, pools: Sequence[Pool], claims: Sequence[Object], demand: Demand | None, around: Surroundings
) -> Offer | None:
    """Devices on one node for the claims that have none, None if there are not enough. Raises as `offers` does."""
    open_claims = tuple(claim for claim in claims if not allocated(claim))
    wishes: list[Wish] = [wish(claim, around.classes) for claim in open_claims]
    if demand is not None:
        wishes.append(wish({"spec": {"devices": {"requests": list(demand.requests)}}}, around.classes))
    try:
        chosen = search(wishes, pools, around.usage, around.selectors)
    except CannotAllocate:
        return None
    if chosen is None:
        return None
    parts = tuple(tuple(each for each in chosen if each.claim == number) for number in range(len(wishes)))
    return Offer(node=node, claims=open_claims, chosen=parts, demand=demand)
