"""From a node's GpuNodeState to its desired-state file.

The file is what the machine follows, so a GpuNodeState that was lost and made anew must not take claims' entries
with it: until the controller has adopted the new object, the entries of the last file stay.
"""

from __future__ import annotations

import msgspec

from state.manifest import API_VERSION, KIND
from state.manifest_decoding import ManifestError, decode

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
        spec = {name: value for name, value in spec.items() if name not in _CONTROLLERS} | _kept_of(last)
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


def _kept_of(file: bytes | None) -> dict[str, object]:
    """The controller's fields in a file, or nothing if somebody spoilt them.

    What can't be followed must not be kept: the controller adopts an object only once the node follows it.
    """
    if file is None:
        return {}
    try:
        spec = msgspec.json.decode(file, type=_File).spec
        kept = {name: spec[name] for name in _CONTROLLERS if name in spec}
        decode({"apiVersion": API_VERSION, "kind": KIND, "spec": kept}, cluster=True)
    except (ValueError, RecursionError, ManifestError):
        return {}
    return kept
