"""The GpuNodeState object as the controller reads it: its own part of the spec, and what the node reports.

Unlike the manifest's types these ignore what they don't know, so that objects written by a newer release are read
too. Entries keep the JSON they came in: what is not to be changed is written back as it was.
"""

from __future__ import annotations

import msgspec

from state.dra.resource_claims import ClaimRef
from state.manifest import AllocatedDevice, ClaimRefusal, RequestConfig, VirtualFunction
from state.records import AppliedDevice


class SeenFunction(VirtualFunction, frozen=True, forbid_unknown_fields=False):
    """A VF."""


class SeenRefusal(ClaimRefusal, frozen=True, forbid_unknown_fields=False):
    """Why a claim is refused."""


class SeenConfig(RequestConfig, frozen=True, forbid_unknown_fields=False):
    """Configuration of a request."""


class EntryDevice(AllocatedDevice, frozen=True, forbid_unknown_fields=False):
    """One device of an entry."""

    virtual_function: SeenFunction | None = None


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    """Part of an object as the API server sends it."""


class Entry(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of ``spec.allocations``: the fields of ``manifest.ClaimAllocation``."""

    name: str
    claim_namespace: str = ""
    claim_name: str = ""
    source: str = ""
    devices: tuple[EntryDevice, ...] = ()
    config: dict[str, SeenConfig] = {}
    refused: SeenRefusal | None = None

    @property
    def ref(self) -> ClaimRef:
        """Where its claim is to be found."""
        return ClaimRef(self.claim_namespace, self.claim_name)


class NodeAllocation(_Part, frozen=True, kw_only=True):
    """What the node says it has given to an allocation. ``claim`` is ``namespace/name``."""

    name: str
    origin: str = ""
    claim: str = ""
    phase: str = ""
    devices: tuple[AppliedDevice, ...] = ()


class _Metadata(_Part, frozen=True):
    name: str
    uid: str
    resource_version: str
    generation: int = 0
    deletion_timestamp: str | None = None


class _ManualDevice(_Part, frozen=True):
    device: str = ""


class _Manual(_Part, frozen=True):
    devices: tuple[_ManualDevice, ...] = ()


class _Spec(_Part, frozen=True):
    paused: bool = False
    policy: msgspec.Raw = msgspec.Raw(b"{}")
    overrides: msgspec.Raw = msgspec.Raw(b"[]")
    releases: tuple[str, ...] = ()
    allocations: tuple[msgspec.Raw, ...] = ()
    manual_allocations: tuple[_Manual, ...] = ()
    adopted_uid: str = msgspec.field(default="", name="adoptedUID")
    withdrawals_confirmed: dict[str, str] = {}


class _Status(_Part, frozen=True):
    observed_generation: int | None = None
    devices: msgspec.Raw = msgspec.Raw(b"[]")
    allocations: tuple[NodeAllocation, ...] = ()
    withdrawn: dict[str, str] = {}


class _Object(_Part, frozen=True):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has and what people say of it, in JSON: many nodes are watched, and few looked into at once."""

    devices: msgspec.Raw
    paused: bool
    policy: msgspec.Raw
    overrides: msgspec.Raw


class NodeObject(msgspec.Struct, frozen=True, kw_only=True):
    """A GpuNodeState: who it is, what stands in the controller's part of its spec, and what the node reports.

    ``entries`` are paired with the JSON they were read from. ``reported`` says that the node agent has written a
    status, by the spec of ``observed_generation``; ``manual`` are the logical names of devices that people gave
    away, ``releases`` the UIDs of claims that count as gone because people say so. ``inventory`` is only read for
    those who allocate.
    """

    name: str
    uid: str
    resource_version: str
    generation: int
    deleting: bool
    entries: tuple[tuple[Entry, msgspec.Raw], ...]
    adopted_uid: str
    confirmed: dict[str, str]
    manual: tuple[str, ...]
    reported: bool
    observed_generation: int
    allocations: tuple[NodeAllocation, ...]
    withdrawn: dict[str, str]
    releases: tuple[str, ...]
    inventory: Inventory | None = None

    @property
    def adopted(self) -> bool:
        """Whether the controller has written to this very object before."""
        return self.adopted_uid == self.uid

    def entry(self, uid: str) -> Entry | None:
        """The entry of a claim."""
        return next((entry for entry, _ in self.entries if entry.name == uid), None)

    def holds(self, uid: str, without_since: int | None) -> bool:
        """Whether the node may still have something of a claim.

        ``without_since`` is the generation of the spec that first had no entry of it, where that is known: what
        the node says counts once it has read that one.
        """
        if self.entry(uid) is not None:
            return True
        if uid in self.releases:
            return False
        needed = self.generation if without_since is None else without_since
        behind = not self.reported or self.observed_generation < needed
        return behind or any(allocation.name == uid for allocation in self.allocations)

    @property
    def signature(self) -> tuple[object, ...]:
        """What must change for the controller to look again: not conditions, health or progress."""
        return self.uid, self.generation, self.deleting, self.reported, tuple(sorted(self.withdrawn.items()))


_read_object = msgspec.json.Decoder(_Object).decode
_read_entry = msgspec.json.Decoder(Entry).decode


def read_node_object(raw: bytes, *, inventory: bool = False) -> NodeObject:
    """The GpuNodeState in ``raw``, JSON of an API server. Raises ``msgspec.DecodeError``, naming the field."""
    wire = _read_object(raw)
    meta, spec, status = wire.metadata, wire.spec, wire.status
    return NodeObject(
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        deleting=meta.deletion_timestamp is not None,
        entries=tuple((_read_entry(entry), entry.copy()) for entry in spec.allocations),
        adopted_uid=spec.adopted_uid,
        confirmed=spec.withdrawals_confirmed,
        manual=tuple(device.device for manual in spec.manual_allocations for device in manual.devices),
        reported=status.observed_generation is not None,
        observed_generation=status.observed_generation or 0,
        releases=spec.releases,
        inventory=Inventory(
            devices=status.devices.copy(),
            paused=spec.paused,
            policy=spec.policy.copy(),
            overrides=spec.overrides.copy(),
        )
        if inventory
        else None,
        allocations=status.allocations,
        withdrawn=status.withdrawn,
    )
