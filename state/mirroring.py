"""From a node's GpuNodeState to its desired-state file.

The file is what the machine follows, so a GpuNodeState that was lost and made anew must not take claims' entries
with it: until the controller has adopted the new object, the entries of the last file stay.
"""

from __future__ import annotations

import msgspec

from state.manifest import API_VERSION, KIND

_CONTROLLERS = ("allocations", "withdrawalsConfirmed")
"""Fields of the spec that a new object has only once the controller has adopted it."""


class OwnMetadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The metadata of a GpuNodeState that we use."""

    name: str
    uid: str
    generation: int = 0


class OwnObject(msgspec.Struct, frozen=True, kw_only=True):
    """A GpuNodeState as the API server has it. Spec and status stay as they are: newer fields survive."""

    metadata: OwnMetadata
    spec: dict[str, object] = {}
    status: dict[str, object] | None = None


class _File(msgspec.Struct):
    spec: dict[str, object] = {}


def decode_own(raw: bytes) -> OwnObject:
    """The object in ``raw``. Raises msgspec.ValidationError and msgspec.DecodeError (both ValueError)."""
    return msgspec.json.decode(raw, type=OwnObject)


def is_adopted(own: OwnObject) -> bool:
    """Whether the controller has taken on this very object, not one that had its name before."""
    return own.spec.get("adoptedUID") == own.metadata.uid


def mirrored(own: OwnObject, last: bytes | None) -> bytes:
    """The desired-state file for ``own``; ``last`` is the file as it is now. Equal objects give equal bytes."""
    spec = own.spec
    if not is_adopted(own):
        before = _spec_of(last)
        spec = {name: value for name, value in spec.items() if name not in _CONTROLLERS}
        spec |= {name: before[name] for name in _CONTROLLERS if name in before}
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": own.metadata.name,
            "uid": own.metadata.uid,
            "generation": own.metadata.generation,
        },
        "spec": spec,
    }
    return msgspec.json.encode(manifest, order="deterministic") + b"\n"


def _spec_of(file: bytes | None) -> dict[str, object]:
    try:
        return {} if file is None else msgspec.json.decode(file, type=_File).spec
    except ValueError:
        return {}  # written over by somebody: nothing in it can be trusted
