"""What a claim's status says of its devices on this node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from state.manifest import AllocatedDevice, ClaimAllocation
from state.slices.wire import VF_FAILED, VF_READY, Json
from state.status import AllocationStatus, NodeStatus

WITHOUT_DEVICE_STATUS: Final = frozenset({"v1alpha3"})
"""Versions, as they are the best that a server has, whose claims have no ``status.devices``: 1.31 refuses to apply
fields that it doesn't know."""

_READY = "Ready"
_FAILED = "Failed"
_LONGEST_MESSAGE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimStatus:
    """Our part of one claim's status: the object to apply. ``summary`` changes when it can't wait."""

    namespace: str
    name: str
    body: Json
    summary: str


def claim_statuses(
    status: NodeStatus,
    allocations: tuple[ClaimAllocation, ...],
    *,
    row: str,
    driver: str,
    binding: bool,
    avoided: frozenset[str],
) -> Mapping[str, ClaimStatus]:
    """By UID, what to say of each claim that the node has looked at.

    With ``binding`` the conditions that schedulers wait for are set too. That a VF can't be had is said only of
    GPUs in ``avoided``, which schedulers know to be tainted: else they would choose the same GPU again.
    """
    seen = {one.name: one for one in status.allocations if one.origin == "claim"}
    found: dict[str, ClaimStatus] = {}
    for claim in allocations:
        outcome = seen.get(claim.name)
        if outcome is None or not claim.devices:
            continue
        devices = [_device(device, outcome, driver, binding, avoided) for device in claim.devices]
        found[claim.name] = ClaimStatus(
            namespace=claim.claim_namespace,
            name=claim.claim_name,
            body=_body(claim, row, devices),
            summary=f"{outcome.phase} {sorted(avoided)}" if outcome.phase == _FAILED else outcome.phase,
        )
    return found


def _body(claim: ClaimAllocation, row: str, devices: list[Json]) -> Json:
    # With the UID it is refused where another claim has taken the name.
    metadata = {"name": claim.claim_name, "namespace": claim.claim_namespace, "uid": claim.name}
    return {
        "apiVersion": f"resource.k8s.io/{row}",
        "kind": "ResourceClaim",
        "metadata": metadata,
        "status": {"devices": devices},
    }


def _device(
    device: AllocatedDevice, outcome: AllocationStatus, driver: str, binding: bool, avoided: frozenset[str]
) -> Json:
    ready = outcome.phase == _READY
    conditions = [_condition(_READY, ready, outcome)]
    if binding and device.virtual_function is not None:
        failed = outcome.phase == _FAILED and device.physical_function in avoided
        conditions += [_condition(VF_READY, ready, outcome), _condition(VF_FAILED, failed, outcome)]
    share = {"shareID": device.share_id} if device.share_id else {}
    return {
        "driver": driver,
        "pool": device.pool,
        "device": device.device,
        **share,
        "conditions": conditions,
    }


def _condition(kind: str, value: bool, outcome: AllocationStatus) -> Json:
    return {
        "type": kind,
        "status": "True" if value else "False",
        "reason": outcome.phase,
        "message": outcome.message[:_LONGEST_MESSAGE].encode("utf-8", "backslashreplace").decode(),
        "lastTransitionTime": _moment(outcome.since),
    }


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
