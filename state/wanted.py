"""Devices and overrides as wanted, once their names have been understood; and what can't be had at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from state.ids import DeviceName, LogicalDevice, Slot, Use
from state.manifest import OverrideMode
from state.observed import Changing, PfSeen
from state.profiles import Profile
from state.records import AppliedDevice

Gpus = Mapping[DeviceName, PfSeen | Changing]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Something in the manifest that can't be had: the field's path, why, and what would be allowed.

    ``absent`` is the GPU that is not there, if that is why.
    """

    path: str
    why: str
    allowed: tuple[str, ...] = ()
    absent: DeviceName | None = None

    @property
    def reason(self) -> str:
        """All of it but the path."""
        return self.why + (f" (allowed: {', '.join(self.allowed)})" if self.allowed else "")

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class RefusedError(Exception):
    """Carries a refusal out of the function that found it."""

    def __init__(
        self, path: str, why: str, allowed: tuple[str, ...] = (), absent: DeviceName | None = None
    ) -> None:
        self.refusal = Refusal(path=path, why=why, allowed=allowed, absent=absent)
        super().__init__(str(self.refusal))


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedDevice:
    """One device of an allocation.

    ``slot`` is the function behind it, ``driver`` the kernel driver that must be bound to that, ``profile`` the
    VF layout it belongs to. ``record`` is what is kept of it once it has been given out.
    """

    logical: LogicalDevice
    slot: Slot
    driver: str
    profile: Profile | None
    record: AppliedDevice

    @property
    def monitors(self) -> bool:
        """Whether this use only looks on, and so gets in nobody's way."""
        return self.record.admin_access or self.logical.use is Use.MONITOR


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedOverride:
    """An override judged: ``profile`` is a Fixed layout (None: no VFs), ``driver`` the PF's kernel driver."""

    mode: OverrideMode
    path: str
    profile: Profile | None = None
    driver: str | None = None
    reason: str = ""
