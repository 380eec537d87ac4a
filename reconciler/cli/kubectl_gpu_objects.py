"""GpuNodeStates as ``kubectl gpu`` reads them, and finding in them what people name.

Unlike the manifest's types these ignore what they don't know, so that objects of a newer release can be shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

import msgspec

from reconciler.cli.problems import CommandError, allowing
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import NotFound
from reconciler.runtime.kube.listing import list_all
from state.ids import parse_logical_device
from state.manifest import API_VERSION
from state.status import AllocationStatus, DeviceStatus, NodeStatus

COLLECTION: Final = f"/apis/{API_VERSION}/gpunodestates"

WAITING: Final = "waits for the controller"

_MOST_NAMES = 20
"""How many names an error lists."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Part of an object as the API server sends it."""


class SeenOverride(_Part, frozen=True):
    """A person's word on one GPU."""

    device: str
    mode: str = "Managed"
    reason: str = ""


class SeenRefusal(_Part, frozen=True):
    """Why the controller refuses a claim."""

    path: str = ""
    reason: str = ""


class SeenEntry(_Part, frozen=True):
    """What the controller wrote for a claim; ``name`` is its UID."""

    name: str
    claim_namespace: str = ""
    claim_name: str = ""
    refused: SeenRefusal | None = None


class SeenManual(_Part, frozen=True):
    """A manual allocation."""

    name: str


class SeenSpec(_Part, frozen=True):
    """What is wanted of a node, as far as it is shown."""

    paused: bool = False
    overrides: tuple[SeenOverride, ...] = ()
    manual_allocations: tuple[SeenManual, ...] = ()
    releases: tuple[str, ...] = ()
    allocations: tuple[SeenEntry, ...] = ()
    withdrawals_confirmed: dict[str, str] = {}


class FieldsEntry(_Part, frozen=True):
    """Which fields a manager owns, as managedFields have it."""

    manager: str = ""
    fields_v1: dict[str, object] = msgspec.field(default_factory=dict, name="fieldsV1")


class SeenMetadata(_Part, frozen=True):
    """The object's metadata."""

    name: str
    uid: str
    creation_timestamp: datetime
    generation: int = 0
    managed_fields: tuple[FieldsEntry, ...] = ()


class Node(_Part, frozen=True):
    """One GpuNodeState; ``status`` is None until the node's agent has said something."""

    metadata: SeenMetadata
    spec: SeenSpec = msgspec.field(default_factory=SeenSpec)
    status: NodeStatus | None = None

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def devices(self) -> tuple[DeviceStatus, ...]:
        return self.status.devices if self.status is not None else ()

    @property
    def allocations(self) -> tuple[AllocationStatus, ...]:
        return self.status.allocations if self.status is not None else ()

    @property
    def is_followed(self) -> bool:
        """Whether the agent has read the newest spec."""
        return self.status is not None and (self.status.observed_generation or 0) >= self.metadata.generation

    def override_of(self, gpu: str) -> SeenOverride | None:
        """The override of a GPU."""
        return next((one for one in self.spec.overrides if one.device == gpu), None)

    def owners_of_override(self, gpu: str) -> tuple[str, ...]:
        """The field managers that have a say in a GPU's override."""
        key = msgspec.json.encode({"device": gpu}).decode()
        path = ("f:spec", "f:overrides", f"k:{key}")
        return tuple(entry.manager for entry in self.metadata.managed_fields if _has(entry.fields_v1, path))

    def withdrawal_of(self, gpu: str) -> str:
        """How far the withdrawal of a GPU, or of parts of it, from the scheduler has got: "" if there is none,
        WAITING, or "confirmed": no claim was given it meanwhile.
        """
        withdrawn = self.status.withdrawn if self.status is not None else {}
        tokens = {device: token for device, token in withdrawn.items() if gpu_of(device) == gpu}
        if not tokens:
            return ""
        given = self.spec.withdrawals_confirmed
        confirmed = all(given.get(device) == token for device, token in tokens.items())
        return "confirmed" if confirmed else WAITING


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGpu:
    """A GPU, and the node that has it."""

    node: Node
    gpu: DeviceStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundClaim:
    """A claim, or a manual allocation, as its node knows it: ``entry`` from its spec, ``allocation`` from its
    status; one of them at least.
    """

    node: Node
    entry: SeenEntry | None
    allocation: AllocationStatus | None

    @property
    def uid(self) -> str:
        """The claim's UID, or the manual allocation's name."""
        return _uid(self.entry, self.allocation)

    @property
    def called(self) -> str:
        """What people call it."""
        if self.entry is not None and self.entry.claim_name:
            return f"{self.entry.claim_namespace}/{self.entry.claim_name}"
        return (self.allocation.claim if self.allocation is not None else "") or self.uid


def read_nodes(client: KubeClient, name: str = "") -> tuple[Node, ...]:
    """The node of this name, or all of them, by name. Raises CommandError and ApiError."""
    try:
        if name:
            return (read_node(client, name),)
        found = list_all(client, COLLECTION, lambda raw: decode_node(raw.body, raw.key.name)).objects
    except NotFound as error:
        if error.resource_absent:
            raise CommandError("this cluster knows no GpuNodeStates: is the driver installed?") from error
        raise CommandError(f"{name}: no such node, or it has no GpuNodeState (kubectl get gns)") from error
    return tuple(sorted(found, key=lambda node: node.name))


def read_node(client: KubeClient, name: str) -> Node:
    """The GpuNodeState of one node. Raises CommandError for one that makes no sense, and ApiError."""
    return decode_node(client.get(path_of(name)), name)


def path_of(name: str) -> str:
    """The REST path of a GpuNodeState."""
    return f"{COLLECTION}/{quote(name, safe='')}"


def find_gpu(name: str, nodes: Iterable[Node]) -> FoundGpu | None:
    """The GPU of this name or PCI address, or of which this is a part.

    Raises CommandError if several nodes have such a one.
    """
    wanted = name.lower()
    found = [
        FoundGpu(node=node, gpu=gpu)
        for node in nodes
        for gpu in node.devices
        if gpu.name in (wanted, gpu_of(wanted)) or gpu.pci_address == wanted
    ]
    if len(found) > 1:
        raise CommandError(
            f"{name}: on several nodes, say which with --node: {_listed(one.node.name for one in found)}"
        )
    return found[0] if found else None


def require_gpu(name: str, nodes: tuple[Node, ...]) -> FoundGpu:
    """As ``find_gpu``. Raises CommandError also if there is none."""
    found = find_gpu(name, nodes)
    if found is None:
        raise CommandError(no_such(name, "GPU", (gpu.name for node in nodes for gpu in node.devices)))
    return found


def find_claim(name: str, namespace: str, nodes: Iterable[Node]) -> FoundClaim | None:
    """The claim of this UID, NAMESPACE/NAME or NAME, or the manual allocation of this name.

    Raises CommandError if there are several: a NAME in several namespaces, or a claim that moves between nodes.
    """
    wanted = {name} if "/" in name or not namespace else {f"{namespace}/{name}"}
    exact = [one for one in _claims(nodes) if one.uid == name or one.called in wanted]
    found = exact or [
        one
        for one in _claims(nodes)
        if not namespace and one.called.rpartition("/")[2] == name and "/" in one.called
    ]
    if len(found) > 1:
        places = _listed(f"{one.called} ({one.uid}) on {one.node.name}" for one in found)
        raise CommandError(f"{name}: that could be any of these, say which by its UID, or with --node: {places}")
    return found[0] if found else None


def all_claims(nodes: Iterable[Node]) -> tuple[str, ...]:
    """What people call everything that was given or promised to somebody."""
    return tuple(one.called for one in _claims(nodes))


def gpu_of(device: str) -> str:
    """The GPU that a logical device is, or is part of; empty for a name that is none."""
    try:
        return parse_logical_device(device).pf
    except ValueError:
        return ""


def no_such(name: str, what: str, known: Iterable[str]) -> str:
    """That there is no such thing, and what there is."""
    names = tuple(dict.fromkeys(known))
    if not names:
        return f"{name}: no such {what}; there is none at all"
    more = (f"and {len(names) - _MOST_NAMES} more",) if len(names) > _MOST_NAMES else ()
    return allowing(name, f"no such {what}", (*names[:_MOST_NAMES], *more))


def _claims(nodes: Iterable[Node]) -> Iterator[FoundClaim]:
    for node in nodes:
        entries = {entry.name: entry for entry in node.spec.allocations}
        for allocation in node.allocations:
            entry = entries.pop(allocation.name, None) if allocation.origin == "claim" else None
            yield FoundClaim(node=node, entry=entry, allocation=allocation)
        for entry in entries.values():
            yield FoundClaim(node=node, entry=entry, allocation=None)


def _uid(entry: SeenEntry | None, allocation: AllocationStatus | None) -> str:
    return entry.name if entry is not None else allocation.name if allocation is not None else ""


def _listed(names: Iterable[str]) -> str:
    known = tuple(names)
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return ", ".join(known[:_MOST_NAMES]) + more


def decode_node(body: bytes, name: str) -> Node:
    """The object in ``body``. Raises CommandError if it makes no sense."""
    try:
        return msgspec.json.decode(body, type=Node)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"the GpuNodeState {name} makes no sense: {error}") from error


def _has(fields: object, path: tuple[str, ...]) -> bool:
    for step in path:
        if not isinstance(fields, dict) or step not in fields:
            return False
        fields = fields[step]
    return True
