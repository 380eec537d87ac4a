"""GPUs as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.cli.output import size
from reconciler.cli.tables import Cell, table
from reconciler.cli.terminal import Colour, Terminal
from state.status import DeviceStatus

HEADINGS = ("device", "model", "driver", "memory", "VFs", "NUMA", "PCIe root", "health")
WIDE_HEADINGS = (*HEADINGS, "address", "ID", "family", "ECC", "tiles", "link", "nodes")

_HEALTH = {"Healthy": Colour.GOOD, "Unknown": Colour.WAITING, "Unhealthy": Colour.BAD}


def gpu_table(screen: Terminal, gpus: Iterable[DeviceStatus], *, wide: bool) -> str:
    """One line a GPU."""
    rows = [_wide_row(gpu) if wide else _row(gpu) for gpu in gpus]
    return table(screen, WIDE_HEADINGS if wide else HEADINGS, rows)


def memory_of(gpu: DeviceStatus) -> str:
    """Local memory; a lower bound says so. Empty when unknown."""
    if gpu.memory is None:
        return ""
    return f"{'>= ' if gpu.memory.source == 'bar' else ''}{size(gpu.memory.bytes)}"


def vfs_of(gpu: DeviceStatus) -> str:
    """VFs enabled and possible, their layout, and whether somebody else made them. Empty without SR-IOV."""
    if gpu.sriov is None:
        return ""
    words = [f"{gpu.sriov.enabled}/{gpu.sriov.total}", gpu.sriov.layout]
    if gpu.sriov.owner == "foreign":
        words.append("(foreign)")
    return " ".join(word for word in words if word)


def health_of(gpu: DeviceStatus) -> Cell:
    """The health in a word, and what is being done to the GPU now."""
    text = f"{gpu.health}, {gpu.changing}" if gpu.changing else gpu.health
    return Cell(text=text, colour=_HEALTH.get(gpu.health))


def nodes_of(gpu: DeviceStatus) -> str:
    """Device nodes below /dev."""
    return ",".join((*gpu.nodes.drm, *gpu.nodes.vfio, *gpu.nodes.mei))


def _row(gpu: DeviceStatus) -> Sequence[str | Cell]:
    numa = "" if gpu.numa_node is None else str(gpu.numa_node)
    return (
        gpu.name,
        gpu.model,
        gpu.driver,
        memory_of(gpu),
        vfs_of(gpu),
        numa,
        gpu.pcie_root,
        health_of(gpu),
    )


def _wide_row(gpu: DeviceStatus) -> Sequence[str | Cell]:
    return (
        *_row(gpu),
        gpu.pci_address,
        gpu.pci_id,
        gpu.family,
        gpu.ecc,
        str(gpu.tiles),
        gpu.link,
        nodes_of(gpu),
    )
