"""A preview as data: what each GPU is and would become, by which steps and for whom; and what would wait."""

from __future__ import annotations

import msgspec

from reconciler.cli.wording import setup, wishes
from reconciler.node.once import Preview
from state.actions import Action
from state.foresight import after
from state.ids import DeviceName
from state.observed import Changing
from state.outcomes import Outcome, Phase
from state.planning import Plan
from state.profiles import ProfileTable
from state.status import condition_of
from state.summary import READY, STALLED


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Keys as programs see them; all of them are always there."""


class GpuForecast(_Part, frozen=True):
    """One GPU: its set-up now and then in words, the steps in between in order, and who wants it so."""

    device: str
    model: str
    now: str
    then: str
    wanted_by: tuple[str, ...]
    actions: tuple[str, ...]


class Waiting(_Part, frozen=True):
    """Something wanted that can't be done now, and why."""

    what: str
    why: str


class AllocationForecast(_Part, frozen=True):
    """One allocation: its phase now, the one it would come to, and why no further."""

    name: str
    claim: str
    now: str
    then: str
    devices: tuple[str, ...]
    message: str


class Forecast(_Part, frozen=True):
    """A whole preview. ``actions`` are those of no GPU; ``as_wanted``: nothing is to be done and nothing waits."""

    as_wanted: bool
    devices: tuple[GpuForecast, ...]
    actions: tuple[str, ...]
    blocked: tuple[Waiting, ...]
    allocations: tuple[AllocationForecast, ...]
    overridden: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """Whether anything would be done."""
        return bool(self.actions) or any(gpu.actions for gpu in self.devices)


def forecast(preview: Preview, table: ProfileTable) -> Forecast:
    """What a preview says, ready to be shown."""
    last = preview.foreseen.last
    return Forecast(
        as_wanted=is_as_wanted(preview),
        devices=_devices(preview, table),
        actions=tuple(str(action) for action in preview.foreseen.actions if action.pf is None),
        blocked=tuple(Waiting(what=item.what, why=item.why) for item in last.blocked),
        allocations=_allocations(preview),
        overridden=last.overridden,
    )


def is_as_wanted(preview: Preview) -> bool:
    """Whether the machine is all that the manifest wants now, with nothing refused."""
    ready, stalled = condition_of(preview.status, READY), condition_of(preview.status, STALLED)
    return ready is not None and ready.status == "True" and (stalled is None or stalled.status != "True")


def _devices(preview: Preview, table: ProfileTable) -> tuple[GpuForecast, ...]:
    steps: dict[DeviceName, list[Action]] = {name: [] for name in sorted(preview.observed.gpus)}
    for action in preview.foreseen.actions:
        if action.pf is not None:
            steps.setdefault(action.pf, []).append(action)
    later = after(preview.observed, Plan(actions=preview.foreseen.actions)).gpus
    found = []
    for name, actions in steps.items():
        seen = preview.observed.gpus.get(name)
        if seen is None:  # a CDI spec of a GPU that is gone
            now = then = "not there"
            model = ""
        else:
            now, then = setup(seen, table), setup(later[name], table)
            model = (seen.last if isinstance(seen, Changing) else seen).model.name
        found.append(
            GpuForecast(
                device=name,
                model=model,
                now=now,
                then=then,
                wanted_by=wishes(name, preview.desired),
                actions=tuple(str(action) for action in actions),
            )
        )
    return tuple(found)


def _allocations(preview: Preview) -> tuple[AllocationForecast, ...]:
    now = {(status.origin, status.name): status.phase for status in preview.status.allocations}
    then = {(outcome.origin.value, outcome.name): outcome for outcome in preview.foreseen.last.outcomes}
    taken_back = [key for key in now if key not in then]
    statuses = {(status.origin, status.name): status for status in preview.status.allocations}
    found = [_allocation(outcome, now.get(key, "")) for key, outcome in then.items()]
    for key in taken_back:
        status = statuses[key]
        found.append(
            AllocationForecast(
                name=status.name,
                claim=status.claim,
                now=status.phase,
                then="",
                devices=tuple(device.device for device in status.devices),
                message=status.message,
            )
        )
    return tuple(found)


def _allocation(outcome: Outcome, now: str) -> AllocationForecast:
    return AllocationForecast(
        name=outcome.name,
        claim=outcome.claim,
        now=now,
        then=outcome.phase.value,
        devices=tuple(device.device for device in outcome.devices),
        message="" if outcome.phase is Phase.READY else outcome.message,
    )
