"""From a plan and what was seen to what a node says about itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from state.actions import RemoveCdiSpec, WriteCdiSpec
from state.desired import Desired, Origin
from state.ids import DeviceName
from state.layouts import layout_of
from state.observed import Changing, HealthCause, Observed, PfSeen, SriovSeen, Unreadable
from state.outcomes import Outcome, Phase
from state.planning import NotSynced, Plan
from state.profiles import Ecc, ProfileTable
from state.records import Ownership
from state.status import (
    AllocationStatus,
    BlockedStatus,
    Condition,
    DeviceStatus,
    MemoryStatus,
    NodesStatus,
    NodeStatus,
    PlannedAction,
    PlanStatus,
    SicknessStatus,
    SriovStatus,
    SummaryStatus,
    settle_condition,
)

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
OVERRIDDEN = "Overridden"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """How reading the desired state went: its generation, and why the newest version is not in force, if so."""

    generation: int | None = None
    error: str | None = None


def summarise(
    desired: Desired | NotSynced,
    observed: Observed,
    plan: Plan,
    source: SourceState,
    previous: NodeStatus | None,
    table: ProfileTable,
    version: str,
    now: datetime,
) -> NodeStatus:
    """The node's status. Times are kept from ``previous`` wherever nothing changed."""
    before = {} if previous is None else {condition.type: condition for condition in previous.conditions}
    moment = now.replace(microsecond=0)
    conditions = (
        _ready(desired, plan, observed, source, moment),
        _reconciling(desired, plan, observed, source, moment),
        _stalled(desired, plan, source, moment),
        _overridden(plan, source, moment),
    )
    users = _users(plan.outcomes)
    devices = tuple(
        describe_device(observed.gpus[pf], observed, desired, table, users.get(pf, ()))
        for pf in sorted(observed.gpus)
    )
    return NodeStatus(
        observed_generation=source.generation,
        boot_id=observed.boot_id,
        version=version,
        summary=_counts(devices, plan),
        conditions=tuple(settle_condition(before, condition) for condition in conditions),
        devices=devices,
        allocations=_allocations(plan.outcomes, previous, moment),
        plan=PlanStatus(
            actions=tuple(_planned(plan)),
            blocked=tuple(BlockedStatus(what=item.what, why=item.why) for item in plan.blocked),
        ),
        withdrawn=_withdrawn(observed, plan),
    )


def _withdrawn(observed: Observed, plan: Plan) -> dict[str, str]:
    """Tokens of withdrawals that have begun; these are on record before they are shown."""
    recorded = observed.ownership if plan.ownership is None else plan.ownership
    return {} if isinstance(recorded, Unreadable) else recorded.withdrawals


def _counts(devices: Iterable[DeviceStatus], plan: Plan) -> SummaryStatus:
    sriov = [device.sriov for device in devices]
    origins = [outcome.origin for outcome in plan.outcomes]
    return SummaryStatus(
        gpus=len(sriov),
        virtual_functions=sum(vfs.enabled for vfs in sriov if vfs is not None),
        claims=origins.count(Origin.CLAIM),
        manual_allocations=origins.count(Origin.MANUAL),
        blocked=len(plan.blocked),
    )


def _condition(kind: str, value: bool, reason: str, message: str, source: SourceState, now: datetime) -> Condition:
    return Condition(
        type=kind,
        status="True" if value else "False",
        reason=reason,
        message=message,
        last_transition_time=now,
        observed_generation=source.generation,
    )


def _ready(
    desired: Desired | NotSynced, plan: Plan, observed: Observed, source: SourceState, now: datetime
) -> Condition:
    """Ready: the machine is as the newest desired state wants it."""

    def answer(value: bool, reason: str, message: str) -> Condition:
        return _condition(READY, value, reason, message, source, now)

    if isinstance(desired, NotSynced):
        return answer(False, "NotSynced", source.error or "the desired state has not been read yet")
    if source.error is not None:
        return answer(False, "InvalidDesiredState", f"the last good state stays in force: {source.error}")
    for phase in (Phase.FAILED, Phase.REFUSED, Phase.BLOCKED, Phase.CONVERGING, Phase.RELEASING, Phase.PENDING):
        worst = [outcome for outcome in plan.outcomes if outcome.phase is phase]
        if worst:
            first = f"{worst[0].name}: {worst[0].message}"
            more = f" (and {len(worst) - 1} more)" if len(worst) > 1 else ""
            return answer(False, phase.value, first + more)
    if plan.blocked:
        return answer(False, "Blocked", f"{plan.blocked[0].what}: {plan.blocked[0].why}")
    if plan.actions or any(gpu.actions for gpu in _changing(observed)):
        return answer(False, "Converging", "changes are under way")
    count = len(plan.outcomes)
    return answer(True, "Converged", f"{count} allocation{' is' if count == 1 else 's are'} ready")


def _reconciling(
    desired: Desired | NotSynced, plan: Plan, observed: Observed, source: SourceState, now: datetime
) -> Condition:
    changing = [gpu for gpu in _changing(observed) if gpu.actions]
    if changing:
        what = "; ".join(f"{gpu.last.name}: {gpu.doing}" for gpu in changing)
        return _condition(RECONCILING, True, "Changing", what, source, now)
    if plan.actions:
        return _condition(RECONCILING, True, "Planned", f"{len(plan.actions)} actions planned", source, now)
    if any(outcome.phase is Phase.FAILED for outcome in plan.outcomes):
        return _condition(RECONCILING, True, "Retrying", "waiting to try again", source, now)
    paused = isinstance(desired, Desired) and desired.paused
    return _condition(RECONCILING, False, "Paused" if paused else "Idle", "", source, now)


def _stalled(desired: Desired | NotSynced, plan: Plan, source: SourceState, now: datetime) -> Condition:
    """Stalled: something that only a person can mend."""
    if source.error is not None:
        return _condition(STALLED, True, "InvalidDesiredState", source.error, source, now)
    refused = [outcome for outcome in plan.outcomes if outcome.phase is Phase.REFUSED]
    problems = [f"{outcome.name}: {outcome.message}" for outcome in refused]
    if isinstance(desired, Desired):
        problems += [str(refusal) for refusal in desired.refused_overrides]
    if problems:
        return _condition(STALLED, True, "Refused", "; ".join(problems), source, now)
    return _condition(STALLED, False, "NoObstacle", "", source, now)


def _overridden(plan: Plan, source: SourceState, now: datetime) -> Condition:
    if plan.overridden:
        return _condition(OVERRIDDEN, True, "Overrides", "; ".join(plan.overridden), source, now)
    return _condition(OVERRIDDEN, False, "NoOverrides", "", source, now)


def _changing(observed: Observed) -> list[Changing]:
    return [gpu for gpu in observed.gpus.values() if isinstance(gpu, Changing)]


def _planned(plan: Plan) -> Iterable[PlannedAction]:
    for action in plan.actions:
        match action:
            case RemoveCdiSpec() | WriteCdiSpec():
                yield PlannedAction(device=action.pf or "", action=str(action))
            case _:
                yield PlannedAction(device=action.pf, action=str(action))


def _users(outcomes: Iterable[Outcome]) -> dict[str, tuple[str, ...]]:
    """Which allocations have each GPU, in full or in part."""
    users: dict[str, tuple[str, ...]] = {}
    for outcome in outcomes:
        if outcome.phase in (Phase.REFUSED, Phase.BLOCKED):
            continue
        for pf in sorted({_pf_text(device.device) for device in outcome.devices}):
            users[pf] = (*users.get(pf, ()), outcome.claim or outcome.name)
    return users


def _pf_text(device: str) -> str:
    return "-".join(device.split("-")[:5])


def _allocations(
    outcomes: Iterable[Outcome], previous: NodeStatus | None, now: datetime
) -> tuple[AllocationStatus, ...]:
    before: Mapping[tuple[str, str], AllocationStatus] = {}
    if previous is not None:
        before = {(status.origin, status.name): status for status in previous.allocations}
    statuses = []
    for outcome in outcomes:
        last = before.get((outcome.origin.value, outcome.name))
        since = last.since if last is not None and last.phase == outcome.phase.value else now
        statuses.append(
            AllocationStatus(
                name=outcome.name,
                origin=outcome.origin.value,
                phase=outcome.phase.value,
                since=since,
                message=outcome.message,
                claim=outcome.claim,
                devices=outcome.devices,
                cdi_devices=outcome.cdi_devices,
                in_use=outcome.in_use,
                attempts=outcome.attempts,
            )
        )
    return tuple(statuses)


def describe_device(
    seen: PfSeen | Changing,
    observed: Observed,
    desired: Desired | NotSynced,
    table: ProfileTable,
    users: tuple[str, ...],
) -> DeviceStatus:
    """One GPU as an inventory shows it."""
    gpu = seen.last if isinstance(seen, Changing) else seen
    driver = gpu.function.driver
    override = desired.overrides.get(gpu.name) if isinstance(desired, Desired) else None
    return DeviceStatus(
        name=gpu.name,
        pci_address=gpu.function.address,
        pci_id=f"0x{gpu.device_id:04x}",
        model=gpu.model.name,
        family=gpu.model.family,
        health=_health(gpu),
        driver=str(driver) if driver is not None else "",
        memory=None
        if gpu.memory is None
        else MemoryStatus(bytes=gpu.memory.total, source=gpu.memory.source.value),
        ecc="" if gpu.ecc is Ecc.UNKNOWN else gpu.ecc.value,
        tiles=gpu.tiles,
        integrated=gpu.integrated,
        numa_node=gpu.numa_node,
        pcie_root=gpu.pcie_root or "",
        link=gpu.link or "",
        subsystem=_subsystem(gpu),
        sriov=_sriov(gpu, observed, table),
        nodes=NodesStatus(
            drm=tuple(node.path for node in gpu.function.drm),
            vfio=tuple(node.path for node in gpu.function.vfio),
            mei=tuple(node.path for node in gpu.mei),
        ),
        sickness=tuple(SicknessStatus(cause=sick.cause.value, message=sick.message) for sick in gpu.sickness),
        changing=seen.doing if isinstance(seen, Changing) else "",
        override="" if override is None else override.mode.value,
        original_driver=_original_driver(gpu.name, observed),
        users=users,
    )


def _health(gpu: PfSeen) -> str:
    if not gpu.sickness:
        return "Healthy"
    only_unreadable = all(sick.cause is HealthCause.UNREADABLE for sick in gpu.sickness)
    return "Unknown" if only_unreadable else "Unhealthy"


def _subsystem(gpu: PfSeen) -> str:
    if gpu.subsystem_vendor is None or gpu.subsystem_device is None:
        return ""
    return f"0x{gpu.subsystem_vendor:04x}:0x{gpu.subsystem_device:04x}"


def _sriov(gpu: PfSeen, observed: Observed, table: ProfileTable) -> SriovStatus | None:
    if not isinstance(gpu.sriov, SriovSeen) or gpu.sriov.total == 0:
        return None
    layout = layout_of(gpu, table)
    owner = ""
    if gpu.sriov.enabled:
        owner = "ours" if _is_ours(gpu.name, observed) else "foreign"
    return SriovStatus(
        total=gpu.sriov.total,
        enabled=gpu.sriov.enabled,
        layout="" if layout is None else layout.name,
        owner=owner,
        quotas=gpu.sriov.provisioning is not None and gpu.sriov.provisioning.quotas_writable,
    )


def _original_driver(pf: DeviceName, observed: Observed) -> str | None:
    if isinstance(observed.ownership, Unreadable):
        return None
    binding = observed.ownership.bindings.get(pf)
    return None if binding is None or binding.boot_id != observed.boot_id else binding.original or ""


def _is_ours(pf: DeviceName, observed: Observed) -> bool:
    if isinstance(observed.ownership, Unreadable):
        return False
    ownership: Ownership = observed.ownership
    layout = ownership.layouts.get(pf)
    return layout is not None and layout.boot_id == observed.boot_id
