"""The VF layouts a GPU could have."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from state.profiles import Ecc, Profile, ProfileTable, fair_share
from state.status import DeviceStatus


class LayoutOffer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One way to split a GPU: what each VF gets. ``memory`` in bytes, None where unknown."""

    profile: str
    vfs: int
    memory: int | None
    millicores: int
    current: bool


def layouts_for(gpu: DeviceStatus, table: ProfileTable, *, quotas_writable: bool) -> tuple[LayoutOffer, ...]:
    """Table profiles that fit, where quotas can be set, and some of the equal shares (any ``fs<n>`` would do)."""
    if gpu.sriov is None:
        return ()
    known = table.of(_device_id(gpu)) if quotas_writable else ()
    profiles = [profile for profile in known if profile.count <= gpu.sriov.total]
    profiles += _shares(gpu.sriov.total)
    return tuple(_offer(gpu, profile) for profile in profiles)


def _device_id(gpu: DeviceStatus) -> int:
    try:
        return int(gpu.pci_id, 16)
    except ValueError:
        return 0  # no status file of ours, and no model has this one


def _shares(total: int) -> Iterable[Profile]:
    count = 1
    while count < total:
        yield fair_share(count)
        count *= 2
    yield fair_share(total)


def _offer(gpu: DeviceStatus, profile: Profile) -> LayoutOffer:
    # A BAR is only a lower bound, from which no VF's share follows.
    exact = gpu.memory is not None and gpu.memory.source != "bar"
    measured = gpu.memory.bytes if gpu.memory is not None and exact else None
    ecc = next((known for known in Ecc if known.value == gpu.ecc), Ecc.UNKNOWN)
    return LayoutOffer(
        profile=profile.name,
        vfs=profile.count,
        memory=profile.vf_memory(tiles=gpu.tiles, ecc=ecc, measured=measured),
        millicores=profile.millicores,
        current=gpu.sriov is not None and gpu.sriov.layout == profile.name,
    )
