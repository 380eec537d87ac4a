"""The node's own GpuNodeState: where it is, and how it comes about."""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import quote

import msgspec

from reconciler.node.slice_server import node_reference
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import AlreadyExists
from state.manifest import API_VERSION, KIND

COLLECTION: Final = f"/apis/{API_VERSION}/gpunodestates"

_log = logging.getLogger(__name__)


def path_of(node: str) -> str:
    """The REST path of a node's GpuNodeState."""
    return f"{COLLECTION}/{quote(node, safe='')}"


def create_own(client: KubeClient, node: str) -> None:
    """Make the node's GpuNodeState, owned by the Node, so that it goes with it. Raises ApiError.

    Somebody else may have been quicker: that is as well.
    """
    owner = node_reference(client, node)
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": node, "ownerReferences": [owner]},
        "spec": {},
    }
    try:
        client.create(COLLECTION, msgspec.json.encode(manifest))
    except AlreadyExists:
        return
    _log.info("created the GpuNodeState of this node")
