"""Devices and overrides as wanted, once their names have been understood; and what can't be had at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from state.ids import DeviceName, LogicalDevice, Slot, Use
from state.manifest import KernelDriver, OverrideMode
from state.observed import Changing, PfSeen
from state.profiles import Profile
from state.records import AppliedDevice
from state.usage import slot_of

Gpus = Mapping[DeviceName, PfSeen | Changing]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Something in the manifest that can't be had: the field's path, why, and what would be allowed."""

    path: str
    why: str
    allowed: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """All of it but the path."""
        return self.why + (f" (allowed: {', '.join(self.allowed)})" if self.allowed else "")

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class RefusedError(Exception):
    """Carries a refusal out of the function that found it."""

    def __init__(self, path: str, why: str, allowed: tuple[str, ...] = ()) -> None:
        self.refusal = Refusal(path=path, why=why, allowed=allowed)
        super().__init__(str(self.refusal))


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedDevice:
    """One device of an allocation. ``driver`` is the kernel driver its function must be bound to."""

    logical: LogicalDevice
    driver: str
    kernel_driver: KernelDriver = KernelDriver.DRM
    profile: Profile | None = None
    memory: int | None = None
    admin_access: bool = False
    request: str = ""
    share_id: str = ""

    @property
    def slot(self) -> Slot:
        return slot_of(self.logical)

    @property
    def monitors(self) -> bool:
        """Whether this use only looks on, and so gets in nobody's way."""
        return self.logical.use is Use.MONITOR or self.admin_access

    def applied(self) -> AppliedDevice:
        """The record kept of this device once it has been given out."""
        return AppliedDevice(
            device=str(self.logical),
            profile=self.profile.name if self.profile else "",
            kernel_driver=self.kernel_driver.value,
            memory=self.memory,
            admin_access=self.admin_access,
            request=self.request,
            share_id=self.share_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedOverride:
    """An override judged: ``profile`` is a Fixed layout (None: no VFs), ``driver`` the PF's kernel driver."""

    mode: OverrideMode
    path: str
    profile: Profile | None = None
    driver: str | None = None
    reason: str = ""
