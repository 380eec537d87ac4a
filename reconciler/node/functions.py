"""One PCI function as seen now: driver, device nodes, IOMMU group."""

from __future__ import annotations

import re

from reconciler.node import sysfs
from reconciler.node.device_nodes import by_path_names, drm_nodes, vfio_nodes
from reconciler.node.roots import Roots
from reconciler.node.topology import IommuGroups
from state.ids import PciAddress
from state.observed import VFIO_DRIVERS, FunctionSeen, Unreadable

_UNSET = ("", "(null)")
_GROUP = re.compile(r"[0-9]{1,9}")


class FunctionReader:
    """Reads functions during one look at the machine; problems met on the way collect in ``problems``."""

    def __init__(self, roots: Roots, groups: IommuGroups) -> None:
        self._roots = roots
        self._groups = groups

    def directory(self, address: PciAddress) -> str:
        """The function's directory in sysfs."""
        return f"{self._roots.sysfs}/bus/pci/devices/{address}"

    def read(self, address: PciAddress, problems: list[Unreadable]) -> FunctionSeen:
        """The function at ``address``, as far as it is there."""
        return self._read(address, sysfs.read(f"{self.directory(address)}/driver_override"), problems)

    def read_linked(self, address: PciAddress, problems: list[Unreadable]) -> FunctionSeen | None:
        """The function that a link names; None if it is gone, which every PCI function's override file tells."""
        override = sysfs.read(f"{self.directory(address)}/driver_override")
        return None if override is None else self._read(address, override, problems)

    def _read(
        self, address: PciAddress, override: str | Unreadable | None, problems: list[Unreadable]
    ) -> FunctionSeen:
        directory = self.directory(address)
        driver = sysfs.link_name(f"{directory}/driver")
        problems += [value for value in (driver, override) if isinstance(value, Unreadable)]
        group = self._group(directory, problems)
        devfs = self._roots.devfs
        drm = drm_nodes(devfs, directory, problems) if isinstance(driver, str) else ()
        is_vfio = driver in VFIO_DRIVERS
        return FunctionSeen(
            address=address,
            driver=driver,
            driver_override=override if isinstance(override, str) and override not in _UNSET else None,
            drm=drm,
            by_path=by_path_names(address, drm),
            vfio=vfio_nodes(self._roots.sysfs, devfs, directory, group, problems) if is_vfio else (),
            iommu_group=group,
            iommu_mates=() if group is None else self._groups.mates(group, address, problems),
        )

    @staticmethod
    def _group(directory: str, problems: list[Unreadable]) -> int | None:
        path = f"{directory}/iommu_group"
        name = sysfs.link_name(path)
        if name is None:
            return None
        if isinstance(name, str) and _GROUP.fullmatch(name):
            return int(name)
        problems.append(name if isinstance(name, Unreadable) else sysfs.malformed(path, "a number", name))
        return None
