"""What a GPU can be split into, by its status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from state.profiles import Ecc, Profile, ProfileTable, fair_share
from state.status import DeviceStatus


def device_id(gpu: DeviceStatus) -> int:
    """The PCI device id."""
    return int(gpu.pci_id, 16)


def total_vfs(gpu: DeviceStatus) -> int:
    """The most VFs it can have; 0 for those that are never split: integrated ones, and those without SR-IOV."""
    return 0 if gpu.sriov is None or gpu.integrated else gpu.sriov.total


def find_profile(gpu: DeviceStatus, name: str, table: ProfileTable) -> Profile | None:
    """A profile this GPU can have, by name or mode; None where it has too many VFs or needs quotas that can't be
    set.
    """
    profile = table.find(device_id(gpu), name, total_vfs=total_vfs(gpu))
    if profile is not None and profile.quota is not None and not (gpu.sriov and gpu.sriov.quotas):
        return None
    return profile


def offered_profiles(gpu: DeviceStatus, modes: Sequence[str] | None, table: ProfileTable) -> tuple[Profile, ...]:
    """The profiles to offer, smallest VF first: schedulers take the first that is big enough.

    ``modes`` are those of the policy; None stands for the model's table, or without one for some equal shares.
    """
    if modes is None:
        known = [each.mode for each in table.of(device_id(gpu)) if gpu.sriov and gpu.sriov.quotas]
        modes = known or [fair_share(count).mode for count in _shares(total_vfs(gpu))]
    found = {profile for mode in modes if (profile := find_profile(gpu, mode, table)) and profile.mode == mode}
    return tuple(sorted(found, key=lambda profile: (-profile.count, profile.mode)))


def _shares(total: int) -> Iterable[int]:
    """1, 2, 4 … and all."""
    count = 1
    while count < total:
        yield count
        count *= 2
    if total:
        yield total


def vf_memory(gpu: DeviceStatus, profile: Profile) -> int | None:
    """Bytes of local memory of one VF; None when that is unknown."""
    # A BAR is only a lower bound, from which no VF's share follows.
    exact = gpu.memory is not None and gpu.memory.source != "bar"
    measured = gpu.memory.bytes if gpu.memory is not None and exact else None
    ecc = next((known for known in Ecc if known.value == gpu.ecc), Ecc.UNKNOWN)
    return profile.vf_memory(tiles=gpu.tiles, ecc=ecc, measured=measured)
