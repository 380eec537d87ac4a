"""Devices into slices, within the server's limits.

Schedulers go through slices by name and through devices by place, and take the first that fits. So the order is
kept: GPU by GPU, monitors last. It doesn't depend on what is in use, lest every allocation move devices about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import TypeVar

from state.slices.capabilities import Capabilities
from state.slices.model import Device, Pool, Slice

SETS_PER_SLICE = 8
"""Counter sets in one slice of their own."""
COUNTERS_PER_SLICE = 32
"""Counters in one slice, where they stand beside the devices: one for each GPU."""

_LONGEST_NAME = 253
T = TypeVar("T")


def pack(groups: Sequence[Sequence[Device]], can: Capabilities, node: str, driver: str) -> tuple[Slice, ...]:
    """The slices of a node. ``groups`` are the devices of each GPU, and monitors.

    A pool without any device has no slices. Generation and number are filled in when they are written.
    """
    bins = list(_filled(groups, can))
    pool = Pool(driver=driver, node=node, generation=0, count=0)
    if not can.separate:
        return tuple(
            Slice(
                name=_slice_name(node, driver, f"devices-{number:02}"),
                pool=pool,
                counters=_sets(devices),
                devices=tuple(devices),
            )
            for number, devices in enumerate(bins)
        )
    sets = _sets(device for devices in bins for device in devices)
    counters = (
        Slice(name=_slice_name(node, driver, f"counters-{number:02}"), pool=pool, counters=tuple(chunk))
        for number, chunk in enumerate(_chunks(sets, SETS_PER_SLICE))
    )
    devices = (
        Slice(name=_slice_name(node, driver, f"devices-{number:02}"), pool=pool, devices=tuple(devices))
        for number, devices in enumerate(bins)
    )
    return (*counters, *devices)


def _filled(groups: Iterable[Sequence[Device]], can: Capabilities) -> Iterator[list[Device]]:
    """A GPU stays in one slice where it fits: with its counters, it must."""
    limit = can.devices_per_slice
    current: list[Device] = []
    for group in groups:
        for part in _chunks(group, limit):
            together = [*current, *part]
            if current and (len(together) > limit or len(_sets(together)) > COUNTERS_PER_SLICE):
                yield current
                together = list(part)
            current = together
    if current:
        yield current


def _sets(devices: Iterable[Device]) -> tuple[str, ...]:
    return tuple(sorted({device.counter_set for device in devices if device.counter_set}))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _slice_name(node: str, driver: str, what: str) -> str:
    """Node names may be as long as an object's name may be."""
    name = f"{node}-{driver}-{what}"
    if len(name) <= _LONGEST_NAME:
        return name
    digest = sha256(node.encode()).hexdigest()[:16]
    kept = node[: _LONGEST_NAME - len(f"-{digest}-{driver}-{what}")].rstrip("-.")
    return f"{kept}-{digest}-{driver}-{what}"
