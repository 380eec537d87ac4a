"""GPU models: what a PCI device id is called and how it usually looks.

Users select on model and family, so the names of the existing Go driver are kept where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A GPU model. ``drm_driver`` is the kernel driver it is bound to by default, None when not known."""

    name: str
    family: str
    drm_driver: str | None = None
    integrated: bool | None = None
    tiles: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """Models by PCI device id, and the names of pci.ids for ids that the table lacks."""

    by_device_id: Mapping[int, Model]
    pci_ids: Mapping[int, str]

    def of(self, device_id: int) -> Model:
        """The model; for an unknown id one named after pci.ids, or ``Unknown``."""
        known = self.by_device_id.get(device_id)
        if known is not None:
            return known
        return Model(name=self.pci_ids.get(device_id, UNKNOWN), family=UNKNOWN)
