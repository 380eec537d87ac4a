"""Records the node keeps in files: what we changed on the machine, and what claims hold.

These are formats on disk, so they carry a version and keep to what a restart needs. Convergence itself is
always judged by looking at the machine; the records only say what is ours and who may not be disturbed.
"""

from __future__ import annotations

import msgspec

FORMAT_VERSION = 1


class AppliedDevice(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A device given to an allocation: the logical name (VF index included) and the driver it had."""

    device: str
    """Its logical name: <gpu>, <gpu>-shared, <gpu>-monitor or <gpu>-<mode>-vf<index>."""

    profile: str = ""
    """The VF layout it is part of, by full name. Absent: it is no VF."""

    kernel_driver: str = "drm"
    """The kind of kernel driver it is bound to: drm, vfio or xe-vfio. Absent: drm."""

    memory: int | None = None
    """Local memory asked for, in bytes."""

    admin_access: bool = False
    """Whether its user only looks on."""

    request: str = ""
    """The claim's request it satisfies."""

    share_id: str = ""
    """The scheduler's id of this share of a device."""


class OwnedLayout(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """VFs of a GPU that we made, or are about to make: written before the first write to the machine.

    It proves ownership only during the boot it was written in: VFs do not survive a reboot.
    """

    profile: str
    count: int
    boot_id: str = msgspec.field(name="bootID")


class OwnedBinding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A physical function we bound to another driver, and the one to give back (None: it had none)."""

    driver: str
    original: str | None
    boot_id: str = msgspec.field(name="bootID")


class Ownership(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is ours, by GPU name; and by allocation name the devices last applied for it.

    ``applied_boot_id`` is the boot in which that was: after another one nobody can be using it any more.
    ``withdrawals`` holds a token for each device whose withdrawal from publishing has begun.
    """

    format_version: int = FORMAT_VERSION
    layouts: dict[str, OwnedLayout] = {}
    bindings: dict[str, OwnedBinding] = {}
    applied: dict[str, tuple[AppliedDevice, ...]] = {}
    applied_boot_id: str = msgspec.field(default="", name="appliedBootID")
    withdrawals: dict[str, str] = {}


class Mark(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A prepared claim, written by the kubelet plugin: ``nonce`` tells one preparation from the next."""

    uid: str
    nonce: str
    boot_id: str = msgspec.field(name="bootID")
    grpc_version: str = ""


class HeldClaim(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The devices confirmed for a marked claim; they stay as they are until the mark is gone."""

    nonce: str
    devices: tuple[AppliedDevice, ...]


class Held(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Claims that hold devices, by claim UID, in the boot named."""

    boot_id: str = msgspec.field(name="bootID")
    format_version: int = FORMAT_VERSION
    claims: dict[str, HeldClaim] = {}
