"""What the scheduler writes into PodScheduling (PodSchedulingContext since 1.27), and what it reads there."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from kubesim.values import Object, at, objects

MOST_NODES = 128
"""The API server takes no more potential nodes."""
ASKED_TO_ALLOCATE = "waiting for resource driver to allocate resource"
ASKED_FOR_INFORMATION = "waiting for resource driver to provide information"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospects:
    """Where a pod could go, best first, and which of its entries still need an allocation."""

    nodes: Sequence[str]
    pending: Collection[str]


def asked(scheduling: Object | None, prospects: Prospects) -> tuple[Object, str]:
    """The spec to ask drivers with, and what the pod is told meanwhile.

    With one claim pending a node is selected without waiting for what its driver says of it.
    """
    spec = dict(at(scheduling, "spec") or {})
    known = spec.get("potentialNodes") or []
    if not known or (len(prospects.nodes) > 1 and not set(prospects.nodes) <= set(known)):
        spec["potentialNodes"] = sorted(prospects.nodes[:MOST_NODES])
    informed = {each.get("name") for each in objects(at(scheduling, "status", "resourceClaims"))}
    if len(prospects.pending) > 1 and not set(prospects.pending) <= informed:
        return spec, ASKED_FOR_INFORMATION
    return {**spec, "selectedNode": prospects.nodes[0]}, ASKED_TO_ALLOCATE


def unsuitable(scheduling: Object | None, pending: Collection[str], node: str) -> bool:
    """Whether a driver said that it can't allocate one of the pending claims for a node."""
    return any(
        each.get("name") in pending and node in (each.get("unsuitableNodes") or ())
        for each in objects(at(scheduling, "status", "resourceClaims"))
    )
