"""Which CDI spec files to write and to remove."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from state.actions import RemoveCdiSpec, WriteCdiSpec
from state.cdi import CdiDevice, file_name, key_of, render
from state.desired import Entry, Origin
from state.ids import DeviceName
from state.observed import CdiFileSeen, Unreadable
from state.readiness import DeviceState, Readiness
from state.records import AppliedDevice
from state.usage import gpus_of


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryState:
    """How an entry stands: what is ``missing`` of its devices, the CDI names it has, whether its file is right.

    ``unsure``: its devices can't be judged now, so that neither may its file be touched.
    """

    missing: str | None
    cdi_devices: tuple[str, ...] = ()
    written: bool = False
    unsure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CdiPlan:
    """Files to remove and to write, and how each served entry stands.

    ``stale`` has for each GPU the files to be removed that name a device of it: they go before the GPU is
    changed. ``standing`` has the other files that name a VF of it. ``blocked`` says why there is nothing to
    remove or write: the directory can't be read.
    """

    removals: tuple[RemoveCdiSpec, ...] = ()
    writes: tuple[WriteCdiSpec, ...] = ()
    states: Mapping[str, EntryState]
    stale: Mapping[DeviceName, tuple[str, ...]] = field(default_factory=dict)
    standing: Mapping[DeviceName, tuple[str, ...]] = field(default_factory=dict)
    blocked: str | None = None


def plan_cdi(
    served: Iterable[Entry],
    seen: tuple[CdiFileSeen, ...] | Unreadable,
    readiness: Readiness,
    applied: Mapping[str, tuple[AppliedDevice, ...]],
    *,
    devfs: str,
    kept: Callable[[str], bool],
) -> CdiPlan:
    """Compare the spec files there are with those the served entries need.

    A file whose devices are not there any more is removed: its numbers may belong to another GPU by now. Files
    of entries that are ``kept`` (by key: held by claims, or refused with something in force) stay as they are.
    """
    files = {} if isinstance(seen, Unreadable) else {file.name: file for file in seen}
    states: dict[str, EntryState] = {}
    writes: list[WriteCdiSpec] = []
    removals: list[RemoveCdiSpec] = []
    standing: dict[DeviceName, tuple[str, ...]] = {}
    for entry in served:
        file = file_name(entry.key)
        there = files.pop(file, None)
        state, content = _judge(entry, there, readiness, devfs)
        states[entry.key] = state
        if there is not None and state.missing is None:
            for pf in sorted({device.logical.pf for device in entry.devices if device.slot.is_vf}):
                standing[pf] = (*standing.get(pf, ()), file)
        if state.written or state.unsure:
            continue
        pf = entry.devices[0].logical.pf
        if state.missing is None:
            writes.append(WriteCdiSpec(file=file, pf=pf, content=content, allocation=str(entry)))
        elif there is not None and not kept(entry.key):
            removals.append(RemoveCdiSpec(file=file, pf=pf, why="its devices are not there"))
    for name in files:
        if not kept(key_of(name)):
            pfs = sorted(gpus_of(applied.get(key_of(name), ())))
            removals.append(RemoveCdiSpec(file=name, pf=pfs[0] if pfs else None, why="nobody wants it"))
    if isinstance(seen, Unreadable):
        return CdiPlan(states=states, blocked=f"CDI spec files can't be read: {seen}")
    removals.sort(key=lambda removal: removal.file)
    writes.sort(key=lambda write: write.file)
    stale = _stale(removals, applied)
    return CdiPlan(removals=tuple(removals), writes=tuple(writes), states=states, stale=stale, standing=standing)


def _judge(entry: Entry, there: CdiFileSeen | None, readiness: Readiness, devfs: str) -> tuple[EntryState, bytes]:
    """How an entry stands, and the file it should have if its devices are there."""
    if not entry.devices:
        return EntryState(missing=None, written=True), b""
    devices = [readiness.of(device) for device in entry.devices]
    unsure = next((device.unsure for device in devices if device.unsure is not None), None)
    missing = next((device.missing for device in devices if device.missing is not None), None)
    if missing is not None:
        return EntryState(missing=missing, unsure=unsure is not None), b""
    cdi_devices = _cdi_devices(entry, devices)
    content = render(cdi_devices, devfs=devfs)
    if there is None or there.content != content:
        return EntryState(missing=unsure, unsure=unsure is not None), content
    names = tuple(device.qualified for device in cdi_devices)
    return EntryState(missing=None, cdi_devices=names, written=True), content


def _stale(
    removals: Iterable[RemoveCdiSpec], applied: Mapping[str, tuple[AppliedDevice, ...]]
) -> dict[DeviceName, tuple[str, ...]]:
    stale: dict[DeviceName, tuple[str, ...]] = {}
    for removal in removals:
        pfs = gpus_of(applied.get(key_of(removal.file), ()))
        for pf in pfs if removal.pf is None else pfs | {removal.pf}:
            stale[pf] = (*stale.get(pf, ()), removal.file)
    return stale


def _cdi_devices(entry: Entry, states: list[DeviceState]) -> list[CdiDevice]:
    """One CDI device for each device, so that runtimes can inject them per request; and people's by name."""
    devices = [CdiDevice(name=f"{entry.key}-{index}", nodes=state.nodes) for index, state in enumerate(states)]
    if entry.origin is Origin.MANUAL:
        everything = tuple(node for state in states for node in state.nodes)
        devices.append(CdiDevice(name=entry.name, nodes=everything))
    return devices
