"""Reading and writing GpuNodeStates on the API server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from reconciler.controller import controller_metrics as measures
from reconciler.controller.knowledge import Knowledge
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError, Conflict, Garbled
from reconciler.runtime.metrics import Metrics
from state.dra.node_object import NodeObject, read_node_object
from state.dra.node_view import SpecWrite

NODE_STATES: Final = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates"
FIELD_MANAGER: Final = "gpu-controller"

_CHANGES_LOGGED: Final = 8

_log = logging.getLogger(__name__)


class NodeStates:
    """Reads and writes, and lets ``knowledge`` have the answers. ``inventory``: whether what nodes have is read
    as well. All methods may be called from any thread.
    """

    def __init__(
        self, client: KubeClient, knowledge: Knowledge, metrics: Metrics, *, inventory: Callable[[], bool]
    ) -> None:
        self._client = client
        self._knowledge = knowledge
        self._metrics = metrics
        self._inventory = inventory

    def reread(self, name: str) -> None:
        """Learn what it is on the server. Raises ApiError, also for one that is gone: its watch will tell."""
        older = self._knowledge.versions(name)
        self._knowledge.take_answer(self._read(self._client.get(f"{NODE_STATES}/{name}"), name), older)

    def write(self, name: str, write: SpecWrite) -> None:
        """Write the controller's part of the spec. Raises ApiError.

        If others have written meanwhile, what they wrote is known before Conflict is raised.
        """
        older = self._knowledge.versions(name)
        try:
            node = self._write(name, write)
        except Conflict:
            self._metrics.count(measures.WRITES, result="conflict")
            self.reread(name)
            raise
        except ApiError:
            self._metrics.count(measures.WRITES, result="failed")
            raise
        self._metrics.count(measures.WRITES, result="ok")
        self._knowledge.take_answer(node, older)
        _log.info("wrote the spec", extra={"node": name, "changes": _some(write.why)})

    def _write(self, name: str, write: SpecWrite) -> NodeObject:
        """Server-side apply leaves standing what others own as well: an entry from a backup that was put back, or
        of an editor. All entries are ours by contract, so what is left over is then written out of existence.
        """
        answer = self._client.apply(f"{NODE_STATES}/{name}", write.body, field_manager=FIELD_MANAGER, force=True)
        node = self._read(answer, name)
        if {entry.name for entry, _ in node.entries} == write.names and node.confirmed == write.confirmed:
            return node
        patch = _without_leftovers(node, write)
        answer = self._client.merge_patch(f"{NODE_STATES}/{name}", patch, (("fieldManager", FIELD_MANAGER),))
        return self._read(answer, name)

    def _read(self, body: bytes, name: str) -> NodeObject:
        try:
            return read_node_object(body, inventory=self._inventory())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Garbled(f"not a GpuNodeState: {error}", status=200, about=f"{NODE_STATES}/{name}") from error


def _without_leftovers(node: NodeObject, write: SpecWrite) -> bytes:
    kept = [raw for entry, raw in node.entries if entry.name in write.names]
    dropped = dict.fromkeys(device for device in node.confirmed if device not in write.confirmed)
    return msgspec.json.encode(
        {
            "metadata": {"uid": node.uid, "resourceVersion": node.resource_version},
            "spec": {"allocations": kept, "withdrawalsConfirmed": {**dropped, **write.confirmed}},
        }
    )


def _some(changes: tuple[str, ...]) -> str:
    more = len(changes) - _CHANGES_LOGGED
    return "; ".join(changes[:_CHANGES_LOGGED]) + (f"; and {more} more" if more > 0 else "")
