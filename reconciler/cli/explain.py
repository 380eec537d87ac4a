"""``explain``: all about one GPU, or one allocation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from reconciler.cli.advice import advice
from reconciler.cli.allocations import called, devices_of, phase_cell
from reconciler.cli.gpus import health_of, memory_of, vfs_of
from reconciler.cli.layouts import LayoutOffer, layouts_for
from reconciler.cli.options import Options
from reconciler.cli.output import age, size, write_data
from reconciler.cli.problems import CommandError, allowing
from reconciler.cli.status import last_status, note_age
from reconciler.cli.tables import Cell, fields, table
from reconciler.cli.terminal import Colour, Terminal
from reconciler.node.tables import Tables, load_tables
from state.ids import parse_logical_device
from state.observed import PfSeen, SriovSeen
from state.status import AllocationStatus, BlockedStatus, DeviceStatus, NodeStatus

_MOST_NAMES = 20
"""How many names an error lists."""


class GpuExplanation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A GPU: as it is, how it could be split, who uses it, what is about to be done to it and what waits."""

    device: DeviceStatus
    layouts: tuple[LayoutOffer, ...]
    allocations: tuple[AllocationStatus, ...]
    planned: tuple[str, ...]
    blocked: tuple[BlockedStatus, ...]


class AllocationExplanation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An allocation: as it stands, what is planned for its GPUs, and what would help."""

    allocation: AllocationStatus
    planned: tuple[str, ...]
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What there is to explain. ``quotas_writable`` has GPUs' names; None where nobody looked."""

    status: NodeStatus
    tables: Tables
    quotas_writable: frozenset[str] | None


def explain(options: Options, screen: Terminal) -> int:
    """Explain what ``options.name`` names."""
    known = _preview(options) if options.file else _from_status(options, screen)
    found = _find(options.name, known)
    if not options.format.for_people:
        write_data(screen, options.format, found)
    elif isinstance(found, GpuExplanation):
        screen.say("\n\n".join(_gpu(found, screen)))
    else:
        screen.say(_allocation(found, screen))
    return 0


def _from_status(options: Options, screen: Terminal) -> _Known:
    file = last_status(options)
    note_age(file, options, datetime.now(UTC), screen)
    return _Known(status=file.status, tables=load_tables(options.roots.pci_ids), quotas_writable=None)


def _preview(options: Options) -> _Known:
    """From a fresh look; all steps to come are shown, not only the next ones."""
    from reconciler.cli.machine import desired_file, settings
    from reconciler.node.clock import Clock
    from reconciler.node.once import preview
    from state.status import PlannedAction, PlanStatus

    tables = load_tables(options.roots.pci_ids)
    with desired_file(options) as file:
        seen = preview(file, settings(options), options.roots, tables, Clock())
    plan = PlanStatus(
        actions=tuple(
            PlannedAction(device=action.pf or "", action=str(action)) for action in seen.foreseen.actions
        ),
        blocked=tuple(BlockedStatus(what=item.what, why=item.why) for item in seen.foreseen.last.blocked),
    )
    gpus = [gpu for gpu in seen.observed.gpus.values() if isinstance(gpu, PfSeen)]
    return _Known(
        status=msgspec.structs.replace(seen.status, plan=plan),
        tables=tables,
        quotas_writable=frozenset(gpu.name for gpu in gpus if _quotas_writable(gpu)),
    )


def _quotas_writable(gpu: PfSeen) -> bool:
    """Without a driver that provisions VFs it can't be seen, and is assumed."""
    provisioning = gpu.sriov.provisioning if isinstance(gpu.sriov, SriovSeen) else None
    return provisioning is None or provisioning.quotas_writable


# -- finding -----------------------------------------------------------------------------------------------


def _find(name: str, known: _Known) -> GpuExplanation | AllocationExplanation:
    status = known.status
    for gpu in status.devices:
        if name.lower() in (gpu.name, gpu.pci_address):
            return _about_gpu(gpu, known)
    for allocation in status.allocations:
        if name in (allocation.name, allocation.claim):
            gpus = {_pf_of(device.device) for device in allocation.devices}
            planned = tuple(item.action for item in status.plan.actions if item.device in gpus)
            return AllocationExplanation(allocation=allocation, planned=planned, advice=advice(allocation))
    for gpu in status.devices:
        if _pf_of(name) == gpu.name:
            return _about_gpu(gpu, known)
    names = [gpu.name for gpu in status.devices] + [called(allocation) for allocation in status.allocations]
    if not names:
        raise CommandError(f"{name}: no such GPU or allocation; there are none at all")
    more = (f"and {len(names) - _MOST_NAMES} more",) if len(names) > _MOST_NAMES else ()
    raise CommandError(allowing(name, "no such GPU or allocation", (*names[:_MOST_NAMES], *more)))


def _pf_of(device: str) -> str | None:
    try:
        return parse_logical_device(device).pf
    except ValueError:
        return None


def _about_gpu(gpu: DeviceStatus, known: _Known) -> GpuExplanation:
    status, writable = known.status, known.quotas_writable
    profiles = known.tables.profiles
    return GpuExplanation(
        device=gpu,
        layouts=layouts_for(gpu, profiles, quotas_writable=writable is None or gpu.name in writable),
        allocations=tuple(
            allocation
            for allocation in status.allocations
            if any(_pf_of(device.device) == gpu.name for device in allocation.devices)
        ),
        planned=tuple(item.action for item in status.plan.actions if item.device == gpu.name),
        blocked=tuple(item for item in status.plan.blocked if gpu.name in item.what or gpu.name in item.why),
    )


# -- telling -----------------------------------------------------------------------------------------------


def _gpu(found: GpuExplanation, screen: Terminal) -> Iterable[str]:
    gpu, now = found.device, datetime.now(UTC)
    told: list[tuple[str, str | Cell]] = [
        ("Device", Cell(text=gpu.name, colour=Colour.HEADING)),
        ("Model", f"{gpu.model} ({gpu.family})"),
        ("Address", gpu.pci_address),
        ("PCI id", gpu.pci_id),
        ("Subsystem", gpu.subsystem),
        ("Driver", gpu.driver or "none"),
        ("Memory", f"{memory_of(gpu)} (from {gpu.memory.source})" if gpu.memory is not None else "unknown"),
        ("ECC", gpu.ecc or "unknown"),
        ("Tiles", str(gpu.tiles)),
        ("Kind", "" if gpu.integrated is None else "integrated" if gpu.integrated else "discrete"),
        ("NUMA node", "" if gpu.numa_node is None else str(gpu.numa_node)),
        ("PCIe root", gpu.pcie_root),
        ("Link", gpu.link),
        ("Nodes", ", ".join(f"/dev/{node}" for node in (*gpu.nodes.drm, *gpu.nodes.vfio, *gpu.nodes.mei))),
        ("VFs", vfs_of(gpu) or "no SR-IOV"),
        ("Made by", _maker(gpu)),
        ("Health", health_of(gpu)),
        *((f"  {sick.cause}", sick.message) for sick in gpu.sickness),
        ("Override", gpu.override),
        ("Used by", ", ".join(gpu.users) or "nobody"),
        *(("Planned", action) for action in found.planned),
        *(("Blocked", f"{item.what}: {item.why}") for item in found.blocked),
    ]
    yield fields(told, screen)
    if found.allocations:
        rows = [
            (called(item), phase_cell(item.phase), age(item.since, now), devices_of(item), item.message)
            for item in found.allocations
        ]
        yield table(screen, ("allocation", "phase", "since", "devices", "message"), rows)
    if found.layouts:
        yield _layouts(found.layouts, screen)


def _maker(gpu: DeviceStatus) -> str:
    if gpu.sriov is None or not gpu.sriov.enabled:
        return ""
    return "us" if gpu.sriov.owner == "ours" else "somebody else; they stay until an override says Fixed"


def _layouts(offers: Iterable[LayoutOffer], screen: Terminal) -> str:
    rows: list[tuple[str | Cell, ...]] = [
        (
            offer.profile,
            str(offer.vfs),
            "" if offer.memory is None else size(offer.memory),
            str(offer.millicores),
            Cell(text="now", colour=Colour.GOOD) if offer.current else "",
        )
        for offer in offers
    ]
    return table(screen, ("layout", "VFs", "memory each", "millicores each", "current"), rows)


def _allocation(found: AllocationExplanation, screen: Terminal) -> str:
    allocation = found.allocation
    since = allocation.since.isoformat().replace("+00:00", "Z")
    told: list[tuple[str, str | Cell]] = [
        ("Allocation", Cell(text=allocation.name, colour=Colour.HEADING)),
        ("Claim", allocation.claim),
        ("Phase", phase_cell(allocation.phase)),
        ("Since", f"{since} ({age(allocation.since, datetime.now(UTC))})"),
        ("Why", allocation.message),
        ("Failures", str(allocation.attempts) if allocation.attempts else ""),
        ("What helps", found.advice),
        ("Devices", devices_of(allocation)),
        ("In use", "yes" if allocation.in_use else ""),
        *(("CDI device", name) for name in allocation.cdi_devices),
        *(("Planned", action) for action in found.planned),
    ]
    return fields(told, screen)
