"""What a node's slices should be at this moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from state.slices.devices import monitor
from state.slices.model import Device, Slice
from state.slices.packing import pack
from state.slices.settling import Settled, settled, settled_without_gpu
from state.slices.view import View, gpu_of, is_monitor


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Slices without generation and number, and the devices for whose withdrawal the controller is needed."""

    slices: tuple[Slice, ...]
    withdrawing: frozenset[str]


def desired(view: View) -> Desired:
    """The slices of a node. Deterministic: equal views have equal slices."""
    live, held = _by_gpu(view)
    present = {gpu.name: gpu for gpu in view.status.devices}
    outcome: dict[str, Settled] = {}
    for name in sorted(present.keys() | live.keys()):
        gpu, standing, claimed = present.get(name), live.get(name, {}), held.get(name, frozenset())
        if gpu is None:
            outcome[name] = settled_without_gpu(standing, claimed, view)
        else:
            outcome[name] = settled(gpu, standing, claimed, view)
    groups = [outcome[name].devices for name in sorted(outcome)]
    if view.capabilities.taints:
        groups.append(tuple(monitor(present[name]) for name in sorted(present)))
    slices = pack(groups, view.capabilities, view.node, view.driver)
    return Desired(
        slices=tuple(replace(each, devices=_ordered(each.devices, view.order)) for each in slices),
        withdrawing=frozenset().union(*(each.withdrawing for each in outcome.values())),
    )


def _ordered(devices: tuple[Device, ...], first: tuple[str, ...]) -> tuple[Device, ...]:
    """GPUs that are to be filled up come first; each GPU's devices keep their order."""
    place = {name: number for number, name in enumerate(first)}
    return tuple(sorted(devices, key=lambda device: place.get(gpu_of(device.name) or "", len(place))))


def _by_gpu(view: View) -> tuple[Mapping[str, Mapping[str, Device]], Mapping[str, frozenset[str]]]:
    """Devices that are published, and names of those that claims have, by GPU. Monitors exclude nobody."""
    live: dict[str, dict[str, Device]] = {}
    for name, device in view.live_devices().items():
        gpu = gpu_of(name)
        if gpu is not None and not is_monitor(device) and not name.endswith("-monitor"):
            live.setdefault(gpu, {})[name] = device
    return live, _grouped(name for name in view.held() if not name.endswith("-monitor"))


def _grouped(names: Iterable[str]) -> Mapping[str, frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for name in names:
        gpu = gpu_of(name)
        if gpu is not None:
            groups.setdefault(gpu, set()).add(name)
    return {gpu: frozenset(members) for gpu, members in groups.items()}
