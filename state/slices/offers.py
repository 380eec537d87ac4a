"""What schedulers are to be offered of one GPU, were nothing of it in use.

- dynamic: one device for each mode. All take the GPU's only token, so that the first to be allocated shuts the
  others out, and nothing has to be published anew for that.
- counter-free: one device that can be divided.
- pinned: the whole GPU, or the VFs of the one layout that a person fixed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from state.manifest import Layout, OverrideDriver, OverrideMode
from state.profiles import Profile
from state.slices.devices import any_vf, divisible, named_vf, shared, whole
from state.slices.gpus import find_profile, offered_profiles, total_vfs
from state.slices.model import Device
from state.slices.view import View, mode_of_override
from state.status import DeviceStatus

_VFIO = (OverrideDriver.VFIO, OverrideDriver.XE_VFIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Devices in the order in which they are to be taken. ``exclusive``: only as they are, and not beside
    anything else of this GPU; else the token keeps them apart.
    """

    devices: tuple[Device, ...]
    exclusive: bool


NOTHING = Offer(devices=(), exclusive=True)


def offer_of(gpu: DeviceStatus, view: View) -> Offer:
    """What is to be offered of a GPU, besides its monitor."""
    if gpu.sriov is not None and gpu.sriov.enabled and gpu.sriov.owner == "foreign":
        return NOTHING  # until a person fixes exactly this layout, and with that makes it ours
    override = view.override_of(gpu.name) if view.is_wished_by_people(gpu.name) else None
    if override is None:
        return _managed(gpu, view, None)
    if override.kernel_driver in _VFIO:
        return Offer(devices=(whole(gpu),), exclusive=True)
    if mode_of_override(gpu) is not OverrideMode.FIXED:
        return _managed(gpu, view, None)
    if override.virtual_functions is None:
        return _managed(gpu, view, ())
    profile = find_profile(gpu, override.virtual_functions.profile, view.table)
    if profile is None:
        return NOTHING
    vfs = tuple(named_vf(gpu, profile, index) for index in range(profile.count))
    return Offer(devices=vfs, exclusive=True)


def _managed(gpu: DeviceStatus, view: View, profiles: tuple[Profile, ...] | None) -> Offer:
    """As the policy says; ``profiles`` instead of the policy's."""
    layout = view.layout
    if layout is Layout.PINNED:
        return Offer(devices=(whole(gpu),), exclusive=True)
    if layout is Layout.COUNTER_FREE or not total_vfs(gpu):
        return Offer(devices=(divisible(gpu),), exclusive=True)
    if profiles is None:
        profiles = offered_profiles(gpu, view.policy.profiles, view.table)
    return Offer(devices=tuple(_modes(gpu, view, profiles)), exclusive=False)


def _modes(gpu: DeviceStatus, view: View, profiles: tuple[Profile, ...]) -> Iterable[Device]:
    standing = "" if gpu.sriov is None else gpu.sriov.layout
    for profile in profiles:
        waits = view.waits_for_vfs and profile.name != standing
        yield replace(any_vf(gpu, profile, binding=waits), counter_set=gpu.name)
    if view.policy.shared_memory is not False:
        yield replace(shared(gpu), counter_set=gpu.name)
    yield replace(whole(gpu), counter_set=gpu.name)
