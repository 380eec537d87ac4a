"""GPUs whose VFs could not be made: schedulers try others for a while."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from state.slices.model import LiveSlice
from state.slices.tainting import RECONFIGURE_FAILED
from state.slices.view import gpu_of
from state.status import DeviceStatus, NodeStatus

PATIENCE: Final = 600.0
"""Seconds after the last failure until a GPU is offered again although nothing has got better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconfigureFailure:
    """A GPU's VFs could not be made, in this boot and with this driver; forgotten at ``until``."""

    boot_id: str
    driver: str
    until: float


Failures = Mapping[str, ReconfigureFailure]


def recalled(live: Iterable[LiveSlice], status: NodeStatus, now: float) -> Failures:
    """Failures by the taints there are, after a restart."""
    drivers = {gpu.name: gpu.driver for gpu in status.devices}
    found: dict[str, ReconfigureFailure] = {}
    for device in (device for each in live for device in each.content.devices):
        gpu = gpu_of(device.name)
        for taint in device.taints:
            if taint.key == RECONFIGURE_FAILED and gpu in drivers:
                found[gpu] = ReconfigureFailure(boot_id=taint.value, driver=drivers[gpu], until=now + PATIENCE)
    return found


def followed(before: Failures, status: NodeStatus, now: float) -> Failures:
    """Failures by what the node says now. One ends with a success, a reboot, another binding, or in time."""
    gpus = {gpu.name: gpu for gpu in status.devices}
    failures = {
        name: failure
        for name, failure in before.items()
        if name in gpus and failure.until > now and _goes_on(failure, gpus[name], status.boot_id)
    }
    for name in _failing(status, gpus):
        failures[name] = ReconfigureFailure(boot_id=status.boot_id, driver=gpus[name].driver, until=now + PATIENCE)
    return failures


def _goes_on(failure: ReconfigureFailure, gpu: DeviceStatus, boot_id: str) -> bool:
    made = gpu.sriov is not None and gpu.sriov.enabled > 0 and gpu.sriov.owner == "ours" and gpu.sriov.layout
    return failure.boot_id == boot_id and failure.driver == gpu.driver and (not made or bool(gpu.changing))


def _failing(status: NodeStatus, gpus: Mapping[str, DeviceStatus]) -> Iterable[str]:
    """GPUs that a claim can't get because their VFs can't be made: these are not there, then."""
    for allocation in status.allocations:
        if allocation.phase != "Failed":
            continue
        for device in allocation.devices:
            name = gpu_of(device.device)
            gpu = None if name is None else gpus.get(name)
            if gpu is None or gpu.sriov is None or not device.profile or device.admin_access:
                continue
            if gpu.sriov.layout != device.profile:
                yield gpu.name
