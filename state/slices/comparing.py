"""The writes that bring a node's slices from what they are to what they should be.

Of a pool only slices of the newest generation count, and only once there are as many as each of them says. So a
change within one slice is written there alone. A change of the set of slices, of counters or of devices' places
begins a new generation in all of them: until the last is written nothing of the pool is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from state.slices.model import LiveSlice, Slice

Stands = Callable[[LiveSlice, Slice], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Make a slice."""

    slice: Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Put a slice in the place of exactly this one."""

    slice: Slice
    over: LiveSlice


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete exactly this slice."""

    over: LiveSlice


Write = Create | Replace | Delete


def is_same(live: LiveSlice, wanted: Slice) -> bool:
    """Whether a slice means what it should, however it is written."""
    return live.intact and live.content == wanted


def compare(
    live: Mapping[str, LiveSlice], slices: tuple[Slice, ...], stands: Stands = is_same
) -> tuple[Write, ...]:
    """The writes in order: counters, devices, then deletions. ``live`` are all slices of our driver, by name.

    ``stands`` says whether a slice needs no write, perhaps because the server keeps it otherwise.
    """
    wanted = _numbered(live, slices)
    writes: list[Write] = []
    for each in sorted(wanted, key=lambda each: (not each.counters, each.name)):
        over = live.get(each.name)
        if over is None:
            writes.append(Create(slice=each))
        elif _is_elsewhere(over, each):
            writes += (Delete(over=over), Create(slice=each))
        elif not stands(over, each):
            writes.append(Replace(slice=each, over=over))
    names = {each.name for each in wanted}
    writes += (Delete(over=live[name]) for name in sorted(live.keys() - names))
    return tuple(writes)


def _is_elsewhere(live: LiveSlice, wanted: Slice) -> bool:
    """Whether the name is taken by a slice whose node or driver is another: these can't be changed."""
    there, here = live.content.pool, wanted.pool
    return (there.driver, there.node) != (here.driver, here.node)


def _numbered(live: Mapping[str, LiveSlice], slices: tuple[Slice, ...]) -> tuple[Slice, ...]:
    generation = _generation(live, slices)
    return tuple(
        replace(each, pool=replace(each.pool, generation=generation, count=len(slices))) for each in slices
    )


def _generation(live: Mapping[str, LiveSlice], slices: tuple[Slice, ...]) -> int:
    """The newest generation there is, as long as what is there of it goes with what is wanted."""
    if not live:
        return 1
    newest = max(each.content.pool.generation for each in live.values())
    at_newest = [each.content for each in live.values() if each.content.pool.generation == newest]
    wanted = {each.name: each for each in slices}
    home = {device.name: each.name for each in slices for device in each.devices}
    goes_on = all(
        there.name in wanted
        and there.pool.count == len(slices)
        and there.counters == wanted[there.name].counters
        and all(home.get(device.name, there.name) == there.name for device in there.devices)
        for there in at_newest
    )
    return newest if goes_on else newest + 1
