"""VF profiles: how one GPU is split into equal virtual functions.

A table profile fixes what each VF gets (Intel's published figures, see ``tables/sriov-profiles.yaml``); a
fair share, ``fs<n>``, leaves that to the kernel driver, which splits the GPU evenly among n VFs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

MIB = 1024 * 1024
LMEM_ALIGNMENT = 2 * MIB
"""i915 rounds ``lmem_quota`` up, and xe wants ``vram_quota`` aligned, to 2 MiB."""

_FAIR_SHARE = re.compile(r"fs([1-9][0-9]{0,3})")


class Ecc(Enum):
    """Whether the GPU's local memory has error correction on, which takes part of it."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one VF gets. Bytes, counts, milliseconds and microseconds, as the kernel takes them."""

    contexts: int
    doorbells: int
    exec_quantum_ms: int
    preempt_timeout_us: int
    ggtt: int
    lmem: int
    lmem_ecc_on: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TileQuota:
    """One VF's quota on one tile: as written to, or read from, its attribute files.

    None means "not read" in an observation and "not written" in an action.
    """

    contexts: int | None = None
    doorbells: int | None = None
    exec_quantum_ms: int | None = None
    preempt_timeout_us: int | None = None
    ggtt: int | None = None
    lmem: int | None = None

    def is_empty(self) -> bool:
        """Whether nothing that was read is set: the state in which the driver may provision by itself."""
        return not (self.contexts or self.doorbells or self.ggtt or self.lmem)


EMPTY_TILE_QUOTA = TileQuota(contexts=0, doorbells=0, exec_quantum_ms=0, preempt_timeout_us=0, ggtt=0, lmem=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A way to split a GPU: ``count`` equal VFs. ``quota`` is None for a fair share."""

    name: str
    count: int
    quota: Quota | None = None

    @property
    def mode(self) -> str:
        """The short name users see in device names: ``m4`` of ``flex170_m4``."""
        return self.name.rsplit("_", 1)[-1]

    @property
    def millicores(self) -> int:
        """Thousandths of the GPU's compute time that one VF gets."""
        return 1000 // self.count

    def vf_memory(self, *, tiles: int, ecc: Ecc, measured: int | None) -> int | None:
        """Bytes of local memory one VF gets; None when that is unknown.

        The kernel gives a table quota to each tile, so two tiles hold twice of it, but never more than the
        card has. A fair share is the measured memory divided by the number of VFs, down to 2 MiB.
        """
        if self.quota is None:
            return None if measured is None else measured // self.count // LMEM_ALIGNMENT * LMEM_ALIGNMENT
        per_tile = self.quota.lmem if ecc is Ecc.OFF else self.quota.lmem_ecc_on
        total = per_tile * tiles
        return total if measured is None else min(total, measured // self.count)


def fair_share(count: int) -> Profile:
    """``count`` VFs that the kernel driver provisions evenly by itself."""
    return Profile(name=f"fs{count}", count=count)


def tile_quota(quota: Quota, *, tiles: int, ecc: Ecc) -> TileQuota:
    """What to write into each tile's files for one VF.

    GGTT space and doorbells are the whole VF's and are divided among tiles; the tables give local memory per
    tile already. With ECC on, or not known to be off, the smaller memory figure is the one that fits.
    """
    return TileQuota(
        contexts=quota.contexts,
        doorbells=quota.doorbells // tiles,
        exec_quantum_ms=quota.exec_quantum_ms,
        preempt_timeout_us=quota.preempt_timeout_us,
        ggtt=quota.ggtt // tiles,
        lmem=quota.lmem if ecc is Ecc.OFF else quota.lmem_ecc_on,
    )


CONTEXTS_ALIGNMENT = 128
"""i915 rounds ``contexts_quota`` up to this."""


def satisfies(seen: TileQuota, wanted: TileQuota) -> bool:
    """Whether the files read as after writing ``wanted``, the kernel's rounding allowed for."""

    def rounded(read: int | None, written: int | None, alignment: int) -> bool:
        return read is None or written is None or written <= read < written + alignment

    return (
        rounded(seen.contexts, wanted.contexts, CONTEXTS_ALIGNMENT)
        and rounded(seen.lmem, wanted.lmem, LMEM_ALIGNMENT)
        and rounded(seen.ggtt, wanted.ggtt, LMEM_ALIGNMENT)
        and rounded(seen.doorbells, wanted.doorbells, 1)
        and rounded(seen.exec_quantum_ms, wanted.exec_quantum_ms, 1)
        and rounded(seen.preempt_timeout_us, wanted.preempt_timeout_us, 1)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileTable:
    """The table profiles of every PCI device id that has any, biggest VF first."""

    by_device_id: Mapping[int, tuple[Profile, ...]]

    def of(self, device_id: int) -> tuple[Profile, ...]:
        """Table profiles of a model, biggest VF first; empty when it has none."""
        return self.by_device_id.get(device_id, ())

    def find(self, device_id: int, name: str, *, total_vfs: int) -> Profile | None:
        """The profile called ``name``, by full name (``flex170_m4``), mode (``m4``) or ``fs<n>``.

        None when the model has no such profile or it has more VFs than the hardware.
        """
        share = _FAIR_SHARE.fullmatch(name)
        if share is not None:
            return fair_share(int(share[1])) if int(share[1]) <= total_vfs else None
        for profile in self.of(device_id):
            if name in (profile.name, profile.mode) and profile.count <= total_vfs:
                return profile
        return None

    def names(self, device_id: int, *, total_vfs: int) -> tuple[str, ...]:
        """What ``find`` accepts for this model, for error messages."""
        if total_vfs < 1:
            return ()
        table = tuple(profile.name for profile in self.of(device_id) if profile.count <= total_vfs)
        return (*table, "fs1" if total_vfs == 1 else f"fs1..fs{total_vfs}")


def guess_ecc(profiles: Sequence[Profile], measured: int | None) -> Ecc:
    """Whether ECC is on, from the memory the kernel reports.

    The biggest VF of a table was measured with ECC off; where the card has less, ECC takes the rest. Models
    whose figures are equal both ways (HBM) always have it on. There is no kernel interface for it.
    """
    if not profiles or measured is None:
        return Ecc.UNKNOWN
    biggest = profiles[0].quota
    if biggest is None:
        return Ecc.UNKNOWN
    if biggest.lmem == biggest.lmem_ecc_on:
        return Ecc.ON
    return Ecc.ON if biggest.lmem > measured else Ecc.OFF
