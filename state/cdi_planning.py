"""Which CDI spec files to write and to remove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from state.actions import RemoveCdiSpec, WriteCdiSpec
from state.cdi import CdiDevice, file_name, render
from state.desired import Entry, Origin
from state.ids import DeviceName, parse_logical_device
from state.observed import CdiFileSeen, Observed, Unreadable
from state.readiness import DeviceState, Readiness
from state.records import AppliedDevice, OwnedLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryState:
    """How an entry stands: what is ``missing`` of its devices, the CDI names it has, whether its file is right."""

    missing: str | None
    cdi_devices: tuple[str, ...] = ()
    written: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CdiPlan:
    """Files to remove and to write, and how each served entry stands. ``blocked``: the directory is unreadable."""

    removals: tuple[RemoveCdiSpec, ...] = ()
    writes: tuple[WriteCdiSpec, ...] = ()
    states: Mapping[str, EntryState]
    blocked: str | None = None

    def stale_on(self, pf: DeviceName, applied: Mapping[str, tuple[AppliedDevice, ...]]) -> tuple[str, ...]:
        """The files to remove that name a device of this GPU: they go before the GPU is changed."""
        return tuple(
            removal.file
            for removal in self.removals
            if any(_pf_of(device.device) == pf for device in applied.get(_key_of(removal.file), ()))
        )


def plan_cdi(
    served: Iterable[Entry],
    observed: Observed,
    layouts: Mapping[str, OwnedLayout],
    *,
    devfs: str,
    kept: frozenset[str],
) -> CdiPlan:
    """Compare the spec files there are with those the served entries need.

    A file whose devices are not there any more is removed: its numbers may belong to another GPU by now. Files
    of entries in ``kept`` (held by claims, or refused with something in force) stay as they are.
    """
    readiness = Readiness(gpus=observed.gpus, layouts=layouts, boot_id=observed.boot_id)
    if isinstance(observed.cdi, Unreadable):
        states = {entry.key: _state(entry, readiness) for entry in served}
        return CdiPlan(states=states, blocked=str(observed.cdi))
    files = {seen.name: seen for seen in observed.cdi}
    states = {}
    writes: list[WriteCdiSpec] = []
    removals: list[RemoveCdiSpec] = []
    for entry in served:
        file = file_name(entry.key)
        seen = files.pop(file, None)
        if not entry.devices:
            states[entry.key] = EntryState(missing=None, written=True)
            continue
        devices = [readiness.of(device) for device in entry.devices]
        missing = next((device.missing for device in devices if device.missing is not None), None)
        if missing is None:
            cdi_devices = _cdi_devices(entry, devices)
            content = render(cdi_devices, devfs=devfs)
            written = seen is not None and seen.content == content
            names = tuple(device.qualified for device in cdi_devices)
            states[entry.key] = EntryState(missing=None, cdi_devices=names, written=written)
            if not written:
                pf = entry.devices[0].logical.pf
                writes.append(WriteCdiSpec(file=file, pf=pf, content=content, allocation=str(entry)))
            continue
        states[entry.key] = EntryState(missing=missing)
        if seen is not None and entry.key not in kept:
            removals.append(_remove(seen, entry.devices[0].logical.pf, "its devices are not there"))
    removals += [
        _remove(seen, None, "nobody wants it") for name, seen in files.items() if _key_of(name) not in kept
    ]
    ordered = tuple(sorted(removals, key=lambda removal: removal.file))
    return CdiPlan(removals=ordered, writes=tuple(sorted(writes, key=lambda write: write.file)), states=states)


def _state(entry: Entry, readiness: Readiness) -> EntryState:
    devices = [readiness.of(device) for device in entry.devices]
    return EntryState(missing=next((device.missing for device in devices if device.missing is not None), None))


def _remove(seen: CdiFileSeen, pf: DeviceName | None, why: str) -> RemoveCdiSpec:
    return RemoveCdiSpec(file=seen.name, pf=pf, why=why)


def _cdi_devices(entry: Entry, states: list[DeviceState]) -> list[CdiDevice]:
    """One CDI device for each device, so that runtimes can inject them per request; and people's by name."""
    devices = [CdiDevice(name=f"{entry.key}-{index}", nodes=state.nodes) for index, state in enumerate(states)]
    if entry.origin is Origin.MANUAL:
        everything = tuple(node for state in states for node in state.nodes)
        devices.append(CdiDevice(name=entry.name, nodes=everything))
    return devices


def _key_of(file: str) -> str:
    return file.removeprefix("intel.com-gpu_").removesuffix(".json")


def _pf_of(device: str) -> DeviceName | None:
    try:
        return parse_logical_device(device).pf
    except ValueError:
        return None
