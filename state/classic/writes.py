"""What the controller writes to claims of classic DRA: merge patches, refused where the claim has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from state.classic.claims import ClassicClaim, Consumer, finalizer_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one version of resource.k8s.io has it. ``handle_list``: resourceHandles instead of a resourceHandle."""

    handle_list: bool


V1ALPHA1: Final = Dialect(handle_list=False)
V1ALPHA2: Final = Dialect(handle_list=True)


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
    handle: str,
    shareable: bool,
    user: Consumer | None,
) -> bytes:
    """Allocate, to status. With ``user`` the claim is reserved in the same write; else the scheduler does that."""
    allocation: dict[str, object] = {
        "shareable": shareable,
        "availableOnNodes": {
            "nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
            ]
        },
    }
    if dialect.handle_list:
        allocation["resourceHandles"] = [{"driverName": driver, "data": handle}]
    else:
        allocation["resourceHandle"] = handle
    status: dict[str, object] = {"driverName": driver, "allocation": allocation}
    if user is not None:
        status["reservedFor"] = [user]
    return _patch(claim, status=status)


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
