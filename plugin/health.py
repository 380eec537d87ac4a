"""The health of devices as the kubelet is to show it. Pure functions over the node's status."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from plugin.agent_status import Seen
from plugin.confirming import STALE, Node, published_name
from state.ids import parse_logical_device
from state.status import DeviceStatus

LONGEST_MESSAGE = 1024
"""Bytes that the kubelet takes of a message."""


class Health(Enum):
    """Numbers as on the wire."""

    UNKNOWN = 0
    HEALTHY = 1
    UNHEALTHY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceHealth:
    """One device, by the names that Prepare answers with."""

    pool: str
    device: str
    health: Health
    message: str = ""


_IN_WORDS = {"Healthy": Health.HEALTHY, "Unhealthy": Health.UNHEALTHY, "Unknown": Health.UNKNOWN}


def device_healths(seen: Seen | None, node: Node, now: datetime) -> tuple[DeviceHealth, ...]:
    """Every GPU, and every part of one that a claim has, sorted by name.

    The kubelet looks devices up by the names that Prepare answered with; of the others it has no use.
    """
    if seen is None or seen.file.boot_id != node.boot_id:
        return ()
    gpus = {gpu.name: _of_gpu(gpu) for gpu in seen.file.status.devices}
    allocated = {published_name(device) for claim in seen.claims.values() for device in claim.devices}
    age = now - seen.file.written_at
    silent = f"the node agent has not written status for {STALE.total_seconds():.0f} s" if age > STALE else ""
    found = []
    for name in sorted(gpus.keys() | allocated):
        health, message = (Health.UNKNOWN, silent) if silent else _of_device(name, gpus)
        found.append(DeviceHealth(pool=node.pool, device=name, health=health, message=_cut(message)))
    return tuple(found)


def _of_device(name: str, gpus: dict[str, tuple[Health, str]]) -> tuple[Health, str]:
    try:
        pf = parse_logical_device(name).pf
    except ValueError as error:
        return Health.UNKNOWN, str(error)
    return gpus.get(pf, (Health.UNHEALTHY, f"the node has no GPU {pf} any more"))


def _of_gpu(gpu: DeviceStatus) -> tuple[Health, str]:
    message = "; ".join(f"{sickness.cause}: {sickness.message}" for sickness in gpu.sickness)
    return _IN_WORDS.get(gpu.health, Health.UNKNOWN), message


def _cut(message: str) -> str:
    return message.encode("utf-8", "backslashreplace")[:LONGEST_MESSAGE].decode(errors="ignore")
