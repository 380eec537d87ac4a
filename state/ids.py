"""Names of GPUs and of what can be allocated from them.

A GPU is named after its PCI address and device id, ``0000-b3-00-0-0x56c0``: stable over reboots and driver
changes, unlike card numbers. A virtual function is (physical function, profile, index), never a PCI address,
which exists only once the function does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import NewType

PciAddress = NewType("PciAddress", str)
"""``dddd:bb:dd.f`` in lower case; the domain has four or more digits (kernel: ``%04x:%02x:%02x.%d``)."""

DeviceName = NewType("DeviceName", str)
"""Name of a physical GPU: its PCI address with dashes, and its device id."""

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_DEVICE = re.compile(r"([0-9a-f]{4,8})-([0-9a-f]{2})-([01][0-9a-f])-([0-7])-0x([0-9a-f]{4})")
_LOGICAL = re.compile(r"(?P<pf>[0-9a-f]{4,8}-[0-9a-f]{2}-[01][0-9a-f]-[0-7]-0x[0-9a-f]{4})(?:-(?P<rest>.+))?")
_VF = re.compile(r"(?P<mode>[a-z]{1,4}[1-9][0-9]{0,3})(?:-vf(?P<index>0|[1-9][0-9]{0,3}))?")

LOGICAL_NAME_FORMS = ("<gpu>", "<gpu>-shared", "<gpu>-monitor", "<gpu>-<mode>-vf<index>")
"""What a logical device name can look like, for error messages."""


def parse_pci_address(text: str) -> PciAddress:
    """``text`` as a PCI address. Raises ValueError when it is none."""
    lowered = text.lower()
    if not _ADDRESS.fullmatch(lowered):
        raise ValueError(f"{text!r} is no PCI address (dddd:bb:dd.f)")
    return PciAddress(lowered)


def device_name(address: PciAddress, device_id: int) -> DeviceName:
    """The name of the GPU at ``address`` with PCI device id ``device_id``."""
    return DeviceName(f"{address.replace(':', '-').replace('.', '-')}-0x{device_id:04x}")


def parse_device_name(text: str) -> tuple[PciAddress, int]:
    """PCI address and device id out of a GPU's name. Raises ValueError when ``text`` is none."""
    match = _DEVICE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no device name (for example 0000-b3-00-0-0x56c0)")
    domain, bus, slot, function, device_id = match.groups()
    return PciAddress(f"{domain}:{bus}:{slot}.{function}"), int(device_id, 16)


class Use(Enum):
    """How an allocation uses a GPU."""

    WHOLE = "whole"
    SHARED = "shared"
    MONITOR = "monitor"
    VF = "vf"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalDevice:
    """One thing that can be allocated: a GPU in one of its modes.

    ``mode`` is the short name of the VF layout (``m4``, ``c62``, ``fs8``) for ``Use.VF`` and empty otherwise.
    ``index`` is the VF's number from 0, or None for "any VF of this layout", as schedulers hand them out.
    """

    pf: DeviceName
    use: Use
    mode: str = ""
    index: int | None = None

    def __str__(self) -> str:
        if self.use is Use.WHOLE:
            return self.pf
        if self.use is Use.VF:
            pinned = "" if self.index is None else f"-vf{self.index}"
            return f"{self.pf}-{self.mode}{pinned}"
        return f"{self.pf}-{self.use.value}"


def parse_logical_device(text: str) -> LogicalDevice:
    """The logical device named ``text``; inverse of ``str()``. Raises ValueError when it is no such name."""
    match = _LOGICAL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no device name (forms: {', '.join(LOGICAL_NAME_FORMS)})")
    pf, rest = DeviceName(match["pf"]), match["rest"]
    if rest is None:
        return LogicalDevice(pf=pf, use=Use.WHOLE)
    if rest in (Use.SHARED.value, Use.MONITOR.value):
        return LogicalDevice(pf=pf, use=Use(rest))
    vf = _VF.fullmatch(rest)
    if vf is None:
        raise ValueError(f"{text!r} is no device name (forms: {', '.join(LOGICAL_NAME_FORMS)})")
    index = None if vf["index"] is None else int(vf["index"])
    return LogicalDevice(pf=pf, use=Use.VF, mode=vf["mode"], index=index)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Slot:
    """One PCI function that can have a user: the GPU's physical function (``vf`` is -1) or one of its VFs."""

    pf: DeviceName
    vf: int = -1

    @property
    def is_vf(self) -> bool:
        """Whether it is a virtual function, and not the GPU itself."""
        return self.vf >= 0

    def __str__(self) -> str:
        return f"{self.pf} VF {self.vf}" if self.is_vf else str(self.pf)
