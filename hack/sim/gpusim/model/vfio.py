"""VFIO: what vfio-pci and xe-vfio-pci make of a function."""

from __future__ import annotations

import errno
import threading

from gpusim.model import kstrto
from gpusim.model.kernel import ClassDevice, Kernel
from gpusim.model.nodes import CharacterDevice
from gpusim.model.pci import PciFunction

_GROUP_MAJOR = 243
_DEVICE_MAJOR = 511
CONTROL = CharacterDevice(10, 196)
"""/dev/vfio/vfio, there as soon as the module is loaded."""


class VfioGroups:
    """One node per IOMMU group with at least one function on VFIO."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._members: dict[int, int] = {}
        self._lock = threading.Lock()

    def join(self, group: int) -> None:
        with self._lock:
            self._members[group] = self._members.get(group, 0) + 1
            if self._members[group] == 1:
                self._device(group).register(self._kernel)

    def leave(self, group: int) -> None:
        with self._lock:
            self._members[group] -= 1
            if not self._members[group]:
                self._device(group).unregister(self._kernel)

    def _device(self, group: int) -> ClassDevice:
        return ClassDevice(
            path=f"devices/virtual/vfio/{group}",
            subsystem="vfio",
            character=CharacterDevice(_GROUP_MAJOR, group),
            node=f"vfio/{group}",
        )


class VfioBinding:
    """A function bound to VFIO. Its driver enables no VFs (vfio_pci.enable_sriov is off)."""

    supports_sriov = False

    def __init__(self, kernel: Kernel, function: PciFunction, groups: VfioGroups) -> None:
        """Raises OSError EINVAL without an IOMMU group."""
        if function.iommu_group is None:
            kstrto.fail(errno.EINVAL, str(function))
        self._kernel = kernel
        self._function = function
        self._groups = groups
        self._group = function.iommu_group
        self._number = kernel.numbers.take("vfio")
        self._directory = f"{function.path}/vfio-dev"
        self._device = ClassDevice(
            path=f"{self._directory}/vfio{self._number}",
            subsystem="vfio-dev",
            parent=function.path,
            character=CharacterDevice(_DEVICE_MAJOR, self._number),
            node=f"vfio/devices/vfio{self._number}",
        )
        groups.join(self._group)
        self._device.register(kernel)

    def remove(self) -> None:
        self._device.unregister(self._kernel)
        self._kernel.tree.remove(self._directory)
        self._kernel.numbers.give_back("vfio", self._number)
        self._groups.leave(self._group)

    def provision(self, count: int) -> None:
        kstrto.fail(errno.ENOENT, str(self._function))

    def vfs_enabled(self, vfs: tuple[PciFunction, ...]) -> None:
        raise AssertionError("VFIO enables no virtual functions")

    def vfs_disabling(self) -> None:
        raise AssertionError("VFIO enables no virtual functions")

    def vfs_disabled(self) -> None:
        raise AssertionError("VFIO enables no virtual functions")
