"""Device nodes of a PCI function: DRM, VFIO and MEI.

sysfs says that a node belongs to the function and which number it has; devfs says whether the node is there
yet. Where devfs holds a character device its own number counts, as that is what a container would get.
"""

from __future__ import annotations

import os
import re
import stat

from reconciler.node import sysfs
from state.ids import PciAddress
from state.observed import DeviceNode, Unreadable

VFIO_CONTROL = "vfio/vfio"
"""The node all VFIO users share; who has it open says nothing about a device."""

_VFIO_CONTROL_NUMBER = (10, 196)
_DRM = re.compile(r"(card|renderD)([0-9]{1,7})")
_MEI = re.compile(r"mei[0-9]{1,7}")
_VFIO = re.compile(r"vfio[0-9]{1,7}")
_NUMBER = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")


def drm_nodes(devfs: str, directory: str, problems: list[Unreadable]) -> tuple[DeviceNode, ...]:
    """``dri/cardN`` and ``dri/renderDN`` of the function in the sysfs ``directory``, in this order."""
    names = sorted(name for name in _names(f"{directory}/drm", problems) if _DRM.fullmatch(name))
    return _nodes(devfs, [(f"dri/{name}", f"{directory}/drm/{name}/dev") for name in names], problems)


def by_path_names(address: PciAddress, drm: tuple[DeviceNode, ...]) -> tuple[DeviceNode, ...]:
    """The same nodes under the names that udev gives them, whether udev runs here or not."""
    return tuple(
        DeviceNode(
            path=f"dri/by-path/pci-{address}-{'card' if node.path.startswith('dri/card') else 'render'}",
            major=node.major,
            minor=node.minor,
            present=node.present,
        )
        for node in drm
    )


def vfio_nodes(
    sysfs_root: str, devfs: str, directory: str, group: int | None, problems: list[Unreadable]
) -> tuple[DeviceNode, ...]:
    """``vfio/devices/vfioN``, ``vfio/<group>`` where the kernel has them, and the control node."""
    cdevs = sorted(name for name in _names(f"{directory}/vfio-dev", problems) if _VFIO.fullmatch(name))
    wanted = [(f"vfio/devices/{name}", f"{directory}/vfio-dev/{name}/dev") for name in cdevs]
    if group is not None:
        wanted.append((f"vfio/{group}", f"{sysfs_root}/class/vfio/{group}/dev"))
    nodes = _nodes(devfs, wanted, problems)
    if not nodes:
        return ()
    major, minor = _VFIO_CONTROL_NUMBER
    present = os.path.exists(f"{devfs}/{VFIO_CONTROL}")
    return (*nodes, DeviceNode(path=VFIO_CONTROL, major=major, minor=minor, present=present))


def mei_nodes(
    devfs: str, directory: str, entries: frozenset[str], problems: list[Unreadable]
) -> tuple[DeviceNode, ...]:
    """``meiN`` of the function's management engine. ``entries`` are the names in ``directory``."""
    found = []
    for parent in sorted(entry for entry in entries if "mei" in entry):
        place = f"{directory}/{parent}/mei"
        names = (name for name in _names(place, problems) if _MEI.fullmatch(name))
        found += [(name, f"{place}/{name}/dev") for name in sorted(names)]
    return _nodes(devfs, found, problems)


def _names(directory: str, problems: list[Unreadable]) -> tuple[str, ...]:
    names = sysfs.list_directory(directory)
    if isinstance(names, Unreadable):
        problems.append(names)
        return ()
    return names or ()


def _nodes(devfs: str, wanted: list[tuple[str, str]], problems: list[Unreadable]) -> tuple[DeviceNode, ...]:
    """A node for each (path below devfs, its ``dev`` attribute) that has a number."""
    nodes = []
    for path, attribute in wanted:
        node = _node(devfs, path, attribute)
        if isinstance(node, Unreadable):
            problems.append(node)
        elif node is not None:
            nodes.append(node)
    return tuple(nodes)


def _node(devfs: str, path: str, attribute: str) -> DeviceNode | Unreadable | None:
    place = f"{devfs}/{path}"
    present = True
    try:
        status = os.stat(place)
    except OSError as error:
        problem = sysfs.unreadable(place, error)
        if problem is not None:
            return problem
        present = False
    else:
        if stat.S_ISCHR(status.st_mode):
            return DeviceNode(path=path, major=os.major(status.st_rdev), minor=os.minor(status.st_rdev))
    number = sysfs.read(attribute)
    if not isinstance(number, str):
        return number
    match = _NUMBER.fullmatch(number)
    if match is None:
        return sysfs.malformed(attribute, "a device number (major:minor)", number)
    return DeviceNode(path=path, major=int(match[1]), minor=int(match[2]), present=present)
