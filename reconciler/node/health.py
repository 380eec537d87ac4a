"""Reasons why a GPU is sick that the machine itself shows or has announced."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.node import sysfs
from state.ids import PciAddress
from state.observed import HealthCause, Sickness, Unreadable


def survivability(directory: str) -> tuple[Sickness, ...]:
    """xe found the GPU's firmware damaged and only offers ways to repair it. The file is there only then."""
    mode = sysfs.read(f"{directory}/survivability_mode")
    if mode is None:
        return ()
    return (Sickness(cause=HealthCause.SURVIVABILITY, message=f"in survivability mode ({mode})"),)


def unreadable(problems: Sequence[Unreadable]) -> tuple[Sickness, ...]:
    """One reason for all that could not be read; none for nothing."""
    if not problems:
        return ()
    return (Sickness(cause=HealthCause.UNREADABLE, message="; ".join(map(str, problems))),)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wedge:
    message: str
    binding: tuple[str, int] | None


class Wedges:
    """GPUs that announced to be wedged. There is no file that says so, hence the memory here.

    It lasts until the function is bound anew or gone: a new binding makes new directories in sysfs.
    """

    def __init__(self, sysfs_root: str) -> None:
        self._sysfs = sysfs_root
        self._wedged: dict[PciAddress, _Wedge] = {}

    def note(self, address: PciAddress, message: str) -> None:
        """The function announced it now."""
        self._wedged[address] = _Wedge(message=message, binding=self._binding(address))

    def sickness(self, address: PciAddress) -> Sickness | None:
        """What was announced, if it still holds."""
        wedge = self._wedged.get(address)
        if wedge is None:
            return None
        if self._binding(address) != wedge.binding:
            self._wedged.pop(address, None)
            return None
        return Sickness(cause=HealthCause.WEDGED, message=wedge.message)

    def _binding(self, address: PciAddress) -> tuple[str, int] | None:
        """The driver, and the number of the directory it made; None without a driver."""
        directory = f"{self._sysfs}/bus/pci/devices/{address}"
        driver = sysfs.link_name(f"{directory}/driver")
        if not isinstance(driver, str):
            return None
        try:
            return driver, os.stat(f"{directory}/drm").st_ino
        except OSError:
            return driver, 0
