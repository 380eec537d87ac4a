"""A ResourceSlice as far as it matters to us: what is written, and what is compared with what is there.

Quantities are whole numbers here (bytes, thousandths, counts), so that ``16384Mi`` and ``16Gi`` are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

MODE: Final = "mode"
"""The one counter of a GPU: whichever of its modes is allocated first takes it, and the others are out."""

Value = str | int | bool
"""An attribute's value; texts have at most 64 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """An amount of something. With a ``default`` it is divided: an allocation takes what it asked for, rounded up
    to one of ``allowed`` or to a step from ``least``, or else the default.
    """

    value: int
    default: int | None = None
    allowed: tuple[int, ...] = ()
    least: int | None = None
    most: int | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Taint:
    """Keeps claims that don't tolerate it away; with ``NoExecute`` those that have the device lose it."""

    key: str
    effect: str = "NoSchedule"
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One allocatable device. ``multiple`` allocations may share it; ``counter_set`` is the GPU whose mode token
    it takes. ``binding``: pods wait for our condition before they are bound.
    """

    name: str
    attributes: tuple[tuple[str, Value], ...] = ()
    capacity: tuple[tuple[str, Capacity], ...] = ()
    multiple: bool = False
    counter_set: str = ""
    taints: tuple[Taint, ...] = ()
    binding: bool = False

    def attribute(self, name: str) -> Value | None:
        """The value of an attribute, if it has that."""
        return dict(self.attributes).get(name)

    def with_taints(self, taints: Iterable[Taint]) -> Device:
        """The device with exactly these taints."""
        return replace(self, taints=tuple(sorted(set(taints))))

    def goes_with(self, other: Device) -> bool:
        """Whether one may replace the other while it is allocated: it is counted in the same way."""
        return (self.name, self.multiple, self.counter_set) == (other.name, other.multiple, other.counter_set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Which pool a slice belongs to: ours are named after their nodes. Of several generations only the newest
    counts, and only once all ``count`` slices of it are there.
    """

    driver: str
    node: str
    generation: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One ResourceSlice: ``counters`` are names of GPUs that have a mode token in it."""

    name: str
    pool: Pool
    counters: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSlice:
    """A slice as the API server has it, with what identifies this state of it.

    ``intact`` is False where it holds something that we would not have written: it is written anew.
    """

    content: Slice
    uid: str
    resource_version: str
    intact: bool = True
