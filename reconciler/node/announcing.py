"""What the log says about a node: only what has changed since the last pass."""

from __future__ import annotations

import logging

from state.outcomes import Phase
from state.status import NodeStatus
from state.summary import RECONCILING

_LOUD = (Phase.BLOCKED.value, Phase.FAILED.value, Phase.REFUSED.value)

_log = logging.getLogger(__name__)


def announce(before: NodeStatus | None, now: NodeStatus) -> None:
    """Log allocations and conditions that differ, and things newly blocked."""
    _announce_devices(before, now)
    _announce_allocations(before, now)
    known = {condition.type: condition for condition in before.conditions} if before else {}
    for condition in now.conditions:
        last = known.get(condition.type)
        if last is None or last.status != condition.status:
            level = logging.DEBUG if condition.type == RECONCILING else logging.INFO
            extra = {"condition": condition.type, "reason": condition.reason}
            _log.log(level, "%s is %s%s", condition.type, condition.status, _said(condition.message), extra=extra)
    blocked = {(item.what, item.why) for item in before.plan.blocked} if before else set()
    gpus = {device.name for device in now.devices}
    for item in now.plan.blocked:
        if (item.what, item.why) not in blocked:
            gpu = item.what.partition(" ")[0]  # also of "… VF 1"; other things are of no GPU
            _log.warning("%s has to wait: %s", item.what, item.why, extra={"device": gpu} if gpu in gpus else {})


def _announce_devices(before: NodeStatus | None, now: NodeStatus) -> None:
    known = {device.name: device for device in before.devices} if before else {}
    for device in now.devices:
        last = known.pop(device.name, None)
        if last is None:
            _log.info("found %s, driver %s", device.model, device.driver or "none", extra={"device": device.name})
        elif last.health != device.health:
            why = _said("; ".join(sickness.message for sickness in device.sickness))
            _log.warning("health is %s%s", device.health, why, extra={"device": device.name})
    for name in sorted(known):
        _log.warning("the GPU is gone", extra={"device": name})


def _announce_allocations(before: NodeStatus | None, now: NodeStatus) -> None:
    known = {(one.origin, one.name): one for one in before.allocations} if before else {}
    for one in now.allocations:
        last = known.pop((one.origin, one.name), None)
        if last is None or last.phase != one.phase:
            level = logging.WARNING if one.phase in _LOUD else logging.INFO
            extra = {"claim": one.claim or one.name, "phase": one.phase}
            _log.log(level, "allocation %s is %s%s", one.name, one.phase, _said(one.message), extra=extra)
    for _, name in sorted(known):
        _log.info("allocation %s is gone", name, extra={"claim": name})


def _said(message: str) -> str:
    return f": {message}" if message else ""
