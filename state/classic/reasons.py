"""Why a node can't serve a claim, in a sentence of bounded length that names its GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LONGEST: Final = 500
"""Characters of a reason: Events of Kubernetes take 1024, and may tell of several claims."""
_NAMED: Final = 2


def of_claim(wanted: int, can_be_had: int, objections: Mapping[str, str]) -> str:
    """``objections`` are by GPU; GPUs that have the same are named together."""
    if not objections and not can_be_had:
        return "no GPU is known on this node"
    by_reason: dict[str, list[str]] = {}
    for gpu, objection in objections.items():
        by_reason.setdefault(objection, []).append(gpu)
    told = "; ".join(f"{_names(gpus)}: {objection}" for objection, gpus in by_reason.items())
    if can_be_had:
        told = f"{can_be_had} of {wanted} devices can be had" + (f"; {told}" if told else "")
    return told if len(told) <= LONGEST else f"{told[: LONGEST - 1]}…"


def _names(gpus: list[str]) -> str:
    named = ", ".join(gpus[:_NAMED])
    others = len(gpus) - _NAMED
    return named if others <= 0 else f"{named} and {others} more"
