"""What the node agent counts, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable

from reconciler.node.applying import Step
from reconciler.runtime.loop import PassRun
from reconciler.runtime.metrics import Kind, Metric, Metrics
from state.outcomes import Phase
from state.planning import Plan
from state.slices.model import Device
from state.status import NodeStatus, condition_of
from state.summary import READY

PASSES = "gpu_reconciler_passes_total"
PASS_SECONDS = "gpu_reconciler_pass_seconds"
ACTIONS = "gpu_reconciler_actions_total"
ACTION_SECONDS = "gpu_reconciler_action_seconds"
PLANNED = "gpu_reconciler_planned_actions"
BLOCKED = "gpu_reconciler_blocked"
DRIFT = "gpu_reconciler_drift"
ALLOCATIONS = "gpu_reconciler_allocations"
CONVERGED = "gpu_reconciler_convergence_seconds"
BACKING_OFF = "gpu_reconciler_backing_off"
GPUS = "gpu_reconciler_gpus"
VFS = "gpu_reconciler_virtual_functions"
SLICE_WRITES = "gpu_reconciler_slice_writes_total"
SLICE_BACKLOG = "gpu_reconciler_slice_backlog"
SLICE_DEVICES = "gpu_reconciler_slice_devices"

_EFFECTS = ("NoExecute", "NoSchedule", "None")
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

DECLARED = (
    Metric(name=PASSES, help="Passes of the loop, by result.", kind=Kind.COUNTER, labels=("result",)),
    Metric(name=PASS_SECONDS, help="Time a pass took.", kind=Kind.HISTOGRAM, buckets=_FAST),
    Metric(name=ACTIONS, help="Actions done, by kind and result.", kind=Kind.COUNTER, labels=("kind", "result")),
    Metric(name=ACTION_SECONDS, help="Time an action took.", kind=Kind.HISTOGRAM, labels=("kind",), buckets=_SLOW),
    Metric(name=PLANNED, help="Actions in the last plan.", kind=Kind.GAUGE),
    Metric(name=BLOCKED, help="Things wanted that have to wait.", kind=Kind.GAUGE),
    Metric(name=DRIFT, help="1 while the machine is not as it is wanted, else 0.", kind=Kind.GAUGE),
    Metric(name=ALLOCATIONS, help="Allocations, by phase.", kind=Kind.GAUGE, labels=("phase",)),
    Metric(name=CONVERGED, help="Time from drift to none.", kind=Kind.HISTOGRAM, buckets=_SLOW),
    Metric(name=BACKING_OFF, help="Units of work that failed and wait to be tried again.", kind=Kind.GAUGE),
    Metric(name=GPUS, help="GPUs, by health.", kind=Kind.GAUGE, labels=("health",)),
    Metric(name=VFS, help="Virtual functions enabled, by GPU.", kind=Kind.GAUGE, labels=("device",)),
    Metric(name=SLICE_WRITES, help="Writes of ResourceSlices, by result.", kind=Kind.COUNTER, labels=("result",)),
    Metric(name=SLICE_BACKLOG, help="ResourceSlices that are not as they should be.", kind=Kind.GAUGE),
    Metric(
        name=SLICE_DEVICES,
        help="Devices in ResourceSlices, by the gravest effect of their taints (None: free of them).",
        kind=Kind.GAUGE,
        labels=("effect",),
    ),
)


def report_run(metrics: Metrics, run: PassRun) -> None:
    """Count a pass and the time it took."""
    metrics.count(PASSES, result="crashed" if run.crashed else "ok")
    metrics.observe(PASS_SECONDS, run.seconds)


def report_step(metrics: Metrics, step: Step) -> None:
    """Count an action."""
    kind = type(step.action).__name__
    metrics.count(ACTIONS, kind=kind, result="ok" if step.failed is None else "failed")
    metrics.observe(ACTION_SECONDS, step.seconds, kind=kind)


def report_devices(metrics: Metrics, devices: Iterable[Device]) -> None:
    """Show what schedulers have to choose from."""
    found = Counter(_gravest({taint.effect for taint in device.taints}) for device in devices)
    for effect in _EFFECTS:
        metrics.gauge(SLICE_DEVICES, found[effect], effect=effect)


def _gravest(effects: Container[str]) -> str:
    return next(effect for effect in _EFFECTS if effect in effects or effect == "None")


class Progress:
    """Shows what each pass found, and how long the machine was not as wanted."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._drifting_since: float | None = None

    def report(self, todo: Plan, status: NodeStatus, backing_off: int) -> None:
        """Show the pass that gave this plan and status."""
        _show(self._metrics, todo, status)
        self._metrics.gauge(BACKING_OFF, backing_off)
        ready = condition_of(status, READY)
        drifts = ready is None or ready.status != "True"
        self._metrics.gauge(DRIFT, int(drifts))
        if drifts and self._drifting_since is None:
            self._drifting_since = self._clock()
        elif not drifts and self._drifting_since is not None:
            self._metrics.observe(CONVERGED, self._clock() - self._drifting_since)
            self._drifting_since = None


def _show(metrics: Metrics, todo: Plan, status: NodeStatus) -> None:
    metrics.gauge(PLANNED, len(todo.actions))
    metrics.gauge(BLOCKED, len(todo.blocked))
    phases = Counter(outcome.phase for outcome in todo.outcomes)
    for phase in Phase:
        metrics.gauge(ALLOCATIONS, phases[phase], phase=phase.value)
    healths = Counter(device.health for device in status.devices)
    for health in ("Healthy", "Unhealthy", "Unknown"):
        metrics.gauge(GPUS, healths[health], health=health)
    for device in status.devices:
        metrics.gauge(VFS, 0 if device.sriov is None else device.sriov.enabled, device=device.name)
