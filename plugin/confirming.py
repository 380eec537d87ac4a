"""Whether the node's status confirms a claim, and if not, what it waits for. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from plugin.agent_status import Seen
from plugin.claims import Answer, NotPrepared, Prepared, PreparedDevice
from state.ids import Use, parse_logical_device
from state.records import AppliedDevice
from state.status import AllocationStatus

STALE = timedelta(seconds=30)
"""The node agent writes its status at least every 10 s. When it is older than this, something is wrong."""

_READY, _REFUSED = "Ready", "Refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """This machine in this boot. ``pool`` is the pool of its devices: the node's name."""

    pool: str
    boot_id: str


def judge(seen: Seen | None, uid: str, nonce: str, node: Node, now: datetime) -> Answer:
    """Prepared, if the status says that the claim's devices are there and held for the mark with this nonce.

    Until then why not. An old status confirms as well as a fresh one, as what it says is held stays held; its age
    only matters for what to tell.
    """
    if seen is None:
        return NotPrepared(why="the node agent has written no status yet; is it running?")
    file, entry = seen.file, seen.claims.get(uid)
    if file.boot_id != node.boot_id:
        return NotPrepared(why="the node agent has not written status since the node was booted; is it running?")
    if entry is not None and entry.phase == _READY and file.nonces.get(uid) == nonce:
        return _answer(entry, node.pool)
    age = now - file.written_at
    if age > STALE:
        why = f"the node agent has not written status for {age.total_seconds():.0f} s; is it running?"
        return NotPrepared(why=why)
    return NotPrepared(why=_waits_for(entry))


def _waits_for(entry: AllocationStatus | None) -> str:
    if entry is None:
        return "the node has no entry for this claim; is the controller running?"
    if entry.phase == _READY:
        return "waits for the node agent to note that the claim is in use"
    if entry.phase == _REFUSED:
        return f"refused: {entry.message}"
    return f"{entry.phase}: {entry.message}" if entry.message else f"{entry.phase}, no reason known"


def _answer(entry: AllocationStatus, pool: str) -> Answer:
    """A claim has as many CDI devices as devices, in the same order."""
    if not entry.devices:
        return NotPrepared(why="Ready, but without any device: nothing to hand out")
    if len(entry.devices) != len(entry.cdi_devices):
        return NotPrepared(why=f"{len(entry.cdi_devices)} CDI devices for {len(entry.devices)} devices")
    pairs = zip(entry.devices, entry.cdi_devices, strict=True)
    return Prepared(
        devices=tuple(
            PreparedDevice(
                # The kubelet knows requests by the names in the claim's spec: of REQUEST/SUBREQUEST the first.
                request=device.request.partition("/")[0],
                pool=pool,
                device=published_name(device),
                cdi_id=cdi_id,
                share_id=device.share_id,
            )
            for device, cdi_id in pairs
        )
    )


def published_name(device: AppliedDevice) -> str:
    """The device's name in its ResourceSlice.

    A VF that is one of several shares of a device has its number from the controller, a VF that was published by
    itself has it in its name.
    """
    if not device.share_id:
        return device.device
    try:
        logical = parse_logical_device(device.device)
    except ValueError:
        return device.device
    return f"{logical.pf}-{logical.mode}" if logical.use is Use.VF else device.device
