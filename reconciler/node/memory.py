"""The size of a GPU's local memory: from sysfs, else from its DRM driver, else at least its memory BAR."""

from __future__ import annotations

import logging
import os
import re
import stat

from reconciler.node import sysfs
from reconciler.node.drm_query import DrmQueryError, local_memory
from state.ids import DeviceName
from state.observed import DRM_DRIVERS, DeviceNode, MemorySeen, MemorySource, Unreadable

_log = logging.getLogger(__name__)

_MEMORY_BAR = 2
"""Base address register of local memory on every discrete Intel GPU."""
_MEMORY_BAR_EXCESS = 2
"""A BAR's size is a power of two: the next one up from the memory (16 GiB for 12), or less without resizing.
Half of it is what the card has for sure.
"""
_RESOURCE = re.compile(r"0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16})")
_IS_MEMORY = 0x200
"""IORESOURCE_MEM of the kernel's ioport.h"""


class MemoryReader:
    """Remembers what DRM drivers said, as asking opens a device, and the answer lasts as long as the binding."""

    def __init__(self, devfs: str) -> None:
        self._devfs = devfs
        self._asked: dict[DeviceName, tuple[str, int]] = {}

    def read(
        self,
        name: DeviceName,
        directory: str,
        driver: str | None,
        drm: tuple[DeviceNode, ...],
        problems: list[Unreadable],
    ) -> MemorySeen | None:
        """Local memory of the discrete GPU in the sysfs ``directory``; None when nothing tells it."""
        for card in (node for node in drm if node.path.startswith("dri/card")):
            total = sysfs.read_int(f"{directory}/drm/{card.path.removeprefix('dri/')}/lmem_total_bytes")
            if isinstance(total, Unreadable):
                problems.append(total)
            elif total is not None and total > 0:
                return MemorySeen(total=total, source=MemorySource.SYSFS)
        asked = self._ask(name, driver, drm)
        if asked:
            return MemorySeen(total=asked, source=MemorySource.IOCTL)
        bar = _memory_bar(f"{directory}/resource")
        if isinstance(bar, Unreadable):
            problems.append(bar)
        elif bar:
            return MemorySeen(total=bar // _MEMORY_BAR_EXCESS, source=MemorySource.BAR)
        return None

    def forget(self, name: DeviceName) -> None:
        """Ask the driver again next time."""
        self._asked.pop(name, None)

    def _ask(self, name: DeviceName, driver: str | None, drm: tuple[DeviceNode, ...]) -> int:
        """Bytes the driver reports; 0 when it can't be asked or says nothing."""
        if driver not in DRM_DRIVERS:
            self.forget(name)
            return 0
        known = self._asked.get(name)
        if known is not None and known[0] == driver:
            return known[1]
        for node in reversed(drm):  # render nodes first: nobody becomes DRM master by opening them
            path = f"{self._devfs}/{node.path}"
            if not node.present or not _is_character_device(path):
                continue
            try:
                total = local_memory(path, driver)
            except DrmQueryError as error:
                _log.debug("no memory size from %s: %s", driver, error, extra={"device": name})
                continue
            self._asked[name] = (driver, total)
            return total
        return 0


def bar_size(resource: str, index: int) -> int | None:
    """Size in bytes of a memory BAR, from the text of a ``resource`` attribute; None when it has none.

    Raises ValueError when the line is not start, end and flags in hexadecimal.
    """
    lines = resource.splitlines()
    if index >= len(lines):
        return None
    match = _RESOURCE.fullmatch(lines[index].strip())
    if match is None:
        raise ValueError(lines[index])
    start, end, flags = (int(number, 16) for number in match.groups())
    return end - start + 1 if end > start and flags & _IS_MEMORY else None


def _memory_bar(path: str) -> int | Unreadable | None:
    resource = sysfs.read(path)
    if not isinstance(resource, str):
        return resource
    try:
        return bar_size(resource, _MEMORY_BAR)
    except ValueError as error:
        return sysfs.malformed(path, "start, end and flags in hexadecimal", str(error))


def _is_character_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False
