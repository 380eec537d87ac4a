"""The GpuNodeState object as the controller reads it: its own part of the spec, and what the node reports.

Unlike the manifest's types these ignore what they don't know, so that objects written by a newer release are read
too. Entries keep the JSON they came in: what is not to be changed is written back as it was.
"""

from __future__ import annotations

import msgspec

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


class NodeAllocation(_Part, frozen=True, kw_only=True):
    """What the node says it has given to an allocation. ``claim`` is ``namespace/name``."""

    name: str
    origin: str = ""
    claim: str = ""
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
    allocations: tuple[msgspec.Raw, ...] = ()
    manual_allocations: tuple[_Manual, ...] = ()
    adopted_uid: str = msgspec.field(default="", name="adoptedUID")
    withdrawals_confirmed: dict[str, str] = {}


class _Status(_Part, frozen=True):
    observed_generation: int | None = None
    allocations: tuple[NodeAllocation, ...] = ()
    withdrawn: dict[str, str] = {}


class _Object(_Part, frozen=True):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class NodeObject(msgspec.Struct, frozen=True, kw_only=True):
    """A GpuNodeState: who it is, what stands in the controller's part of its spec, and what the node reports.

    ``entries`` are paired with the JSON they were read from. ``reported`` says that the node agent has written a
    status; ``manual`` are the logical names of devices that people gave away.
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
    allocations: tuple[NodeAllocation, ...]
    withdrawn: dict[str, str]

    @property
    def adopted(self) -> bool:
        """Whether the controller has written to this very object before."""
        return self.adopted_uid == self.uid

    @property
    def signature(self) -> tuple[object, ...]:
        """What must change for the controller to look again: not conditions, health or progress."""
        return self.uid, self.generation, self.deleting, self.reported, tuple(sorted(self.withdrawn.items()))


_read_object = msgspec.json.Decoder(_Object).decode
_read_entry = msgspec.json.Decoder(Entry).decode


def read_node_object(raw: bytes) -> NodeObject:
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
        allocations=status.allocations,
        withdrawn=status.withdrawn,
    )
