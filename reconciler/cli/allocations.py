"""Allocations as tables for people, and how to use those that are ready."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from reconciler.cli.output import age
from reconciler.cli.tables import Cell, table
from reconciler.cli.terminal import Colour, Terminal
from state.status import AllocationStatus

READY = "Ready"

_PHASES = {
    "Pending": Colour.WAITING,
    "Converging": Colour.WAITING,
    READY: Colour.GOOD,
    "Blocked": Colour.WAITING,
    "Failed": Colour.BAD,
    "Refused": Colour.BAD,
    "Releasing": Colour.WAITING,
}


def allocation_table(
    screen: Terminal, allocations: Iterable[AllocationStatus], now: datetime, *, wide: bool = False
) -> str:
    """One line an allocation; ``wide`` adds where it comes from and its CDI devices."""
    headings = ["allocation", "phase", "since", "devices", "message"]
    rows: list[list[str | Cell]] = []
    for allocation in allocations:
        row: list[str | Cell] = [
            called(allocation),
            phase_cell(allocation.phase),
            age(allocation.since, now),
            devices_of(allocation),
            allocation.message,
        ]
        if wide:
            row[-1:-1] = [allocation.origin, "yes" if allocation.in_use else "", ",".join(allocation.cdi_devices)]
        rows.append(row)
    if wide:
        headings[-1:-1] = ["origin", "in use", "CDI devices"]
    return table(screen, headings, rows)


def called(allocation: AllocationStatus) -> str:
    """What people call it: a claim's namespace and name, or the allocation's own name."""
    return allocation.claim or allocation.name


def phase_cell(phase: str) -> Cell:
    """The phase, coloured by whether it is good."""
    return Cell(text=phase, colour=_PHASES.get(phase))


def devices_of(allocation: AllocationStatus) -> str:
    """Its devices by logical name, and the driver where it is not the GPU's usual one."""
    return ",".join(
        device.device if device.kernel_driver == "drm" else f"{device.device} ({device.kernel_driver})"
        for device in allocation.devices
    )


def podman_lines(allocations: Iterable[AllocationStatus]) -> tuple[str, ...]:
    """How to give each ready allocation of the file to a container."""
    return tuple(
        f"podman run --device {name} …"
        for allocation in allocations
        if allocation.phase == READY and allocation.origin == "alloc"
        for name in allocation.cdi_devices
        if name.endswith(f"={allocation.name}")
    )
