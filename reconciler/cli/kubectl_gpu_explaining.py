"""``kubectl gpu explain``: all about one claim, GPU or node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from reconciler.cli.advice import advice
from reconciler.cli.allocations import allocation_table, devices_of, phase_cell
from reconciler.cli.gpus import health_of, memory_of, vfs_of
from reconciler.cli.kubectl_gpu_arguments import Asked
from reconciler.cli.kubectl_gpu_objects import (
    FoundClaim,
    FoundGpu,
    Node,
    SeenOverride,
    SeenRefusal,
    all_claims,
    find_claim,
    find_gpu,
    gpu_of,
    no_such,
    read_nodes,
)
from reconciler.cli.kubectl_gpu_waiting import WaitingExplanation, find_waiting, tell_waiting
from reconciler.cli.layouts import LayoutOffer, layouts_for
from reconciler.cli.output import age, write_data
from reconciler.cli.problems import CommandError
from reconciler.cli.tables import Cell, fields, table
from reconciler.cli.terminal import Colour, Terminal
from reconciler.node.tables import load_tables
from reconciler.runtime.kube.client import KubeClient
from state.status import AllocationStatus, BlockedStatus, Condition, DeviceStatus

Told = list[tuple[str, str | Cell]]


class _Explanation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Keys as programs see them; all of them are always there."""


class NodeExplanation(_Explanation, frozen=True):
    """A node: what people want of it, and its conditions."""

    node: str
    paused: bool
    is_followed: bool
    version: str
    conditions: tuple[Condition, ...]
    overrides: tuple[SeenOverride, ...]
    manual_allocations: tuple[str, ...]
    releases: tuple[str, ...]


class GpuExplanation(_Explanation, frozen=True):
    """A GPU: as it is, what people want of it, who uses it, what is planned and what waits."""

    node: str
    device: DeviceStatus
    override: SeenOverride | None
    override_by: tuple[str, ...]
    withdrawal: str
    layouts: tuple[LayoutOffer, ...]
    allocations: tuple[AllocationStatus, ...]
    planned: tuple[str, ...]
    blocked: tuple[BlockedStatus, ...]


class ClaimExplanation(_Explanation, frozen=True):
    """A claim, or a manual allocation: how it stands on its node. ``allocation`` is None until the node saw it."""

    node: str
    name: str
    uid: str
    allocation: AllocationStatus | None
    refused: SeenRefusal | None
    release_asked: bool
    planned: tuple[str, ...]
    advice: str


Explained = NodeExplanation | GpuExplanation | ClaimExplanation | WaitingExplanation


def explain(asked: Asked, client: KubeClient, screen: Terminal) -> int:
    """Explain what is named: a node, else a GPU, else a claim or a manual allocation."""
    found = _find(asked, read_nodes(client, asked.node), client)
    if not asked.format.for_people:
        write_data(screen, asked.format, found)
        return 0
    screen.say("\n\n".join(_tell(found, screen)))
    return 0


def _tell(found: Explained, screen: Terminal) -> Iterator[str]:
    match found:
        case WaitingExplanation():
            return tell_waiting(found, screen)
        case NodeExplanation():
            return _tell_node(found, screen)
        case GpuExplanation():
            return _tell_gpu(found, screen)
        case ClaimExplanation():
            return _tell_claim(found, screen)


def _find(asked: Asked, nodes: tuple[Node, ...], client: KubeClient) -> Explained:
    node = next((node for node in nodes if node.name == asked.name), None)
    if node is not None:
        return _about_node(node)
    gpu = find_gpu(asked.name, nodes)
    if gpu is not None:
        return _about_gpu(gpu)
    claim = find_claim(asked.name, asked.namespace, nodes)
    if claim is not None:
        return _about_claim(claim)
    waiting = find_waiting(asked.name, asked.namespace, client)
    if waiting is not None:
        return waiting
    gpus = (gpu.name for node in nodes for gpu in node.devices)
    known = (*(node.name for node in nodes), *gpus, *all_claims(nodes))
    raise CommandError(no_such(asked.name, "claim, GPU or node", known))


# -- finding out -------------------------------------------------------------------------------------------


def _about_node(node: Node) -> NodeExplanation:
    return NodeExplanation(
        node=node.name,
        paused=node.spec.paused,
        is_followed=node.is_followed,
        version=node.status.version if node.status is not None else "",
        conditions=node.status.conditions if node.status is not None else (),
        overrides=node.spec.overrides,
        manual_allocations=tuple(one.name for one in node.spec.manual_allocations),
        releases=node.spec.releases,
    )


def _about_gpu(found: FoundGpu) -> GpuExplanation:
    node, gpu = found.node, found.gpu
    profiles = load_tables(os.devnull).profiles
    return GpuExplanation(
        node=node.name,
        device=gpu,
        override=node.override_of(gpu.name),
        override_by=node.owners_of_override(gpu.name),
        withdrawal=node.withdrawal_of(gpu.name),
        layouts=layouts_for(gpu, profiles, quotas_writable=gpu.sriov is not None and gpu.sriov.quotas),
        allocations=tuple(one for one in node.allocations if gpu.name in _gpus_of(one)),
        planned=_planned(node, frozenset((gpu.name,))),
        blocked=tuple(
            one
            for one in (node.status.plan.blocked if node.status is not None else ())
            if gpu.name in one.what or gpu.name in one.why
        ),
    )


def _about_claim(found: FoundClaim) -> ClaimExplanation:
    gpus = _gpus_of(found.allocation) if found.allocation is not None else frozenset[str]()
    return ClaimExplanation(
        node=found.node.name,
        name=found.called,
        uid=found.uid,
        allocation=found.allocation,
        refused=found.entry.refused if found.entry is not None else None,
        release_asked=found.uid in found.node.spec.releases,
        planned=_planned(found.node, gpus),
        advice=advice(found.allocation) if found.allocation is not None else "see that the node's agent runs",
    )


def _planned(node: Node, gpus: frozenset[str]) -> tuple[str, ...]:
    actions = node.status.plan.actions if node.status is not None else ()
    return tuple(one.action for one in actions if one.device in gpus)


def _gpus_of(allocation: AllocationStatus) -> frozenset[str]:
    return frozenset(filter(None, (gpu_of(device.device) for device in allocation.devices)))


# -- telling -----------------------------------------------------------------------------------------------


def _tell_node(found: NodeExplanation, screen: Terminal) -> Iterator[str]:
    told: Told = [
        ("Node", Cell(text=found.node, colour=Colour.HEADING)),
        ("Paused", "yes: nothing is changed" if found.paused else ""),
        ("Agent", found.version or "has not said anything yet"),
        ("Newest spec", "followed" if found.is_followed else "not read yet"),
        *(("Override", f"{one.device} {_override(one)}") for one in found.overrides),
        *(("Manual", name) for name in found.manual_allocations),
        *(("Release", uid) for uid in found.releases),
    ]
    yield fields(told, screen)
    if found.conditions:
        now = datetime.now(UTC)
        rows = [
            (one.type, one.status, one.reason, age(one.last_transition_time, now), one.message)
            for one in found.conditions
        ]
        yield table(screen, ("condition", "status", "reason", "since", "message"), rows)


def _tell_gpu(found: GpuExplanation, screen: Terminal) -> Iterator[str]:
    gpu = found.device
    told: Told = [
        ("GPU", Cell(text=gpu.name, colour=Colour.HEADING)),
        ("Node", found.node),
        ("Model", f"{gpu.model} ({gpu.family})"),
        ("Driver", gpu.driver or "none"),
        ("Memory", memory_of(gpu) or "unknown"),
        ("VFs", vfs_of(gpu) or "no SR-IOV"),
        ("Layouts", ", ".join(offer.profile for offer in found.layouts)),
        ("NUMA node", "" if gpu.numa_node is None else str(gpu.numa_node)),
        ("PCIe root", gpu.pcie_root),
        ("Health", health_of(gpu)),
        *((f"  {sick.cause}", sick.message) for sick in gpu.sickness),
        ("Override", _override(found.override, found.override_by)),
        ("Withdrawn", found.withdrawal),
        ("Used by", ", ".join(gpu.users) or "nobody"),
        *(("Planned", action) for action in found.planned),
        *(("Blocked", f"{one.what}: {one.why}") for one in found.blocked),
    ]
    yield fields(told, screen)
    if found.allocations:
        yield allocation_table(screen, found.allocations, datetime.now(UTC))


def _override(override: SeenOverride | None, by: tuple[str, ...] = ()) -> str:
    if override is None:
        return ""
    reason = f": {override.reason}" if override.reason else ""
    return f"{override.mode}{reason}" + (f" (by {', '.join(by)})" if by else "")


def _tell_claim(found: ClaimExplanation, screen: Terminal) -> Iterator[str]:
    one = found.allocation
    kind = "Allocation" if one is not None and one.origin != "claim" else "Claim"
    told: Told = [
        (kind, Cell(text=found.name, colour=Colour.HEADING)),
        ("UID", found.uid if found.uid != found.name else ""),
        ("Node", found.node),
        ("Refused", "" if found.refused is None else f"{found.refused.path}: {found.refused.reason}"),
        ("Release", "asked for" if found.release_asked else ""),
        *(_how_it_stands(one) if one is not None else [("Phase", "not seen by the node yet")]),
        ("What helps", found.advice),
        *(("Planned", action) for action in found.planned),
    ]
    yield fields(told, screen)


def _how_it_stands(one: AllocationStatus) -> Told:
    return [
        ("Phase", phase_cell(one.phase)),
        ("Since", age(one.since, datetime.now(UTC))),
        ("Why", one.message),
        ("Failures", str(one.attempts) if one.attempts else ""),
        ("Devices", devices_of(one)),
        ("In use", "yes" if one.in_use else ""),
        *(("CDI device", name) for name in one.cdi_devices),
    ]
