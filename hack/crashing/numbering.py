"""Names for what the kernel numbers in the order of events: cards, render nodes, VFIO devices, IOMMU groups.

A crash may change that order, and with it the numbers, without anything being wrong. So before two machines are
compared, each number is replaced by the PCI address of the function that it stands for. A number that stands for
nothing stays, and shows as a difference.
"""

from __future__ import annotations

import re

import gpusim

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_FIRST_RENDER = 128
_DRM, _GROUP, _CDEV = "226", "243", "511"
"""The majors of nodes with such numbers, as the simulated kernel has them."""
_NODE = re.compile(r"\b(card|renderD|vfio)([0-9]+)\b")
_GROUP_PATH = re.compile(r"\b(vfio|iommu_groups)/([0-9]+)\b")
_MINOR = re.compile(rf'\b({_DRM}|{_GROUP}|{_CDEV})(:|\nMINOR=|,\s*"minor": )([0-9]+)\b')


class Numbering:
    """What the numbers of a machine stand for at this moment."""

    def __init__(self, machine: gpusim.Machine) -> None:
        self._owners: dict[str, str] = {}
        for place in ("class/drm", "class/vfio-dev"):
            for name in machine.sysfs.listdir(place) if machine.sysfs.exists(place) else ():
                if _NODE.fullmatch(name):
                    self._owners[name] = _ADDRESS.findall(machine.sysfs.readlink(f"{place}/{name}"))[-1]
        for address in machine.sysfs.listdir("bus/pci/devices"):
            link = f"bus/pci/devices/{address}/iommu_group"
            if machine.sysfs.exists(link):
                self._owners[machine.sysfs.readlink(link).rpartition("/")[2]] = address

    def named(self, text: str) -> str:
        """The text with names for numbers."""
        text = _MINOR.sub(lambda match: f"{match[1]}{match[2]}{self._minor(match[1], int(match[3]))}", text)
        text = _NODE.sub(lambda match: f"{match[1]}{self._name(match[0], match[2])}", text)
        return _GROUP_PATH.sub(lambda match: f"{match[1]}/{self._name(match[2], match[2])}", text)

    def _name(self, key: str, number: str) -> str:
        return f"<{self._owners[key]}>" if key in self._owners else number

    def _minor(self, major: str, minor: int) -> str:
        if major == _DRM:
            key = f"card{minor}" if minor < _FIRST_RENDER else f"renderD{minor}"
        else:
            key = f"vfio{minor}" if major == _CDEV else str(minor)
        return self._name(key, str(minor))
