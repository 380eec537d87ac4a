"""What the controller writes to claims of classic DRA: merge patches, refused where the claim has changed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec

from state.classic.claims import ClassicClaim, Consumer, finalizer_of
from state.classic.handles import handle_of
from state.dra.node_object import EntryDevice


class Dialect(Enum):
    """How a version of resource.k8s.io writes allocations."""

    HANDLE = "v1alpha1"
    HANDLES = "v1alpha2"
    DEVICES = "v1alpha3"


def fenced(claim: ClassicClaim, driver: str) -> bytes:
    """Set our finalizer."""
    return _patch(claim, metadata={"finalizers": [*claim.finalizers, finalizer_of(driver)]})


def unfenced(claim: ClassicClaim) -> bytes:
    """Take our finalizer away, whichever of our names it bears."""
    ours = finalizer_of(claim.fence)
    return _patch(claim, metadata={"finalizers": [one for one in claim.finalizers if one != ours] or None})


def allocated(
    claim: ClassicClaim,
    dialect: Dialect,
    *,
    driver: str,
    node: str,
    devices: Sequence[EntryDevice],
    shareable: bool,
    user: Consumer | None,
) -> bytes:
    """Allocate, to status. With ``user`` the claim is reserved in the same write; else the scheduler does that.

    ``shareable`` is for versions in which not every claim is. Raises HandleError for more devices than fit.
    """
    here = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}
    handle = handle_of(node, devices)
    status: dict[str, object]
    match dialect:
        case Dialect.HANDLE:
            allocation = {"shareable": shareable, "availableOnNodes": here, "resourceHandle": handle}
            status = {"driverName": driver, "allocation": allocation}
        case Dialect.HANDLES:
            handles = [{"driverName": driver, "data": handle}]
            allocation = {"shareable": shareable, "availableOnNodes": here, "resourceHandles": handles}
            status = {"driverName": driver, "allocation": allocation}
        case Dialect.DEVICES:
            told = {"results": _results(claim, driver, node, devices), "config": [_config(driver, handle)]}
            status = {"allocation": {"controller": driver, "nodeSelector": here, "devices": told}}
    if user is not None:
        status["reservedFor"] = [user]
    return _patch(claim, status=status)


def _results(claim: ClassicClaim, driver: str, node: str, devices: Sequence[EntryDevice]) -> list[dict[str, str]]:
    """The kubelet of 1.31 takes the driver and the request from here."""
    request = claim.asked.requests[0].name if claim.asked else ""
    return [{"request": request, "driver": driver, "pool": node, "device": one.device} for one in devices]


def _config(driver: str, handle: str) -> dict[str, object]:
    return {"source": "FromClaim", "opaque": {"driver": driver, "parameters": msgspec.Raw(handle.encode())}}


def deallocated(claim: ClassicClaim) -> bytes:
    """Take the allocation back, to status: all of it in one write, as the server demands."""
    return _patch(claim, status={"driverName": None, "allocation": None, "deallocationRequested": None})


def _patch(
    claim: ClassicClaim, *, metadata: dict[str, object] | None = None, status: dict[str, object] | None = None
) -> bytes:
    precondition = {"uid": claim.uid, "resourceVersion": claim.resource_version}
    body: dict[str, object] = {"metadata": {**(metadata or {}), **precondition}}
    if status is not None:
        body["status"] = status
    return msgspec.json.encode(body)
