"""Reading and writing GpuNodeStates on the API server."""

from __future__ import annotations

from typing import Final

import msgspec

from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Garbled
from state.dra.node_object import NodeObject, read_node_object
from state.dra.node_view import SpecWrite

NODE_STATES: Final = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates"
FIELD_MANAGER: Final = "gpu-controller"


def read_node_state(client: KubeClient, name: str, *, inventory: bool) -> NodeObject:
    """The GpuNodeState as it is on the server. Raises ApiError."""
    return _read(client.get(f"{NODE_STATES}/{name}"), name, inventory=inventory)


def write_spec(client: KubeClient, name: str, write: SpecWrite, *, inventory: bool) -> NodeObject:
    """Write the controller's part of the spec; returns the object as it then is. Raises ApiError.

    Server-side apply leaves standing what others own as well: an entry from a backup that was put back, or of an
    editor. All entries are ours by contract, so what is left over is then written out of existence.
    """
    answer = client.apply(f"{NODE_STATES}/{name}", write.body, field_manager=FIELD_MANAGER, force=True)
    node = _read(answer, name, inventory=inventory)
    if {entry.name for entry, _ in node.entries} == write.names and node.confirmed == write.confirmed:
        return node
    patch = _without_leftovers(node, write)
    answer = client.merge_patch(f"{NODE_STATES}/{name}", patch, (("fieldManager", FIELD_MANAGER),))
    return _read(answer, name, inventory=inventory)


def _without_leftovers(node: NodeObject, write: SpecWrite) -> bytes:
    kept = [raw for entry, raw in node.entries if entry.name in write.names]
    dropped = dict.fromkeys(device for device in node.confirmed if device not in write.confirmed)
    return msgspec.json.encode(
        {
            "metadata": {"uid": node.uid, "resourceVersion": node.resource_version},
            "spec": {"allocations": kept, "withdrawalsConfirmed": {**dropped, **write.confirmed}},
        }
    )


def _read(body: bytes, name: str, *, inventory: bool) -> NodeObject:
    try:
        return read_node_object(body, inventory=inventory)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Garbled(f"not a GpuNodeState: {error}", status=200, about=f"{NODE_STATES}/{name}") from error
