"""PCI functions: their directory, attributes and uevents. Knows no driver."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from gpusim.model import kstrto
from gpusim.model.address import PciAddress
from gpusim.model.kernel import Kernel
from gpusim.model.tree import constant, shown, stored, write_only
from gpusim.spec import GpuSpec

_BAR_MEMORY = 0x14220C
"""Resource flags of a 64-bit prefetchable memory BAR."""
_BAR_REGISTERS = 0x140204


class Binding(Protocol):
    """What a driver made of a function it is bound to."""

    supports_sriov: bool

    def remove(self) -> None:
        """Take everything down again; nothing may fail."""

    def provision(self, count: int) -> None:
        """Get ready for `count` virtual functions. Raises OSError to refuse."""

    def vfs_enabled(self, vfs: tuple[PciFunction, ...]) -> None:
        """They are there."""

    def vfs_disabling(self) -> None:
        """They are about to go. Raises OSError to refuse."""

    def vfs_disabled(self) -> None:
        """They are gone."""


class VirtualFunctions(Protocol):
    """A physical function's SR-IOV capability."""

    @property
    def functions(self) -> tuple[PciFunction, ...]:
        """Those enabled, by index; one that vanished stays listed."""

    def disable(self) -> None:
        """Remove all of them; no-op if there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the configuration space says of a function."""

    vendor: int
    device: int
    pci_class: int
    subsystem_vendor: int = 0
    subsystem_device: int = 0
    revision: int = 0

    @property
    def modalias(self) -> str:
        base, sub, interface = self.pci_class >> 16, self.pci_class >> 8 & 0xFF, self.pci_class & 0xFF
        return (
            f"pci:v{self.vendor:08X}d{self.device:08X}sv{self.subsystem_vendor:08X}"
            f"sd{self.subsystem_device:08X}bc{base:02X}sc{sub:02X}i{interface:02X}"
        )


@dataclass(frozen=True, slots=True)
class Bar:
    """A base address register: its place in the `resource` file, and its size in bytes."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class Link:
    """A PCI Express link as the attributes show it."""

    speed: str
    width: int


UNKNOWN_LINK = Link("Unknown", 0)
"""What virtual functions show."""


class PciFunction:
    """One function: physical, virtual, or a bridge."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        address: PciAddress,
        parent: str,
        identity: Identity,
        gpu: GpuSpec | None = None,
        numa_node: int = -1,
        bars: Iterable[Bar] = (),
        link: Link | None = None,
        physical: PciFunction | None = None,
        vf: int | None = None,
    ) -> None:
        self.kernel = kernel
        self.address = address
        self.path = f"{parent}/{address}"
        self.parent = parent
        self.identity = identity
        self.gpu = gpu
        self.physical = physical
        self.vf = vf
        self.lock = threading.RLock()
        """The kernel's device_lock."""
        self.driver: str | None = None
        self.binding: Binding | None = None
        self.sriov: VirtualFunctions | None = None
        self.override: str | None = None
        self.iommu_group: int | None = None
        self.present = False
        self.numa_node = numa_node
        self._link = link
        self._bars = {bar.index: bar for bar in bars}

    def __str__(self) -> str:
        return str(self.address)

    # Appearing and going

    def add(self) -> None:
        """Make the directory and say `add`."""
        tree, path = self.kernel.tree, self.path
        for name, value in self._constants().items():
            tree.add(f"{path}/{name}", constant(value))
        tree.add(f"{path}/numa_node", stored(lambda: self.numa_node, self._store_numa_node))
        tree.add(
            f"{path}/driver_override",
            stored(lambda: self.override or "(null)", self._store_override, lock=self.lock),
        )
        tree.add(f"{path}/resource", shown(self._resource))
        tree.add(f"{path}/reset", write_only(self._store_reset))
        tree.add(f"{path}/uevent", self.kernel.uevent_attribute(path, "pci", self.environment))
        tree.add_link(f"{path}/subsystem", "bus/pci")
        tree.add_link(f"bus/pci/devices/{self}", path)
        self.present = True
        self.emit("add")

    def remove(self) -> None:
        """Remove the directory and say `remove`."""
        self.present = False
        self.kernel.tree.remove(f"bus/pci/devices/{self}")
        self.kernel.tree.remove(self.path)
        self.emit("remove")

    def emit(self, action: str) -> None:
        environment = dict(self.environment())
        if action in ("add", "unbind", "remove"):
            environment.pop("DRIVER", None)
        if action == "unbind":
            del environment["MODALIAS"]
        self.kernel.emit(action, self.path, "pci", environment)

    def environment(self) -> dict[str, str]:
        """The uevent variables of this function as it is now."""
        own = self.identity
        variables = {"DRIVER": self.driver} if self.driver else {}
        return variables | {
            "PCI_CLASS": f"{own.pci_class:X}",
            "PCI_ID": f"{own.vendor:04X}:{own.device:04X}",
            "PCI_SUBSYS_ID": f"{own.subsystem_vendor:04X}:{own.subsystem_device:04X}",
            "PCI_SLOT_NAME": str(self),
            "MODALIAS": own.modalias,
        }

    # Attributes

    def _constants(self) -> dict[str, object]:
        own = self.identity
        values: dict[str, object] = {
            "vendor": f"0x{own.vendor:04x}",
            "device": f"0x{own.device:04x}",
            "class": f"0x{own.pci_class:06x}",
            "subsystem_vendor": f"0x{own.subsystem_vendor:04x}",
            "subsystem_device": f"0x{own.subsystem_device:04x}",
            "revision": f"0x{own.revision:02x}",
            "modalias": own.modalias,
            "power_state": "D0",
            "enable": 1,
        }
        if self._link is not None:
            for which in ("current", "max"):
                values[f"{which}_link_speed"] = self._link.speed
                values[f"{which}_link_width"] = self._link.width
        return values

    def _resource(self) -> str:
        lines = []
        start = 0x4000_0000_0000 + (self.address.routing_id << 40)
        for index in range(13):
            bar = self._bars.get(index)
            if bar is None:
                lines.append("0x0000000000000000 0x0000000000000000 0x0000000000000000")
                continue
            flags = _BAR_MEMORY if index in (2, 9) else _BAR_REGISTERS
            lines.append(f"0x{start:016x} 0x{start + bar.size - 1:016x} 0x{flags:016x}")
            start += bar.size
        return "\n".join(lines)

    def _store_numa_node(self, data: bytes) -> None:
        self.numa_node = kstrto.unsigned(data, 31)

    def _store_override(self, data: bytes) -> None:
        name = data.split(b"\n", 1)[0].decode("ascii", "replace")
        with self.lock:
            self.override = name or None

    def _store_reset(self, data: bytes) -> None:
        if kstrto.unsigned(data, 64) != 1:
            kstrto.fail(errno.EINVAL)
