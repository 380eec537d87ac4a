"""What claims and classes say, whichever version says it: 1.26 to 1.30 differ little, 1.31 more."""

from collections.abc import Iterator, Mapping

from kubesim.actors import nodes
from kubesim.actors.api import Api
from kubesim.actors.reservations import Waiting, consumers
from kubesim.values import Object, Value, at, objects


def delayed(claim: Object) -> bool:
    """Whether a claim is allocated for its first consumer. From 1.31 on all are."""
    spec = claim["spec"]
    return "devices" in spec or bool(spec.get("allocationMode") == "WaitForFirstConsumer")


def usable(claim: Object) -> bool:
    """Whether one more pod may reserve an allocated claim."""
    shareable = "devices" in claim["spec"] or at(claim, "status", "allocation", "shareable")
    return bool(shareable) or not consumers(claim)


def deallocating(claim: Object) -> bool:
    """Whether the driver's controller has been asked to take an allocation back."""
    return bool(at(claim, "status", "deallocationRequested"))


def reaches(claim: Object, node: Object) -> bool:
    """Whether an allocated claim can be used on a node."""
    allocation = at(claim, "status", "allocation") or {}
    selector: Value = allocation.get("availableOnNodes") or allocation.get("nodeSelector")
    return selector is None or nodes.selected(selector, node)


def handles(claim: Object) -> Mapping[str, str]:
    """What drivers' controllers tell their kubelet plugins about an allocated claim, by driver."""
    status = claim.get("status") or {}
    allocation = status.get("allocation") or {}
    if "devices" in claim["spec"]:
        return dict.fromkeys((each["driver"] for each in objects(at(allocation, "devices", "results"))), "")
    several = list(objects(allocation.get("resourceHandles"))) or [{"data": allocation.get("resourceHandle")}]
    return {each.get("driverName") or status.get("driverName") or "": each.get("data") or "" for each in several}


def suitable_nodes(claim: Object, api: Api) -> list[Object]:
    """The node selectors of a claim's classes: all must select a node. Raises Waiting for an unknown class."""
    selectors = []
    for plural, name in _classes(claim):
        found = api.find(plural, "", name)
        if found is None:
            raise Waiting(f'resource class "{name}" not found')
        selector = found.get("suitableNodes") or at(found, "spec", "suitableNodes")
        if selector is not None:
            selectors.append(selector)
    return selectors


def _classes(claim: Object) -> Iterator[tuple[str, str]]:
    if "devices" not in claim["spec"]:
        yield "resourceclasses", claim["spec"]["resourceClassName"]
    for request in objects(at(claim, "spec", "devices", "requests")):
        yield "deviceclasses", (request.get("exactly") or {}).get("deviceClassName", "")
