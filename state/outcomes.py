"""How each allocation stands, in one word and one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from state.arbitration import Arbitration
from state.cdi_planning import CdiPlan
from state.desired import Desired, Entry, Origin, Refusal
from state.gpu_planning import Failure, GpuPlan
from state.ids import DeviceName, Slot
from state.records import AppliedDevice


class Phase(Enum):
    """Where an allocation is on its way."""

    PENDING = "Pending"
    CONVERGING = "Converging"
    READY = "Ready"
    BLOCKED = "Blocked"
    FAILED = "Failed"
    REFUSED = "Refused"
    RELEASING = "Releasing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An allocation's state. ``attempts`` counts failures in a row of what it waits for."""

    key: str
    name: str
    origin: Origin
    phase: Phase
    message: str = ""
    claim: str = ""
    devices: tuple[AppliedDevice, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    in_use: bool = False
    attempts: int = 0


def judge_outcomes(
    desired: Desired,
    court: Arbitration,
    cdi: CdiPlan,
    gpus: Mapping[DeviceName, GpuPlan],
    failures: Mapping[str, Failure],
    in_use: frozenset[str],
    leaving: Mapping[str, tuple[AppliedDevice, ...]],
) -> tuple[Outcome, ...]:
    """One outcome for each allocation: those of the manifest, and those being taken back (``leaving``)."""
    judge = _Judge(desired=desired, court=court, cdi=cdi, gpus=gpus, failures=failures, in_use=in_use)
    outcomes: dict[str, Outcome] = {}
    for entry in court.served:
        outcomes[entry.key] = judge.served(entry)
    for waiting in court.waiting:
        outcomes[waiting.entry.key] = judge.outcome(waiting.entry, Phase.BLOCKED, waiting.why)
    for entry, refusal in court.refused:
        outcomes[entry.key] = judge.outcome(entry, Phase.REFUSED, str(refusal))
    for refused in desired.refused:
        outcomes[refused.key] = Outcome(
            key=refused.key,
            name=refused.name,
            origin=refused.origin,
            phase=Phase.REFUSED,
            message=str(refused.refusal),
            claim=refused.claim,
            in_use=refused.key in in_use,
        )
    for key in leaving:
        if key not in outcomes:
            origin, _, name = key.partition("-")
            outcomes[key] = Outcome(
                key=key,
                name=name,
                origin=Origin(origin),
                phase=Phase.RELEASING,
                message="no longer wanted; its devices are being taken back",
                devices=leaving[key],
                in_use=key in in_use,
            )
    return tuple(outcomes[key] for key in sorted(outcomes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    desired: Desired
    court: Arbitration
    cdi: CdiPlan
    gpus: Mapping[DeviceName, GpuPlan]
    failures: Mapping[str, Failure]
    in_use: frozenset[str]

    def outcome(self, entry: Entry, phase: Phase, message: str, *, attempts: int = 0) -> Outcome:
        state = self.cdi.states.get(entry.key)
        return Outcome(
            key=entry.key,
            name=entry.name,
            origin=entry.origin,
            phase=phase,
            message=message,
            claim=entry.claim,
            devices=tuple(device.applied() for device in entry.devices),
            cdi_devices=state.cdi_devices if state is not None and phase is Phase.READY else (),
            in_use=entry.key in self.in_use,
            attempts=attempts,
        )

    def served(self, entry: Entry) -> Outcome:
        state = self.cdi.states[entry.key]
        refusal: Refusal | None = entry.refusal
        if refusal is not None:
            kept = "its last devices are kept" if state.missing is None else state.missing
            return self.outcome(entry, Phase.REFUSED, f"{refusal}; {kept}")
        if state.missing is None and state.written and not self._touched(entry):
            return self.outcome(entry, Phase.READY, "")
        if entry.key not in {*self.known()}:
            return self.outcome(entry, Phase.RELEASING, "no longer wanted, but still in use")
        failure = self._failure(entry)
        if failure is not None:
            return self.outcome(entry, Phase.FAILED, failure.message, attempts=failure.attempts)
        missing = state.missing or "its CDI spec is not written yet"
        blocked = self._blocked(entry)
        if blocked is not None and state.missing is not None:
            return self.outcome(entry, Phase.BLOCKED, blocked)
        if self.desired.paused:
            return self.outcome(entry, Phase.PENDING, f"paused (spec.paused): {missing}")
        return self.outcome(entry, Phase.CONVERGING, missing)

    def known(self) -> Iterable[str]:
        return (entry.key for entry in self.desired.entries)

    def _touched(self, entry: Entry) -> bool:
        """Whether this plan changes something under the entry's devices."""
        slots = {device.slot for device in entry.devices}
        for pf in {slot.pf for slot in slots}:
            step = self.gpus.get(pf)
            if step is None:
                continue
            if step.touches_all or any(
                isinstance(slot := getattr(action, "slot", None), Slot) and slot in slots
                for action in step.actions
            ):
                return True
        return False

    def _failure(self, entry: Entry) -> Failure | None:
        units = [f"cdi/intel.com-gpu_{entry.key}.json"]
        for device in entry.devices:
            pf = device.logical.pf
            units += [pf, f"{pf}/driver"]
            if device.slot.is_vf:
                units.append(f"{pf}/vf{device.slot.vf}")
        return next((self.failures[unit] for unit in units if unit in self.failures), None)

    def _blocked(self, entry: Entry) -> str | None:
        if self.cdi.blocked is not None:
            return self.cdi.blocked
        for device in entry.devices:
            pf = device.logical.pf
            if pf in self.court.hands_off:
                return f"{pf} is {self.court.hands_off[pf]}"
            step = self.gpus.get(pf)
            if step is not None and step.blocked is not None:
                return step.blocked
            if step is not None and device.slot in step.slot_blocked:
                return step.slot_blocked[device.slot]
        return None
