"""Where a GPU sits: PCIe root and link, NUMA node, IOMMU group."""

from __future__ import annotations

import posixpath
import re

from reconciler.node import sysfs
from state.ids import PciAddress, parse_pci_address
from state.observed import Unreadable

_BRIDGE = 0x0604
_ROOT = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_NO_LINK = "Unknown"
"""The speed that the kernel shows while a device is powered down."""
_BRIDGES_OF_A_SWITCHED_CARD = 3
"""Root port, then upstream and downstream port of the switch on the card."""


def device_path(sysfs_root: str, address: PciAddress) -> tuple[str, ...] | Unreadable | None:
    """Components of a function's place below ``devices``: root, bridges, and the function itself last.

    The algorithm of the standard attribute ``resource.kubernetes.io/pcieRoot``: follow the link in
    ``bus/pci/devices``, which must lead to ``devices/pci...`` and end with the address.
    """
    link = f"{sysfs_root}/bus/pci/devices/{address}"
    target = sysfs.read_link(link)
    if not isinstance(target, str):
        return target
    base = posixpath.normpath(f"{sysfs_root}/devices")
    place = posixpath.normpath(posixpath.join(sysfs_root, "bus/pci/devices", target))
    parts = tuple(place.removeprefix(f"{base}/").split("/"))
    if not place.startswith(f"{base}/") or not _ROOT.fullmatch(parts[0]) or parts[-1] != address:
        return sysfs.malformed(link, "a link to devices/pci…", target)
    return parts


def link_in_words(sysfs_root: str, path: tuple[str, ...]) -> str | Unreadable | None:
    """Speed and width of the slot's PCIe link, such as ``16.0 GT/s PCIe x16``.

    Arc and Flex cards carry a switch, and the GPU behind it always says 2.5 GT/s x1; the link that counts is
    then that of the switch's upstream port.
    """
    words = _link(sysfs_root, path)
    if words == "2.5 GT/s PCIe x1" and len(path) > _BRIDGES_OF_A_SWITCHED_CARD + 1:
        return _link(sysfs_root, path[:-2])
    return words


def _link(sysfs_root: str, path: tuple[str, ...]) -> str | Unreadable | None:
    directory = f"{sysfs_root}/devices/{'/'.join(path)}"
    speed = sysfs.read(f"{directory}/current_link_speed")
    if not isinstance(speed, str):
        return speed
    if speed == _NO_LINK:
        return None
    width = sysfs.read(f"{directory}/current_link_width")
    return f"{speed} x{width}" if isinstance(width, str) else width


class IommuGroups:
    """Members of IOMMU groups, each group read once. Make a new one for each look at the machine."""

    def __init__(self, sysfs_root: str) -> None:
        self._sysfs = sysfs_root
        self._members: dict[int, tuple[tuple[PciAddress, str | None], ...]] = {}

    def mates(
        self, group: int, address: PciAddress, problems: list[Unreadable]
    ) -> tuple[tuple[PciAddress, str | None], ...]:
        """The other functions of a group and their drivers, without PCI bridges, sorted by address."""
        if group not in self._members:
            self._members[group] = self._read(group, problems)
        return tuple(member for member in self._members[group] if member[0] != address)

    def _read(self, group: int, problems: list[Unreadable]) -> tuple[tuple[PciAddress, str | None], ...]:
        devices = f"{self._sysfs}/kernel/iommu_groups/{group}/devices"
        names = sysfs.list_directory(devices)
        if isinstance(names, Unreadable):
            problems.append(names)
            return ()
        members = []
        if names is None or len(names) == 1:
            return ()
        for name in sorted(names):
            try:
                member = parse_pci_address(name)
            except ValueError:
                continue  # a platform device: no PCI function to bind
            pci_class = sysfs.read_int(f"{devices}/{name}/class", 16)
            driver = sysfs.link_name(f"{devices}/{name}/driver")
            problems += [value for value in (pci_class, driver) if isinstance(value, Unreadable)]
            if not isinstance(pci_class, int) or pci_class >> 8 != _BRIDGE:
                members.append((member, driver if isinstance(driver, str) else None))
        return tuple(members)
