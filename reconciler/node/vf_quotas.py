"""Setting and clearing what virtual functions get, before they are enabled.

Whichever driver it is, quotas are set VF by VF and tile by tile, 0 means not set, and a quota set by hand ends
the driver's own provisioning. i915 keeps them when the VFs are gone; xe forgets them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.node import sysfs
from reconciler.node.apply_host import ApplyFailed, ApplyHost
from reconciler.node.numvfs import require_no_vfs
from reconciler.node.provisioning_paths import QuotaField, QuotaFiles, VfPath, locate
from state.actions import SetVfProfile
from state.ids import PciAddress
from state.observed import Unreadable
from state.profiles import TileQuota, satisfies

_ORDER = (
    QuotaField.CONTEXTS,
    QuotaField.DOORBELLS,
    QuotaField.EXEC_QUANTUM_MS,
    QuotaField.GGTT,
    QuotaField.LMEM,
    QuotaField.PREEMPT_TIMEOUT_US,
)
_NOTHING = TileQuota()
_ANY_WRITE = 0o222
_WHY = {
    errno.E2BIG: "more than the GPU has",
    errno.EDQUOT: "more than there is for VFs",
    errno.ENOSPC: "more than is left for VFs",
    errno.ERANGE: "more than the file can hold",
    errno.EBUSY: "the VF is enabled, or the kernel driver is still initialising the GPU",
    errno.EPERM: "the kernel driver does not allow it",
    errno.EOPNOTSUPP: "the GPU does not have it",
    errno.EIO: "the GPU does not answer as it should; it may be wedged",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """One writable quota of all VFs on one tile."""

    field: QuotaField
    path: VfPath


def set_vf_profile(action: SetVfProfile, host: ApplyHost) -> None:
    """Write the quotas of the first ``count`` VFs, and clear those of all others.

    What is in the way is cleared first (VFs beyond ``count``, other values than wanted), so that the new quotas
    find their room in one piece. Quotas that this GPU does not have, or only shows, are left out. Raises
    ApplyFailed, also when VFs are enabled.
    """
    places = _writable(_locate(action.address, host))
    if not places:
        why = "the kernel driver lets nobody set what VFs get"
        raise ApplyFailed(path=host.function(action.address), why=why)
    require_no_vfs(action.address, host)
    for vf in range(_total(action.address, host)):
        _clear(vf, places, action.quota if vf < action.count else _NOTHING, host)
    for vf in range(action.count):
        for place in places:
            value = _value(action.quota, place.field)
            if value is not None:
                host.write(place.path.of(vf), str(value), _WHY)
    _verify(action, places)


def reset_provisioning(address: PciAddress, host: ApplyHost) -> None:
    """Clear all quotas and let the driver provision by itself again. Raises ApplyFailed, also with VFs enabled.

    A GPU whose driver has no files for quotas is as it should be.
    """
    files = _locate(address, host)
    if files is None:
        return
    require_no_vfs(address, host)
    places = _writable(files)
    for vf in range(_total(address, host)):
        _clear(vf, places, _NOTHING, host)
    if files.restore is not None:
        host.write(files.restore, "1")
    if files.automatic is not None and host.read(files.automatic) == "0":
        _make_automatic(files.automatic, places, _total(address, host), host)


def _verify(action: SetVfProfile, places: tuple[_Place, ...]) -> None:
    """Raise ApplyFailed if a quota reads as another layout's: written again and again it would not get better."""
    for vf in range(action.count):
        for place in places:
            value, path = _value(action.quota, place.field), place.path.of(vf)
            found = sysfs.read_int(path)
            if value is not None and isinstance(found, int) and not _as_wanted(place.field, found, value):
                raise ApplyFailed(path=path, why=f"reads {found} afterwards", value=str(value))


def _make_automatic(path: str, places: tuple[_Place, ...], total: int, host: ApplyHost) -> None:
    try:
        host.write(path, "1")
    except ApplyFailed as failed:
        if failed.errno != errno.ESTALE:
            raise
        left = next(_still_set(places, total), "some quota")
        why = f"{left} is still set"
        raise ApplyFailed(path=path, why=why, errno=failed.errno, value="1") from failed.__cause__


def _still_set(places: tuple[_Place, ...], total: int) -> Iterator[str]:
    for vf in range(total):
        for place in places:
            if sysfs.read_int(place.path.of(vf)):
                yield f"{place.field.value} of VF {vf} ({place.path.of(vf)})"


def _locate(address: PciAddress, host: ApplyHost) -> QuotaFiles | None:
    directory = host.function(address)
    files = locate(host.roots.sysfs, directory, address, host.driver(address))
    if isinstance(files, Unreadable):
        raise ApplyFailed(path=files.path, why=files.why)
    return files


def _writable(files: QuotaFiles | None) -> tuple[_Place, ...]:
    """The quotas that can be written, tile by tile in the order to write them.

    A read-only one is told by its mode: root passes access(2) for it. All VFs have the files that the first has.
    """
    tiles = () if files is None else files.tiles
    places = (_Place(field=field, path=tile[field]) for tile in tiles for field in _ORDER if field in tile)
    return tuple(place for place in places if _has_write_bit(place.path.of(0)))


def _has_write_bit(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & _ANY_WRITE)
    except OSError as error:
        raise ApplyFailed(path=path, why=os.strerror(error.errno or errno.EIO), errno=error.errno) from error


def _clear(vf: int, places: tuple[_Place, ...], wanted: TileQuota, host: ApplyHost) -> None:
    """Write 0 to what is set and is not as wanted. What can't be read may be set (xe: tiles that differ)."""
    for place in places:
        path = place.path.of(vf)
        found = sysfs.read_int(path)
        if found is None or found == 0:  # none: the driver has fewer VFs than the hardware
            continue
        value = _value(wanted, place.field)
        if isinstance(found, Unreadable) or value is None or not _as_wanted(place.field, found, value):
            host.write(path, "0", _WHY)


def _as_wanted(field: QuotaField, found: int, wanted: int) -> bool:
    return satisfies(TileQuota(**{field.value: found}), TileQuota(**{field.value: wanted}))


def _value(quota: TileQuota, field: QuotaField) -> int | None:
    match field:
        case QuotaField.CONTEXTS:
            return quota.contexts
        case QuotaField.DOORBELLS:
            return quota.doorbells
        case QuotaField.EXEC_QUANTUM_MS:
            return quota.exec_quantum_ms
        case QuotaField.PREEMPT_TIMEOUT_US:
            return quota.preempt_timeout_us
        case QuotaField.GGTT:
            return quota.ggtt
        case QuotaField.LMEM:
            return quota.lmem


def _total(address: PciAddress, host: ApplyHost) -> int:
    return host.read_number(f"{host.function(address)}/sriov_totalvfs")
