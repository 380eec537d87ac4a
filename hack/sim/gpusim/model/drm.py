"""DRM minors of a bound GPU: cardN and renderDN, with nodes and by-path links."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Mapping

from gpusim.model import kstrto
from gpusim.model.kernel import ClassDevice, Kernel
from gpusim.model.nodes import CharacterDevice, NodeLink
from gpusim.model.pci import PciFunction
from gpusim.model.tree import constant

MAJOR = 226
_DISPLAY = 0x0300
_EXTENDED = range(192, 1 << 20)
"""Minors beyond the first 64 of a kind: shared by all kinds since Linux 6.12."""


def _take(kernel: Kernel, first: int) -> int:
    minor = kernel.numbers.take_one_of("drm", itertools.chain(range(first, first + 64), _EXTENDED))
    if minor is None:
        kstrto.fail(errno.ENOSPC)
    return minor


class DrmDevice:
    """The two minors of one function."""

    def __init__(self, kernel: Kernel, function: PciFunction) -> None:
        self._kernel = kernel
        self._function = function
        self.card = self._minor("card", _take(kernel, 0))
        self.render = self._minor("renderD", _take(kernel, 128))
        self._connectors = self._make_connectors()

    def _minor(self, prefix: str, minor: int) -> ClassDevice:
        return ClassDevice(
            path=f"{self._function.path}/drm/{prefix}{minor}",
            subsystem="drm",
            parent=self._function.path,
            character=CharacterDevice(MAJOR, minor),
            node=f"dri/{prefix}{minor}",
            type="drm_minor",
        )

    def _make_connectors(self) -> tuple[ClassDevice, ...]:
        """A display adapter has an outlet, which is an entry of class/drm too; virtual functions have none."""
        if self._function.identity.pci_class >> 8 != _DISPLAY or self._function.physical is not None:
            return ()
        name = f"{self.card.name}-DP-1"
        return (
            ClassDevice(
                path=f"{self.card.path}/{name}", subsystem="drm", parent=self.card.path, type="drm_connector"
            ),
        )

    def register(self) -> None:
        """Everything below the card's directory must be added before, so that events find it there."""
        for device, kind in ((self.render, "render"), (self.card, "card")):
            device.register(self._kernel)
            link = f"dri/by-path/pci-{self._function}-{kind}"
            self._kernel.nodes.add(link, NodeLink(f"../{device.name}"))
        for connector in self._connectors:
            self._kernel.tree.add(f"{connector.path}/status", constant("disconnected"))
            connector.register(self._kernel)

    def unregister(self) -> None:
        for connector in self._connectors:
            connector.unregister(self._kernel)
        for device, kind in ((self.card, "card"), (self.render, "render")):
            self._kernel.nodes.remove(f"dri/by-path/pci-{self._function}-{kind}")
            device.unregister(self._kernel)
            if device.character is not None:
                self._kernel.numbers.give_back("drm", device.character.minor)
        self._kernel.tree.remove(f"{self._function.path}/drm")

    def report(self, variables: Mapping[str, str]) -> None:
        """A `change` event of the card with these variables."""
        self._kernel.emit("change", self.card.path, "drm", {**self.card.environment(), **variables})
