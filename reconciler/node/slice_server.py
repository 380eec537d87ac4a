"""Finds out which dynamic resource allocation an API server has, and how ResourceSlices are written to it."""

from __future__ import annotations

import logging
from urllib.parse import quote

import msgspec

from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Garbled, Invalid, NotFound
from state.server_rows import SERVER_ROWS, ServerRow
from state.slices.capabilities import SEPARATE_SINCE, Capabilities, judge_probes, minor_of, probes
from state.slices.model import Slice
from state.slices.wire import Json, decode_slice, encode_slice

GROUP = "/apis/resource.k8s.io"

_DRY_RUN = (("dryRun", "All"),)
_log = logging.getLogger(__name__)


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct):
    versions: list[_Version] = []


class _Resource(msgspec.Struct):
    name: str


class _Resources(msgspec.Struct):
    resources: list[_Resource] = []


class _ServerVersion(msgspec.Struct):
    minor: str


class _Metadata(msgspec.Struct):
    uid: str


class _Node(msgspec.Struct):
    metadata: _Metadata


def slices_path(row: str) -> str:
    """The REST path of all slices."""
    return f"{GROUP}/{row}/resourceslices"


def node_reference(client: KubeClient, node: str) -> Json:
    """The Node as an owner: what it owns is deleted with it. Raises ApiError."""
    path = f"/api/v1/nodes/{quote(node, safe='')}"
    try:
        found = msgspec.json.decode(client.get(path), type=_Node)
    except ValueError as error:
        raise Garbled(f"no Node: {error}", about=f"GET {path}") from error
    return {"apiVersion": "v1", "kind": "Node", "name": node, "uid": found.metadata.uid, "controller": True}


def server_minor(client: KubeClient) -> int:
    """The server's minor release. Raises ApiError."""
    return _minor(client.get("/version"))


def _minor(raw: bytes) -> int:
    try:
        return minor_of(msgspec.json.decode(raw, type=_ServerVersion).minor)
    except ValueError as error:
        raise Garbled(f"no version: {error}", about="GET /version") from error


def find_row(client: KubeClient) -> ServerRow | None:
    """The best version that the server has; None where it has none that we know. Raises ApiError."""
    served = _served(client)
    return next((row for row in SERVER_ROWS if row.version in served and _has(client, row)), None)


def find_capabilities(client: KubeClient, row: str, node: str, driver: str) -> Capabilities:
    """What this server keeps of slices in version ``row``. Raises ApiError."""
    minor = server_minor(client)
    echoes: list[Slice] = []
    for trial in probes(node, driver, separate=minor >= SEPARATE_SINCE):
        body = msgspec.json.encode(encode_slice(trial, row))
        try:
            echoes.append(decode_slice(client.create(slices_path(row), body, _DRY_RUN)).content)
        except Invalid as error:
            # A server that refuses such a slice gets none: the plain layouts are left.
            _log.warning("the API server refuses a trial slice, so its features are not used: %s", error)
        except ValueError as error:
            raise Garbled(f"no slice: {error}", about=f"POST {slices_path(row)}") from error
    found = judge_probes(row, minor, tuple(echoes))
    _log.info("slices are written as resource.k8s.io/%s", row, extra={"server": str(found)})
    return found


def _served(client: KubeClient) -> frozenset[str]:
    try:
        group = msgspec.json.decode(client.get(GROUP), type=_Group)
    except NotFound:
        return frozenset()
    except ValueError as error:
        raise Garbled(f"no API group: {error}", about=f"GET {GROUP}") from error
    return frozenset(each.version for each in group.versions)


def _has(client: KubeClient, row: ServerRow) -> bool:
    """Some releases serve a version with a part of the resources only."""
    path = f"{GROUP}/{row.version}"
    try:
        resources = msgspec.json.decode(client.get(path), type=_Resources)
    except NotFound:
        return False
    except ValueError as error:
        raise Garbled(f"no list of resources: {error}", about=f"GET {path}") from error
    return any(resource.name == row.needs for resource in resources.resources)
