"""A plan as YAML that people can read and judge."""

from __future__ import annotations

from collections.abc import Iterable

from state.actions import Action, SetVfProfile
from state.ids import DeviceName
from state.outcomes import Outcome
from state.planning import Plan
from state.records import AppliedDevice, Ownership
from tests.golden.machine import NOW


def in_words(todo: Plan, before: Ownership, looked: Iterable[DeviceName]) -> dict[str, object]:
    """Everything the plan says; ``before`` is the ownership record it started from."""
    words: dict[str, object] = {
        "actions": [_action(action) for action in todo.actions],
        "blocked": [f"{blocked.what}: {blocked.why}" for blocked in todo.blocked],
        "looked": [str(pf) for pf in looked],
        "overridden": list(todo.overridden),
        "outcomes": {outcome.key: _outcome(outcome) for outcome in todo.outcomes},
        "ownership": None if todo.ownership is None else _changes(before, todo.ownership),
        "held": None
        if todo.held is None
        else {uid: f"{claim.nonce}: {_record(claim.devices)}" for uid, claim in sorted(todo.held.claims.items())},
        "nonces": dict(todo.nonces),
        "released": dict(todo.released),
        "stale": sorted(todo.stale),
        "abandonedFor": {uid: (NOW - since).total_seconds() for uid, since in todo.abandoned_since.items()},
        "idleFor": {str(pf): (NOW - since).total_seconds() for pf, since in todo.idle_since.items()},
        "wakeIn": None if todo.wake_at is None else (todo.wake_at - NOW).total_seconds(),
    }
    keep = ("actions", "outcomes")
    return {name: value for name, value in words.items() if name in keep or value not in (None, [], {})} | (
        {} if todo.held is None else {"held": words["held"]}
    )


def _action(action: Action) -> str:
    """The action, where it is about quotas with what each VF gets on each tile."""
    words = str(action) if action.pf is None else f"{action.pf}: {action}"
    if not isinstance(action, SetVfProfile):
        return words
    quota = action.quota
    return (
        f"{words}: {quota.contexts} contexts, {quota.doorbells} doorbells, {quota.ggtt} GGTT, "
        f"{quota.lmem} memory, {quota.exec_quantum_ms} ms, {quota.preempt_timeout_us} µs"
    )


def _outcome(outcome: Outcome) -> str:
    used = " (in use)" if outcome.in_use else ""
    tries = f" after {outcome.attempts} attempts" if outcome.attempts else ""
    cdi = f" {', '.join(outcome.cdi_devices)}" if outcome.cdi_devices else ""
    message = f": {outcome.message}" if outcome.message else ""
    return f"{outcome.phase.value}{used}{tries}{cdi}{message}"


def _record(devices: tuple[AppliedDevice, ...]) -> str:
    return ", ".join(
        device.device + ("" if device.kernel_driver == "drm" else f" ({device.kernel_driver})")
        for device in devices
    )


def _changes(before: Ownership, now: Ownership) -> dict[str, str]:
    """What is different in the ownership record, by place."""
    flat_before, flat_now = _flat(before), _flat(now)
    return {
        place: flat_now.get(place, "forgotten")
        for place in sorted(flat_before.keys() | flat_now.keys())
        if flat_before.get(place) != flat_now.get(place)
    }


def _flat(ownership: Ownership) -> dict[str, str]:
    flat = {f"layout of {pf}": f"{own.profile} × {own.count}" for pf, own in ownership.layouts.items()}
    flat |= {f"driver of {pf}": f"{own.driver}, was {own.original}" for pf, own in ownership.bindings.items()}
    flat |= {f"withdrawal of {pf}": token for pf, token in ownership.withdrawals.items()}
    return flat | {f"given to {key}": _record(record) for key, record in ownership.applied.items()}
