"""GPUs and wishes in a few words: how a GPU is set up, and who wants it so."""

from __future__ import annotations

from collections import Counter

from reconciler.cli.output import counted
from state.desired import Desired
from state.ids import DeviceName
from state.layouts import layout_of
from state.observed import Changing, PfSeen, SriovSeen, Unreadable
from state.planning import NotSynced
from state.profiles import ProfileTable


def setup(seen: PfSeen | Changing, table: ProfileTable) -> str:
    """``i915, 4 VFs (flex170_m4)``: the driver, the VFs, and the drivers of those that have another one."""
    gpu = seen.last if isinstance(seen, Changing) else seen
    words = [_driver(gpu.function.driver)]
    if isinstance(gpu.sriov, Unreadable):
        words.append("VFs unreadable")
    elif gpu.sriov is not None and gpu.sriov.total:
        words.append(_vfs(gpu, gpu.sriov, table))
        words += _other_drivers(gpu, gpu.sriov)
    return ", ".join(words)


def wishes(pf: DeviceName, desired: Desired | NotSynced) -> tuple[str, ...]:
    """Who wants something of this GPU, each in words; empty when nobody does."""
    if isinstance(desired, NotSynced):
        return ()
    found = []
    override = desired.overrides.get(pf)
    if override is not None:
        wanted = [override.profile.name] if override.profile is not None else []
        wanted += [override.driver] if override.driver is not None else []
        reason = f" ({override.reason})" if override.reason else ""
        found.append(" ".join(["override", override.mode.value, *wanted]) + reason)
    for entry in desired.entries:
        devices = [str(device.logical) for device in entry.devices if device.logical.pf == pf]
        if devices:
            found.append(f"{entry} wants {', '.join(devices)}")
    return tuple(found)


def _driver(driver: str | Unreadable | None) -> str:
    if isinstance(driver, Unreadable):
        return "driver unreadable"
    return driver or "no driver"


def _vfs(gpu: PfSeen, sriov: SriovSeen, table: ProfileTable) -> str:
    if not sriov.enabled:
        return "no VFs"
    layout = layout_of(gpu, table)
    return f"{counted(sriov.enabled, 'VF', 'VFs')} ({layout.name if layout is not None else 'no known profile'})"


def _other_drivers(gpu: PfSeen, sriov: SriovSeen) -> list[str]:
    """``VF 1 on vfio-pci``; many on the same driver are counted."""
    drivers = {vf.index: _driver(vf.function.driver) for vf in sriov.vfs}
    others = {index: driver for index, driver in drivers.items() if driver != gpu.drm_driver}
    count = Counter(others.values())
    words = [f"VF {index} on {driver}" for index, driver in sorted(others.items()) if count[driver] == 1]
    return words + [f"{number} VFs on {driver}" for driver, number in sorted(count.items()) if number > 1]
