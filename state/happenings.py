"""What is worth an Event: how a node's status differs from the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from state.desired import Origin
from state.outcomes import Phase
from state.stale_marks import PATIENCE
from state.status import AllocationStatus, DeviceStatus, NodeStatus, condition_of
from state.summary import OVERRIDDEN, STALLED


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimName:
    """The ResourceClaim an event is about."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One event: about a claim, or (None) about the node's GPUs. ``reason`` and ``action`` are CamelCase words."""

    about: ClaimName | None
    warning: bool
    reason: str
    action: str
    note: str


_PHASES = {
    Phase.READY.value: (False, "Ready", "Converge"),
    Phase.BLOCKED.value: (False, "Waiting", "Wait"),
    Phase.FAILED.value: (True, "ConvergeFailed", "Retry"),
    Phase.REFUSED.value: (True, "Refused", "Refuse"),
}
"""Phases that people hear of; the others are on the way to these."""


def happenings(before: NodeStatus | None, now: NodeStatus) -> tuple[Happening, ...]:
    """The events between two statuses. After a start without an earlier status only what is wrong is told."""
    return (
        *_of_allocations(before, now),
        *_of_devices(() if before is None else before.devices, now.devices),
        *_of_condition(STALLED, before, now, warning=True, reason="Stalled", action="Wait"),
        *_of_condition(OVERRIDDEN, before, now, warning=False, reason="Overridden", action="Override"),
    )


def releases(before: Set[str], now: Set[str]) -> tuple[Happening, ...]:
    """The events about claims, by UID, whose marks are released as stale now and were not before."""
    return tuple(
        Happening(
            about=None,
            warning=True,
            reason="StaleMarkReleased",
            action="Release",
            note=f"claim {uid} is gone, nobody has its devices open, and the kubelet has not given it back "
            f"for {PATIENCE.seconds // 60} minutes: they are free again",
        )
        for uid in sorted(now - before)
    )


def _of_allocations(before: NodeStatus | None, now: NodeStatus) -> Iterator[Happening]:
    known = {(one.origin, one.name): one.phase for one in before.allocations} if before is not None else {}
    for one in now.allocations:
        told = _PHASES.get(one.phase)
        if told is None or known.get((one.origin, one.name)) == one.phase:
            continue
        warning, reason, action = told
        if before is None and not warning:
            continue
        note = f"{_whose(one)}: {one.message}" if one.message else f"{_whose(one)} is ready"
        yield Happening(about=_claim_of(one), warning=warning, reason=reason, action=action, note=note)


def _whose(one: AllocationStatus) -> str:
    if one.origin == Origin.MANUAL.value:
        return f"allocation {one.name}"
    return ", ".join(device.device for device in one.devices) or "its devices"


def _claim_of(one: AllocationStatus) -> ClaimName | None:
    namespace, slash, name = one.claim.partition("/")
    if one.origin != Origin.CLAIM.value or not slash:
        return None
    return ClaimName(namespace=namespace, name=name, uid=one.name)


def _of_devices(before: Iterable[DeviceStatus], now: Iterable[DeviceStatus]) -> Iterator[Happening]:
    known = {device.name: device for device in before}
    for device in now:
        last = known.pop(device.name, None)
        if device.health != (last.health if last is not None else "Healthy"):
            sick = device.health != "Healthy"
            why = "; ".join(sickness.message for sickness in device.sickness)
            yield Happening(
                about=None,
                warning=sick,
                reason=f"Device{device.health}",
                action="Watch",
                note=f"{device.name}: {why}" if why else f"{device.name} is healthy again",
            )
    for name in sorted(known):
        yield Happening(
            about=None, warning=True, reason="DeviceGone", action="Watch", note=f"{name} is gone from the machine"
        )


def _of_condition(
    kind: str, before: NodeStatus | None, now: NodeStatus, *, warning: bool, reason: str, action: str
) -> Iterator[Happening]:
    condition = condition_of(now, kind)
    if condition is None or condition.status != "True":
        return
    last = None if before is None else condition_of(before, kind)
    if last is None or (last.status, last.message) != (condition.status, condition.message):
        yield Happening(about=None, warning=warning, reason=reason, action=action, note=condition.message)
