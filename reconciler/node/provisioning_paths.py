"""Which files hold the quotas of a GPU's VFs, for reading and for writing.

Kernel interfaces number VFs from 1, this code from 0; everything here takes our index. There are four layouts:

- i915 (out of tree): ``drm/cardN/{prelim_iov,iov}/vfV/{gt,gtG}/…``, one ``gt`` per tile
- xe since 6.19: ``sriov_admin/vfV/profile/…``, for the VF as a whole; whether local memory can be set depends
  on the kernel
- xe debugfs since 6.19: ``kernel/debug/dri/<address>/sriov/vfV/tileT/…``, scheduling below the tile's ``gtG``
- xe debugfs before: ``kernel/debug/dri/<address>/gtG/vfV/…``, one primary ``gt`` per tile
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from reconciler.node import sysfs
from state.ids import PciAddress
from state.observed import Provisioner, Unreadable


class QuotaField(Enum):
    """One quota of a VF on a tile; values are the field names of ``TileQuota``."""

    CONTEXTS = "contexts"
    DOORBELLS = "doorbells"
    EXEC_QUANTUM_MS = "exec_quantum_ms"
    PREEMPT_TIMEOUT_US = "preempt_timeout_us"
    GGTT = "ggtt"
    LMEM = "lmem"


class VfPath(NamedTuple):
    """A path with the VF's number, counted from 1, between its two parts."""

    before: str
    after: str

    def of(self, vf: int) -> str:
        """The path for the VF with index ``vf``, counted from 0."""
        return f"{self.before}{vf + 1}{self.after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaFiles:
    """The quota files of one GPU: one mapping a tile, with the fields that the driver has there.

    ``automatic`` is the file that shows whether the driver provisions by itself and takes ``1`` to make it so;
    ``restore`` one that only takes ``1`` for that. ``writable``: quotas of memory can be set.
    """

    provisioner: Provisioner
    tiles: tuple[Mapping[QuotaField, VfPath], ...]
    writable: bool
    automatic: str | None = None
    restore: str | None = None

    def path(self, vf: int, tile: int, field: QuotaField) -> str | None:
        """The file of one quota; None where the driver has none. ``vf`` and ``tile`` count from 0."""
        place = self.tiles[tile].get(field)
        return None if place is None else place.of(vf)


_SCHEDULING = {
    "contexts_quota": QuotaField.CONTEXTS,
    "doorbells_quota": QuotaField.DOORBELLS,
    "exec_quantum_ms": QuotaField.EXEC_QUANTUM_MS,
    "preempt_timeout_us": QuotaField.PREEMPT_TIMEOUT_US,
}
_MEMORY = {
    "ggtt_quota": QuotaField.GGTT,
    "lmem_quota": QuotaField.LMEM,
    "vram_quota": QuotaField.LMEM,
}
_FIELDS = {**_SCHEDULING, **_MEMORY}
_CARD = re.compile(r"card[0-9]+")
_GT = re.compile(r"gt([0-9]*)")
_TILE = re.compile(r"tile([0-9]+)")
_ANY_WRITE = 0o222


def locate(
    sysfs_root: str, directory: str, address: PciAddress, driver: str | None
) -> QuotaFiles | Unreadable | None:
    """The quota files of the GPU in the sysfs ``directory``; None when its driver offers none."""
    if driver == "i915":
        return _i915(directory)
    if driver == "xe":
        return _xe(sysfs_root, directory, address)
    return None


def _i915(directory: str) -> QuotaFiles | Unreadable | None:
    cards = sysfs.list_directory(f"{directory}/drm")
    if not isinstance(cards, tuple):
        return cards
    for card in sorted(name for name in cards if _CARD.fullmatch(name)):
        for iov in ("prelim_iov", "iov"):
            base = f"{directory}/drm/{card}/{iov}"
            names = sysfs.list_directory(f"{base}/vf1")
            if isinstance(names, Unreadable):
                return names
            if names is not None:
                return _i915_files(base, _numbered(names, _GT))
    return None


def _i915_files(base: str, gts: list[str]) -> QuotaFiles | None:
    tiles = [_fields_in(f"{base}/vf", f"/{gt}", _FIELDS) for gt in gts]
    # A media GT shares its tile's GGTT and only shows it: it is no tile of its own.
    settable = [tile for tile in tiles if _is_writable(tile, QuotaField.GGTT)]
    chosen = settable or [tile for tile in tiles if tile]
    if not chosen:
        return None
    automatic = f"{base}/pf/auto_provisioning"
    return QuotaFiles(
        provisioner=Provisioner.I915_IOV,
        tiles=tuple(chosen),
        writable=bool(settable),
        automatic=automatic if os.path.exists(automatic) else None,
    )


def _xe(sysfs_root: str, directory: str, address: PciAddress) -> QuotaFiles | None:
    admin = _fields_in(f"{directory}/sriov_admin/vf", "/profile", _FIELDS)
    if _is_writable(admin, QuotaField.LMEM):
        return QuotaFiles(provisioner=Provisioner.XE_SYSFS, tiles=(admin,), writable=True)
    debugfs = _xe_debugfs(f"{sysfs_root}/kernel/debug/dri/{address}")
    if debugfs is not None:
        return debugfs
    if admin:
        return QuotaFiles(provisioner=Provisioner.XE_SYSFS, tiles=(admin,), writable=False)
    return None


def _xe_debugfs(base: str) -> QuotaFiles | None:
    """None as well where debugfs is not mounted or closed to us: it is never needed."""
    tiles = []
    names = sysfs.list_directory(f"{base}/sriov/vf1")
    if isinstance(names, tuple):
        for tile in _numbered(names, _TILE):
            fields = dict(_fields_in(f"{base}/sriov/vf", f"/{tile}", _MEMORY))
            below = sysfs.list_directory(f"{base}/sriov/vf1/{tile}")
            for gt in _numbered(below, _GT)[:1] if isinstance(below, tuple) else ():
                fields.update(_fields_in(f"{base}/sriov/vf", f"/{tile}/{gt}", _SCHEDULING))
            tiles.append(fields)
    else:
        names = sysfs.list_directory(base)
        for gt in _numbered(names, _GT) if isinstance(names, tuple) else ():
            tiles.append(dict(_fields_in(f"{base}/{gt}/vf", "", _FIELDS)))
    primary = tuple(tile for tile in tiles if QuotaField.GGTT in tile)
    if not primary or not isinstance(sysfs.read(primary[0][QuotaField.GGTT].of(0)), str):
        return None  # a locked-down kernel shows the files, but opens none of them
    restore = f"{base}/sriov/restore_auto_provisioning"
    return QuotaFiles(
        provisioner=Provisioner.XE_DEBUGFS,
        tiles=primary,
        writable=all(_is_writable(tile, QuotaField.GGTT) for tile in primary),
        restore=restore if os.path.exists(restore) else None,
    )


def _fields_in(before: str, after: str, known: Mapping[str, QuotaField]) -> Mapping[QuotaField, VfPath]:
    """The quota files that the first VF's directory has; all VFs have the same."""
    names = sysfs.list_directory(f"{before}1{after}")
    if not isinstance(names, tuple):
        return {}
    present = frozenset(names)
    return {field: VfPath(before, f"{after}/{name}") for name, field in known.items() if name in present}


def _is_writable(tile: Mapping[QuotaField, VfPath], field: QuotaField) -> bool:
    """Whether the file's mode has a write bit: root passes access(2) for read-only attributes too."""
    if field not in tile:
        return False
    try:
        return bool(os.stat(tile[field].of(0)).st_mode & _ANY_WRITE)
    except OSError:
        return False


def _numbered(names: tuple[str, ...], pattern: re.Pattern[str]) -> list[str]:
    """The names that match, in the order of their numbers."""
    return sorted((name for name in names if pattern.fullmatch(name)), key=lambda name: (len(name), name))
