"""What the scheduler and drivers tell each other about a pod: PodScheduling in 1.26, PodSchedulingContext later.

The scheduler writes ``spec``: the node it would take, and others it could; each driver adds to ``status`` which of
them are unsuitable for the pod's claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

MOST_UNSUITABLE: Final = 128
"""Nodes that ``unsuitableNodes`` of a claim may name, as many as ``potentialNodes`` (1.26.5: more are refused)."""


class ClaimAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver has said of one claim of the pod. ``name`` is the pod's name for it."""

    name: str
    unsuitable: tuple[str, ...]


class PodScheduling(msgspec.Struct, frozen=True, kw_only=True):
    """One pod being scheduled. ``answers`` are of all drivers, ``raw_answers`` the JSON they came in."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    pod_uid: str
    selected: str
    potential: tuple[str, ...]
    answers: tuple[ClaimAnswer, ...]
    raw_answers: tuple[msgspec.Raw, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes asked about, the selected one first; it may be none of the potential ones any more."""
        asked = dict.fromkeys(((self.selected,) if self.selected else ()) + self.potential)
        return tuple(asked)


class PodClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A claim of a pod: the pod's name for it, and the name of the claim.

    ``made``: it is made from a template for this pod alone.
    """

    entry: str
    claim: str
    made: bool


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod as far as claims go."""

    uid: str
    deleting: bool
    claims: tuple[PodClaim, ...]


class _Wire(msgspec.Struct, rename="camel"):
    """Part of an object as the API server sends it; null is as good as absent."""


class _Owner(_Wire):
    kind: str
    name: str
    uid: str


class _Metadata(_Wire):
    name: str
    namespace: str
    uid: str
    resource_version: str
    deletion_timestamp: str | None = None
    owner_references: list[_Owner] | None = None


class _SchedulingSpec(_Wire):
    selected_node: str = ""
    potential_nodes: list[str] | None = None


class _SchedulingStatus(_Wire):
    resource_claims: list[msgspec.Raw] | None = None


class _Answer(_Wire):
    name: str = ""
    unsuitable_nodes: list[str] | None = None


class _Scheduling(_Wire):
    metadata: _Metadata
    spec: _SchedulingSpec = msgspec.field(default_factory=_SchedulingSpec)
    status: _SchedulingStatus | None = None


class _Source(_Wire):
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class _PodClaim(_Wire):
    name: str
    source: _Source | None = None
    resource_claim_name: str | None = None


class _PodSpec(_Wire):
    resource_claims: list[_PodClaim] | None = None


class _ClaimStatus(_Wire):
    name: str
    resource_claim_name: str | None = None


class _PodStatus(_Wire):
    resource_claim_statuses: list[_ClaimStatus] | None = None


class _Pod(_Wire):
    metadata: _Metadata
    spec: _PodSpec
    status: _PodStatus | None = None


_read_scheduling = msgspec.json.Decoder(_Scheduling).decode
_read_answer = msgspec.json.Decoder(_Answer).decode
_read_pod = msgspec.json.Decoder(_Pod).decode


def read_scheduling(raw: bytes) -> PodScheduling:
    """A PodScheduling or PodSchedulingContext. Raises ``msgspec.DecodeError``, which names the field."""
    wire = _read_scheduling(raw)
    meta = wire.metadata
    answers = (wire.status.resource_claims if wire.status else None) or []
    read = [_read_answer(answer) for answer in answers]
    return PodScheduling(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        pod_uid=next((owner.uid for owner in meta.owner_references or () if owner.kind == "Pod"), ""),
        selected=wire.spec.selected_node,
        potential=tuple(wire.spec.potential_nodes or ()),
        answers=tuple(ClaimAnswer(name=one.name, unsuitable=tuple(one.unsuitable_nodes or ())) for one in read),
        raw_answers=tuple(answer.copy() for answer in answers),
    )


def read_pod(raw: bytes) -> Pod:
    """A pod. Raises ``msgspec.DecodeError``.

    A claim made from a template is called ``<pod>-<entry>`` up to 1.27; later releases invent a name, and tell it
    in the pod's status once the claim exists.
    """
    wire = _read_pod(raw)
    statuses = (wire.status.resource_claim_statuses if wire.status else None) or []
    told = {one.name: one.resource_claim_name or "" for one in statuses}
    claims = tuple(_pod_claim(wire.metadata.name, one, told) for one in wire.spec.resource_claims or ())
    return Pod(uid=wire.metadata.uid, deleting=wire.metadata.deletion_timestamp is not None, claims=claims)


def _pod_claim(pod: str, one: _PodClaim, told: Mapping[str, str]) -> PodClaim:
    named = one.resource_claim_name or (one.source.resource_claim_name if one.source else None)
    if named:
        return PodClaim(entry=one.name, claim=named, made=False)
    return PodClaim(entry=one.name, claim=told.get(one.name) or f"{pod}-{one.name}", made=True)


def answered(scheduling: PodScheduling, unsuitable: Mapping[str, tuple[str, ...]]) -> bytes | None:
    """The merge patch that says which nodes are unsuitable, by the pod's names for our claims; None if it says so.

    Answers of other drivers stay as they came. It is refused where the object has changed meanwhile.
    """
    said = {answer.name: answer.unsuitable for answer in scheduling.answers}
    wanted = {name: nodes[:MOST_UNSUITABLE] for name, nodes in unsuitable.items()}
    if all(name in said and set(said[name]) == set(nodes) for name, nodes in wanted.items()):
        return None
    pairs = zip(scheduling.answers, scheduling.raw_answers, strict=True)
    others = [raw for answer, raw in pairs if answer.name not in wanted]
    ours = [{"name": name, "unsuitableNodes": nodes} for name, nodes in wanted.items()]
    metadata = {"uid": scheduling.uid, "resourceVersion": scheduling.resource_version}
    return msgspec.json.encode({"metadata": metadata, "status": {"resourceClaims": [*others, *ours]}})
