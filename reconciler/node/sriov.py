"""SR-IOV of a GPU: how many VFs there can be and are, and how they are provisioned."""

from __future__ import annotations

import re
from collections.abc import Callable

from reconciler.node import sysfs
from reconciler.node.provisioning_paths import QuotaField, QuotaFiles, locate
from state.ids import PciAddress, parse_pci_address
from state.observed import FunctionSeen, ProvisioningSeen, SriovSeen, Unreadable, VfSeen
from state.profiles import TileQuota

_VIRTFN = re.compile(r"virtfn([0-9]{1,5})")


def vf_links(directory: str, entries: frozenset[str]) -> tuple[tuple[int, PciAddress], ...] | Unreadable:
    """Index and address of each VF that exists, in order. ``entries`` are the names in ``directory``."""
    links = []
    for index, name in sorted((int(match[1]), match[0]) for match in map(_VIRTFN.fullmatch, entries) if match):
        target = sysfs.link_name(f"{directory}/{name}")
        if isinstance(target, Unreadable):
            return target
        if target is None:
            continue  # gone since the directory was listed
        try:
            links.append((index, parse_pci_address(target)))
        except ValueError:
            return sysfs.malformed(f"{directory}/{name}", "a link to a PCI function", target)
    return tuple(links)


def read_sriov(
    sysfs_root: str,
    directory: str,
    address: PciAddress,
    driver: str | None,
    links: tuple[tuple[int, PciAddress], ...],
    read_function: Callable[[PciAddress], FunctionSeen | None],
) -> SriovSeen | Unreadable | None:
    """SR-IOV as seen now; None without the capability.

    Blocks while somebody writes ``sriov_numvfs`` of this GPU, as the kernel makes readers wait.
    """
    numbers = []
    for name, default in (("sriov_totalvfs", None), ("sriov_numvfs", 0), ("sriov_drivers_autoprobe", 1)):
        number = sysfs.read_int(f"{directory}/{name}")
        if isinstance(number, Unreadable):
            return number
        if number is None and default is None:
            return None
        if number is not None and not 0 <= number <= 0xFFFF:
            return sysfs.malformed(f"{directory}/{name}", "a number from 0 to 65535", str(number))
        numbers.append(default if number is None else number)
    total, enabled, autoprobe = (number or 0 for number in numbers)
    provisioning = _provisioning(sysfs_root, directory, address, driver, total, enabled)
    if isinstance(provisioning, Unreadable):
        return provisioning
    return SriovSeen(
        total=total,
        enabled=enabled,
        autoprobe=bool(autoprobe),
        vfs=tuple(
            VfSeen(index=index, function=function)
            for index, vf in links
            if (function := read_function(vf)) is not None
        ),
        provisioning=provisioning,
    )


def _provisioning(
    sysfs_root: str, directory: str, address: PciAddress, driver: str | None, total: int, enabled: int
) -> ProvisioningSeen | Unreadable | None:
    if total == 0:
        return None
    files = locate(sysfs_root, directory, address, driver)
    if files is None or isinstance(files, Unreadable):
        return files
    automatic = None if files.automatic is None else _read_switch(files.automatic)
    if isinstance(automatic, Unreadable):
        return automatic
    quotas = () if automatic else read_quotas(files, total, enabled=enabled)
    if isinstance(quotas, Unreadable):
        return quotas
    return ProvisioningSeen(
        provisioner=files.provisioner,
        tiles=len(files.tiles),
        quotas_writable=files.writable,
        automatic=automatic,
        quotas=quotas,
    )


def read_quotas(files: QuotaFiles, total: int, *, enabled: int) -> tuple[tuple[TileQuota, ...], ...] | Unreadable:
    """What VFs 0 to ``total`` - 1 have: the first VF in full, the others in one telling field of tile 0.

    While none is enabled, those that have anything are read in full too: whoever set their quotas may have been
    killed half-way, and VFs must not be enabled with some of them missing.
    """
    telling = next((field for field in (QuotaField.LMEM, QuotaField.GGTT) if field in files.tiles[0]), None)
    unread = (TileQuota(),) * (len(files.tiles) - 1)
    quotas: list[tuple[TileQuota, ...]] = []
    for vf in range(total):
        tiles = [_read_tile(files, vf, 0, (telling,) if telling else ()), *unread]
        if vf == 0 or (not enabled and isinstance(tiles[0], TileQuota) and not tiles[0].is_empty()):
            tiles = [_read_tile(files, vf, tile, tuple(QuotaField)) for tile in range(len(files.tiles))]
        good = []
        for tile in tiles:
            if not isinstance(tile, TileQuota):
                return tuple(quotas) if tile is None else tile
            good.append(tile)
        quotas.append(tuple(good))
    return tuple(quotas)


def _read_tile(
    files: QuotaFiles, vf: int, tile: int, fields: tuple[QuotaField, ...]
) -> TileQuota | Unreadable | None:
    """None when the VF's files are not there: the driver has fewer VFs than the hardware."""
    values = {}
    for field in fields:
        path = files.path(vf, tile, field)
        if path is not None:
            value = sysfs.read_int(path)
            if not isinstance(value, int):
                return value
            values[field.value] = value
    return TileQuota(**values)


def _read_switch(path: str) -> bool | Unreadable | None:
    text = sysfs.read(path)
    if not isinstance(text, str):
        return text
    if text not in ("0", "1"):
        return sysfs.malformed(path, "0 or 1", text)
    return text == "1"
