"""What an API server can take in a ResourceSlice, found out by asking it.

A server drops fields of features that are off without a word. So a slice that has all of them is sent as a trial
(``dryRun``), and what comes back tells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from state.slices.model import Capacity, Device, Pool, Slice, Taint

SEPARATE_SINCE: Final = 35
"""Minor release from which counters and devices must be in slices of their own; before they must share one."""

CHEAP_COUNTERS_SINCE: Final = 37
"""Minor release whose scheduler doesn't slow down with counters on many nodes (kubernetes#138917)."""

_PROBE = "probe"
_MINOR = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The API version to write, the server's minor release, and which features it keeps.

    ``sharing`` is allowMultipleAllocations with request policies, ``counters`` are shared counters with their
    consumption, ``binding`` are binding conditions.
    """

    row: str
    minor: int
    taints: bool = False
    sharing: bool = False
    counters: bool = False
    binding: bool = False

    @property
    def separate(self) -> bool:
        """Whether counters go into slices of their own."""
        return self.minor >= SEPARATE_SINCE

    @property
    def dynamic(self) -> bool:
        """Whether the dynamic layout is safe: without counters all its devices could be had twice."""
        return self.taints and self.sharing and self.counters

    @property
    def devices_per_slice(self) -> int:
        """64 where a device may come to have a taint: then a slice need not be split anew for it."""
        return 64 if self.taints or self.counters else 128


def minor_of(text: str) -> int:
    """The number in ``minor`` of ``/version``, which some vendors write as ``34+``. Raises ValueError."""
    match = _MINOR.match(text)
    if match is None:
        raise ValueError(f"the server's minor version {text!r} is no number")
    return int(match[0])


def probes(node: str, driver: str, *, separate: bool) -> tuple[Slice, ...]:
    """Slices to send as a trial: all fields we could ever use."""
    device = Device(
        name=_PROBE,
        capacity=(("memory", Capacity(value=4, default=2, least=1, most=4, step=1)),),
        multiple=True,
        counter_set=_PROBE,
        taints=(Taint(key="gpu.intel.com/monitor-only"),),
        binding=True,
    )
    pool = Pool(driver=driver, node=node, generation=0, count=1)
    name = f"{_PROBE}-{driver}"
    if separate:
        return Slice(name=name, pool=pool, counters=(_PROBE,)), Slice(name=name, pool=pool, devices=(device,))
    return (Slice(name=name, pool=pool, counters=(_PROBE,), devices=(device,)),)


def judge_probes(row: str, minor: int, echoes: tuple[Slice, ...]) -> Capabilities:
    """What the server can do, by what was left of the trial slices."""
    counters = any(echo.counters for echo in echoes)
    device = next((device for echo in echoes for device in echo.devices), None)
    if device is None:
        return Capabilities(row=row, minor=minor)
    policy = any(capacity.default is not None for _, capacity in device.capacity)
    return Capabilities(
        row=row,
        minor=minor,
        taints=bool(device.taints),
        sharing=device.multiple and policy,
        counters=counters and bool(device.counter_set),
        binding=device.binding,
    )
