"""Which GPUs to offer first, where a policy wants them filled up: schedulers take the first that fits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from state.status import NodeStatus

REORDER_SECONDS: Final = 30.0
"""Devices are published in another order at most this often."""


def order_of(status: NodeStatus) -> tuple[str, ...]:
    """GPUs that are in use and still have room, by name. Only a hint: capacities decide what fits."""
    return tuple(sorted(gpu.name for gpu in status.devices if gpu.users and not _is_full(gpu.name, status)))


def _is_full(gpu: str, status: NodeStatus) -> bool:
    sriov = next((each.sriov for each in status.devices if each.name == gpu), None)
    used = set(_devices_of(gpu, status))
    if gpu in used:
        return True
    return sriov is not None and 0 < sriov.enabled <= sum("-vf" in name for name in used)


def _devices_of(gpu: str, status: NodeStatus) -> Iterable[str]:
    for allocation in status.allocations:
        for device in allocation.devices:
            if not device.admin_access and (device.device == gpu or device.device.startswith(f"{gpu}-")):
                yield device.device
