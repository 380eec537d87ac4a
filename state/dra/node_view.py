"""What a decision about one node is made from, and what can come of it. Times are seconds of one steady clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from state.dra.node_object import NodeObject
from state.dra.resource_claims import Claim, ClaimRef
from state.manifest import ClaimRefusal
from state.profiles import ProfileTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a live GET of a claim gave: the claim, None when there is none of that name, or why nobody knows."""

    claim: Claim | None = None
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A consistent list of all claims, begun at ``started``: those of it that have devices on the node."""

    started: float
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """All that is known about one node.

    ``claims`` are those with devices here according to a cache, which may be behind; ``looks`` are live answers,
    ``listing`` the last consistent list. ``unsure`` are UIDs of claims that the cache may be wrong about although
    no entry contradicts it, and with ``cautious`` all are: they are looked up before they are given an entry.
    ``open`` are UIDs of claims that are not allocated yet by that cache, and whose entries are to stand.
    ``withdrawals_seen`` says since when each withdrawal (device, token) is known.
    """

    node: str
    source: str
    table: ProfileTable
    state: NodeObject | None
    claims: tuple[Claim, ...]
    now: float
    looks: Mapping[ClaimRef, Look] = field(default_factory=dict)
    listing: Listing | None = None
    unsure: frozenset[str] = frozenset()
    open: frozenset[str] = frozenset()
    cautious: bool = False
    withdrawals_seen: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A claim refused in a write, for an Event."""

    uid: str
    ref: ClaimRef
    refusal: ClaimRefusal


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecWrite:
    """Write this: the body of a server-side apply, with all of the controller's part of the spec.

    It holds metadata.uid and metadata.resourceVersion, so it fails where the object has changed. ``names`` and
    ``confirmed`` are what has to stand there afterwards, and nothing else.
    """

    body: bytes
    names: frozenset[str]
    confirmed: Mapping[str, str]
    refused: tuple[Refused, ...]
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsLiveLook:
    """First GET these claims: the cache alone is no reason to take anything away."""

    refs: tuple[ClaimRef, ...]
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsListing:
    """First list all claims, beginning not before ``after``."""

    after: float
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitUntil:
    """Nothing to do before ``at``."""

    at: float
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """Nothing to do. ``retry`` says that this is only because something could not be found out."""

    why: tuple[str, ...]
    retry: bool = False


Decision = SpecWrite | NeedsLiveLook | NeedsListing | WaitUntil | Nothing
