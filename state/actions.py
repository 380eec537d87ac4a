"""The steps a plan is made of. Each is repeatable, and complete in itself.

Within one pass actions of different GPUs are independent; those of one GPU are done in the order given, up to
the first error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from state.ids import DeviceName, PciAddress, Slot
from state.profiles import TileQuota


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveCdiSpec:
    """Remove a CDI spec file of ours. ``pf`` is the GPU it must be gone for, None for a stray file."""

    file: str
    pf: DeviceName | None
    why: str

    def __str__(self) -> str:
        return f"remove CDI spec {self.file} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCdiSpec:
    """Write the CDI spec file of one allocation."""

    file: str
    pf: DeviceName | None
    content: bytes
    allocation: str

    def __str__(self) -> str:
        return f"write CDI spec {self.file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNumVfs:
    """Write ``sriov_numvfs``: 0, or from 0 to the layout's full count.

    ``seen`` is how many VFs there were when it was planned to turn them off: others are not ours to turn off.
    None is for "any".
    """

    pf: DeviceName
    address: PciAddress
    count: int
    profile: str
    seen: int | None = None

    def __str__(self) -> str:
        return f"enable {self.count} VFs ({self.profile})" if self.count else "turn off all VFs"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVfProfile:
    """Write the quotas of ``count`` VFs (one value for each tile) and clear those of all others."""

    pf: DeviceName
    address: PciAddress
    profile: str
    count: int
    quota: TileQuota

    def __str__(self) -> str:
        return f"set quotas of {self.count} VFs ({self.profile})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetProvisioning:
    """Clear all quotas and give provisioning back to the kernel driver."""

    pf: DeviceName
    address: PciAddress

    def __str__(self) -> str:
        return "give VF provisioning back to the kernel driver"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindDriver:
    """Bind a function to a kernel driver, away from the one it has. None leaves it without a driver."""

    pf: DeviceName
    slot: Slot
    address: PciAddress
    driver: str | None

    def __str__(self) -> str:
        what = f"VF {self.slot.vf}" if self.slot.is_vf else "the GPU"
        return f"bind {what} to {self.driver}" if self.driver else f"unbind {what}"


GpuAction: TypeAlias = SetNumVfs | SetVfProfile | ResetProvisioning | BindDriver
CdiAction: TypeAlias = RemoveCdiSpec | WriteCdiSpec
Action: TypeAlias = GpuAction | CdiAction


def touches(actions: Iterable[GpuAction], slot: Slot, *, looks_on: bool) -> bool:
    """Whether actions on the GPU of ``slot`` change something under its user.

    One VF's driver concerns that VF alone; all else everybody, but those who only look on mind nothing but the
    GPU's own driver.
    """
    for action in actions:
        if isinstance(action, BindDriver):
            if action.slot in (slot, Slot(pf=slot.pf)):
                return True
        elif not looks_on:
            return True
    return False


def unit_of(action: Action) -> str:
    """What backs off when this action fails: a GPU's layout, one function's driver, or a CDI file."""
    match action:
        case SetNumVfs() | SetVfProfile() | ResetProvisioning():
            return action.pf
        case BindDriver():
            return f"{action.pf}/driver" if not action.slot.is_vf else f"{action.pf}/vf{action.slot.vf}"
        case RemoveCdiSpec() | WriteCdiSpec():
            return f"cdi/{action.file}"
