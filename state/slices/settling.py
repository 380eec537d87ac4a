"""From what is offered of a GPU now to what should be: without ever offering anything twice.

A device that a claim has stays. One that is to go is first tainted, and dropped when the controller has confirmed
that no claim has it: dropping one that has just been allocated would make its GPU look free. Where no token keeps
the new devices and the old ones apart, the new ones come only when the old ones are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from state.slices.model import Device
from state.slices.offers import NOTHING, Offer, offer_of
from state.slices.rebuilding import rebuilt
from state.slices.tainting import ABSENT, WITHDRAWN, taints_of
from state.slices.view import View, gpu_of
from state.status import DeviceStatus

_UNREADABLE = "Unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Devices to be published now, and the names of those that need a withdrawal to get on."""

    devices: tuple[Device, ...] = ()
    withdrawing: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """One GPU: ``wanted`` is offered from now on, ``leaving`` was until now; both by name, without taints.

    ``dropped`` are gone, but the controller has not confirmed that nobody has them.
    """

    wanted: Mapping[str, Device]
    leaving: Mapping[str, Device]
    held: frozenset[str]
    dropped: frozenset[str]


def settled(gpu: DeviceStatus, live: Mapping[str, Device], held: frozenset[str], view: View) -> Settled:
    """What to publish of a GPU, besides its monitor: ``live`` and ``held`` are its devices there are, and those
    that claims have.
    """
    bare = {name: device.with_taints(()) for name, device in live.items()}
    offer = _offer(gpu, bare, view)
    wanted = {device.name: device for device in offer.devices}
    lost = sorted(held - live.keys())
    known = bare | {name: device for name in lost if (device := rebuilt(name, gpu, view)) is not None}
    leaving = {
        name: device for name, device in known.items() if name not in wanted or not wanted[name].goes_with(device)
    }
    change = _Change(wanted=wanted, leaving=leaving, held=held, dropped=_dropped(gpu, live, held, view))
    token_keeps_apart = not offer.exclusive and all(each.counter_set == gpu.name for each in known.values())
    result = _beside(change, view) if token_keeps_apart else _one_after_the_other(change, view)
    return _tainted(result, gpu, held, view)


def _dropped(gpu: DeviceStatus, live: Mapping[str, Device], held: frozenset[str], view: View) -> frozenset[str]:
    """Devices that had to be dropped at once, and that somebody may have all the same."""
    names = (name for name in view.tokens if gpu_of(name) == gpu.name)
    return frozenset(
        name for name in names if name not in live and name not in held and not view.is_confirmed(name)
    )


def _offer(gpu: DeviceStatus, live: Mapping[str, Device], view: View) -> Offer:
    """The offer, but no other than before because something can't be seen for a while."""
    if any(sick.cause == _UNREADABLE for sick in gpu.sickness):
        apart = all(device.counter_set == gpu.name for device in live.values())
        return Offer(devices=tuple(live.values()), exclusive=not apart) if live else NOTHING
    offer = offer_of(gpu, view)
    if gpu.original_driver is None and not gpu.changing:
        return offer
    # Bound to another driver, a GPU tells less about itself.
    devices = (
        replace(live[each.name], binding=each.binding)
        if each.name in live and each.goes_with(live[each.name])
        else each
        for each in offer.devices
    )
    return replace(offer, devices=tuple(devices))


def _beside(change: _Change, view: View) -> Settled:
    """The token keeps old and new apart, so each device goes when it may."""
    stays = {
        name: device.with_taints((WITHDRAWN,))
        for name, device in change.leaving.items()
        if name in change.held or not view.is_confirmed(name)
    }
    new = {name: device for name, device in change.wanted.items() if name not in stays}
    return Settled(
        devices=(*new.values(), *stays.values()), withdrawing=frozenset(change.leaving.keys() - change.held)
    )


def _one_after_the_other(change: _Change, view: View) -> Settled:
    """New devices come when all that are leaving are gone."""
    free = change.leaving.keys() - change.held
    waits = change.leaving.keys() & change.held or change.dropped or not all(map(view.is_confirmed, free))
    if not waits:
        return Settled(devices=tuple(change.wanted.values()), withdrawing=frozenset(free))
    offered = view.live_devices().keys()
    same = (device for name, device in change.wanted.items() if name in offered and name not in change.leaving)
    stays = tuple(
        device
        for device in (*change.leaving.values(), *same)
        if device.name in change.held or _is_safe_beside_others(device, view)
    )
    if not view.capabilities.counters:
        stays = tuple(replace(device, counter_set="") for device in stays)
    return Settled(
        devices=tuple(device.with_taints((WITHDRAWN,)) for device in stays),
        withdrawing=frozenset(free) | change.dropped,
    )


def _is_safe_beside_others(device: Device, view: View) -> bool:
    """Whether a device that nobody has may stay for a while; else it is dropped at once."""
    return view.capabilities.taints and (view.capabilities.counters or not device.counter_set)


def _tainted(result: Settled, gpu: DeviceStatus, held: frozenset[str], view: View) -> Settled:
    taints = taints_of(gpu, view)
    if view.capabilities.taints:
        devices = tuple(device.with_taints((*device.taints, *taints)) for device in result.devices)
    else:
        # What can't be tainted is not offered, unless somebody has it.
        offered = (device for device in result.devices if not taints or device.name in held)
        devices = tuple(device.with_taints(()) for device in offered)
    return replace(result, devices=devices)


def settled_without_gpu(live: Mapping[str, Device], held: frozenset[str], view: View) -> Settled:
    """What to publish of a GPU that is not there any more: what claims have of it, and what that excludes."""
    kept = [device for name, device in live.items() if name in held]
    if any(device.counter_set for device in kept) and view.capabilities.taints:
        kept = list(live.values())
    taints = (ABSENT,) if view.capabilities.taints else ()
    return Settled(devices=tuple(device.with_taints(taints) for device in kept))
