"""Which devices are kept from new claims, and why.

A taint is on every device of a GPU but its monitor, so that what is wrong can still be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from state.ids import Use, parse_logical_device
from state.manifest import OverrideDriver, OverrideMode
from state.slices.devices import DOMAIN
from state.slices.model import Taint
from state.slices.view import View, mode_of_override
from state.status import DeviceStatus

WITHDRAWN: Final = Taint(key=f"{DOMAIN}/withdrawn")
"""To be taken out of what is offered, as soon as no claim has it."""
RESERVED: Final = Taint(key=f"{DOMAIN}/reserved")
"""A person wants the GPU for something else, or left alone."""
RECONFIGURE_FAILED: Final = f"{DOMAIN}/reconfigure-failed"
"""Its VFs could not be made. The taint's value is the boot in which that was."""
ABSENT: Final = Taint(key=f"{DOMAIN}/health-DeviceAbsent", effect="NoExecute")

_FATAL = ("DeviceAbsent", "Wedged")
_EVICT = "NoExecute"


def taints_of(gpu: DeviceStatus, view: View) -> tuple[Taint, ...]:
    """The taints of a GPU's devices."""
    return tuple(sorted({*_of_people(gpu, view), *_of_failures(gpu, view), *_of_health(gpu)}))


def _of_people(gpu: DeviceStatus, view: View) -> Iterable[Taint]:
    mode = mode_of_override(gpu)
    if mode in (OverrideMode.DRAIN, OverrideMode.IGNORE):
        yield RESERVED
    if not view.is_wished_by_people(gpu.name):
        return
    if gpu.name in _given_by_hand(view):
        yield RESERVED
    override = view.override_of(gpu.name)
    if override is not None and not _is_bound_as(gpu, override.kernel_driver):
        yield WITHDRAWN


def _given_by_hand(view: View) -> set[str]:
    """GPUs that manual allocations have something of, other than to look on."""
    names: set[str] = set()
    for manual in view.spec.manual_allocations:
        for device in manual.devices:
            try:
                logical = parse_logical_device(device.device)
            except ValueError:
                continue  # refused, as the status says
            if logical.use is not Use.MONITOR and not device.admin_access:
                names.add(logical.pf)
    return names


def _is_bound_as(gpu: DeviceStatus, wanted: OverrideDriver | None) -> bool:
    match wanted:
        case None:
            return True
        case OverrideDriver.DRM:
            return gpu.driver in (OverrideDriver.I915.value, OverrideDriver.XE.value)
        case OverrideDriver.VFIO:
            return gpu.driver == "vfio-pci"
        case OverrideDriver.XE_VFIO:
            return gpu.driver == "xe-vfio-pci"
        case OverrideDriver.I915 | OverrideDriver.XE:
            return gpu.driver == str(wanted.value)


def _of_failures(gpu: DeviceStatus, view: View) -> Iterable[Taint]:
    if gpu.name in view.failed:
        # Where pods wait to be bound, the failed condition sends them elsewhere: nobody has to be evicted.
        effect = WITHDRAWN.effect if view.waits_for_vfs else _EVICT
        yield Taint(key=RECONFIGURE_FAILED, effect=effect, value=view.status.boot_id[:63])


def _of_health(gpu: DeviceStatus) -> Iterable[Taint]:
    for sick in gpu.sickness:
        effect = _EVICT if sick.cause in _FATAL else WITHDRAWN.effect
        yield Taint(key=f"{DOMAIN}/health-{sick.cause}", effect=effect)
