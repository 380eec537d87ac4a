"""The classic kinds (1.26 to 1.30): ResourceClaim with a driver's controller, ResourceClass, PodScheduling."""

from collections.abc import Iterator
from typing import TypeAlias

from kubesim.kinds.behaviour import Behaviour, View
from kubesim.refusals import Cause, forbidden, invalid_value, required, too_long, too_many
from kubesim.values import Object, at, objects

Causes: TypeAlias = Iterator[Cause]

HANDLE_BYTES = 16 * 1024
CONSUMERS = 32
HANDLES = 32
NODES = 128


def _default_claim(claim: Object) -> None:
    claim.setdefault("spec", {}).setdefault("allocationMode", "WaitForFirstConsumer")
    claim.setdefault("status", {})


def _claim_causes(claim: Object, view: View) -> Causes:
    spec = claim.get("spec") or {}
    if not spec.get("resourceClassName"):
        yield required("spec.resourceClassName")
    if view.old is not None and spec != view.old.get("spec"):
        yield invalid_value("spec", spec, "field is immutable")
    if view.subresource == "status" and view.old is not None:
        yield from _status_causes(claim.get("status") or {}, view.old.get("status") or {})
        yield from _new_consumer_causes(claim, view.old)


def _status_causes(status: Object, old: Object) -> Causes:
    allocation, consumers = status.get("allocation"), list(objects(status.get("reservedFor")))
    if allocation is not None:
        if not status.get("driverName"):
            yield required("status.driverName", "must be specified when `allocation` is set")
        yield from _handle_causes(allocation)
    if consumers and allocation is None:
        yield forbidden("status.reservedFor", "may not be specified when `allocated` is not set")
    if len(consumers) > CONSUMERS:
        yield too_many("status.reservedFor", len(consumers), CONSUMERS)
    elif len(consumers) > 1 and not at(allocation, "shareable"):
        yield forbidden("status.reservedFor", "may not be reserved more than once")
    if status.get("deallocationRequested"):
        if allocation is None:
            why = "deallocation cannot be requested while not allocated"
            yield forbidden("status.deallocationRequested", why)
        elif consumers:
            yield forbidden(
                "status.deallocationRequested", "deallocation cannot be requested while `reservedFor` is set"
            )
    elif old.get("deallocationRequested") and allocation is not None:
        yield forbidden("status.deallocationRequested", "may not be cleared when `allocation` is set")


def _new_consumer_causes(claim: Object, old: Object) -> Causes:
    """A claim that is on its way out gets no more consumers."""
    leaving = "deletionTimestamp" in claim["metadata"] or at(claim, "status", "deallocationRequested")
    before = list(objects(at(old, "status", "reservedFor")))
    if leaving and any(each not in before for each in objects(at(claim, "status", "reservedFor"))):
        why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
        yield forbidden("status.reservedFor", why)


def _handle_causes(allocation: Object) -> Causes:
    """One handle in 1.26, a list of them with their drivers since."""
    if len((allocation.get("resourceHandle") or "").encode()) > HANDLE_BYTES:
        yield too_long("status.allocation.resourceHandle", HANDLE_BYTES)
    handles = list(objects(allocation.get("resourceHandles")))
    if len(handles) > HANDLES:
        yield too_many("status.allocation.resourceHandles", len(handles), HANDLES)
    for index, handle in enumerate(handles):
        if len((handle.get("data") or "").encode()) > HANDLE_BYTES:
            yield too_long(f"status.allocation.resourceHandles[{index}].data", HANDLE_BYTES)


def _default_template(template: Object) -> None:
    inner = template.setdefault("spec", {}).setdefault("spec", {})
    inner.setdefault("allocationMode", "WaitForFirstConsumer")


def _scheduling_causes(scheduling: Object, _: View) -> Causes:
    nodes = at(scheduling, "spec", "potentialNodes") or []
    if len(nodes) > NODES:
        yield too_many("spec.potentialNodes", len(nodes), NODES)
    for index, claim in enumerate(objects(at(scheduling, "status", "resourceClaims"))):
        unsuitable = claim.get("unsuitableNodes") or []
        if len(unsuitable) > NODES:
            yield too_many(f"status.resourceClaims[{index}].unsuitableNodes", len(unsuitable), NODES)


def _class_causes(resource_class: Object, _: View) -> Causes:
    if not resource_class.get("driverName"):
        yield required("driverName")


def _default_scheduling(scheduling: Object) -> None:
    scheduling.setdefault("spec", {})
    scheduling.setdefault("status", {})


CLAIM = Behaviour(default=_default_claim, causes=_claim_causes)
TEMPLATE = Behaviour(default=_default_template)
CLASS = Behaviour(causes=_class_causes)
SCHEDULING = Behaviour(default=_default_scheduling, causes=_scheduling_causes)
