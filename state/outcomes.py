"""How each allocation stands, in one word and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from state.arbitration import Arbitration
from state.cdi import file_name
from state.cdi_planning import CdiPlan, EntryState
from state.desired import Desired, Entry, Origin, RefusedEntry
from state.gpu_planning import Failure, GpuPlan
from state.ids import DeviceName, Use
from state.observed import VFIO_DRIVERS, Unreadable
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Nothing is changed now: in which phase that leaves what isn't ready, and why."""

    phase: Phase
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeJudge:
    """Judges allocations by what was seen and what is planned.

    ``in_use`` are keys of claims that hold devices, ``touched`` those of entries under whose devices this plan
    changes something; ``leaving`` has by key what is being taken back, ``unseen`` what can't be read of GPUs that
    would else count as absent.
    """

    desired: Desired
    court: Arbitration
    cdi: CdiPlan
    gpus: Mapping[DeviceName, GpuPlan]
    failures: Mapping[str, Failure]
    in_use: frozenset[str]
    touched: frozenset[str]
    unseen: Mapping[str, Unreadable]
    leaving: Mapping[str, tuple[AppliedDevice, ...]]
    frozen: Frozen | None = None

    def outcomes(self) -> tuple[Outcome, ...]:
        """One outcome for each allocation of the manifest, and each that is being taken back."""
        wanted = self.desired.keys
        outcomes = [self._taken_back(key) for key in self.leaving]
        outcomes += [self._refused(refused) for refused in self.desired.refused]
        served = {entry.key: entry for entry in self.court.served}
        outcomes += [self._served(entry, known=entry.key in wanted) for entry in self.court.served]
        for waiting in self.court.waiting:
            # A claim that changed while it is in use still has the devices it had.
            entry = served.get(waiting.entry.key, waiting.entry)
            outcomes.append(self._outcome(entry, Phase.BLOCKED, waiting.why))
        outcomes += [self._outcome(entry, Phase.REFUSED, str(refusal)) for entry, refusal in self.court.refused]
        last = {outcome.key: outcome for outcome in outcomes}
        return tuple(last[key] for key in sorted(last))

    def _taken_back(self, key: str) -> Outcome:
        origin, _, name = key.partition("-")
        return Outcome(
            key=key,
            name=name,
            origin=Origin(origin),
            phase=Phase.RELEASING,
            message="no longer wanted; its devices are being taken back",
            devices=self.leaving[key],
            in_use=key in self.in_use,
        )

    def _refused(self, refused: RefusedEntry) -> Outcome:
        unread = self.unseen.get(refused.key)
        return Outcome(
            key=refused.key,
            name=refused.name,
            origin=refused.origin,
            phase=Phase.REFUSED if unread is None else Phase.BLOCKED,
            message=str(refused.refusal if unread is None else unread),
            claim=refused.claim,
            in_use=refused.key in self.in_use,
        )

    def _outcome(self, entry: Entry, phase: Phase, message: str, *, attempts: int = 0) -> Outcome:
        state = self.cdi.states.get(entry.key)
        return Outcome(
            key=entry.key,
            name=entry.name,
            origin=entry.origin,
            phase=phase,
            message=message,
            claim=entry.claim,
            devices=entry.records,
            cdi_devices=state.cdi_devices if state is not None and phase is Phase.READY else (),
            in_use=entry.key in self.in_use,
            attempts=attempts,
        )

    def _served(self, entry: Entry, *, known: bool) -> Outcome:
        state = self.cdi.states[entry.key]
        if not known:
            return self._outcome(entry, Phase.RELEASING, "no longer wanted, but still in use")
        if entry.refusal is not None:
            kept = "its last devices are kept" if state.missing is None else state.missing
            return self._outcome(entry, Phase.REFUSED, f"{entry.refusal}; {kept}")
        if state.written and entry.key not in self.touched:
            return self._outcome(entry, Phase.READY, "")
        missing = state.missing or ("its devices are being changed" if state.written else _NO_FILE)
        if self.frozen is not None:
            return self._outcome(entry, self.frozen.phase, f"{self.frozen.why}: {missing}")
        failure = self._failure(entry, state)
        if failure is not None:
            return self._outcome(entry, Phase.FAILED, failure.message, attempts=failure.attempts)
        blocked = self.cdi.blocked or (None if state.missing is None else self._blocked(entry))
        if blocked is not None:
            return self._outcome(entry, Phase.BLOCKED, blocked)
        return self._outcome(entry, Phase.CONVERGING, missing)

    def _failure(self, entry: Entry, state: EntryState) -> Failure | None:
        """The failure that keeps the entry waiting: of its GPUs, or once its devices are there of its file."""
        units = [f"cdi/{file_name(entry.key)}"] if state.missing is None else []
        for device in entry.devices if state.missing is not None else ():
            pf = device.logical.pf
            units += [pf, f"{pf}/driver"]
            if device.slot.is_vf:
                units.append(f"{pf}/vf{device.slot.vf}")
        return next((self.failures[unit] for unit in units if unit in self.failures), None)

    def _blocked(self, entry: Entry) -> str | None:
        for device in entry.devices:
            pf = device.logical.pf
            if pf in self.court.hands_off:
                return f"{pf} is {self.court.hands_off[pf]}"
            demand = self.court.demands.get(pf)
            if device.logical.use is Use.MONITOR and demand is not None and demand.driver in VFIO_DRIVERS:
                return f"{pf} is bound to {demand.driver} for {demand.by}: there is nothing to look on"
            step = self.gpus.get(pf)
            if step is not None and step.blocked is not None:
                return step.blocked
            if step is not None and device.slot in step.slot_blocked:
                return step.slot_blocked[device.slot]
        return None


_NO_FILE = "its CDI spec is not written yet"
