"""The columns of built-in kinds, and how a moment becomes an age."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from kubesim.values import Object, Value, at, objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column; `value` finds its cell. `last` means that no age follows.

    `field` is the path of the field that the description is of, where there is no text.
    """

    name: str
    value: Callable[[Object], Value]
    type: str = "string"
    format: str = ""
    description: str = ""
    field: tuple[str, ...] = ()
    priority: int = 0
    moment: bool = False
    last: bool = False

    def cell(self, shown: Object, now: datetime) -> Value:
        found = self.value(shown)
        if self.moment:
            return age(found, now)
        if self.type in ("integer", "number", "boolean") or found is None:
            return found
        return found if isinstance(found, str) else _text(found)


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def age(moment: Value, now: datetime) -> str:
    """How long ago a timestamp was, as kubectl words it (duration.HumanDuration)."""
    if not isinstance(moment, str):
        return "<unknown>"
    seconds = int((now - datetime.fromisoformat(moment.replace("Z", "+00:00"))).total_seconds())
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    years = days // 365
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if years < 2:
        return f"{days}d"
    if years < 8:
        return f"{years}y{days % 365}d" if days % 365 else f"{years}y"
    return f"{years}y"


def _field(name: str, *path: str, kind: str = "string") -> Column:
    return Column(name=name, type=kind, field=path, value=lambda shown: _or_empty(at(shown, *path), kind))


def _or_empty(value: Value, kind: str) -> Value:
    if value is not None:
        return value
    return 0 if kind == "integer" else ""


def _count(name: str, *parts: str) -> Column:
    return Column(name=name, type="integer", value=lambda shown: sum(len(shown.get(part) or ()) for part in parts))


def _condition(shown: Object, kind: str) -> str:
    status = next(
        (c.get("status") for c in objects(at(shown, "status", "conditions")) if c.get("type") == kind), None
    )
    return {"True": kind, "False": f"Not{kind}"}.get(status or "", "Unknown")


def _node_status(node: Object) -> str:
    word = _condition(node, "Ready")
    return f"{word},SchedulingDisabled" if at(node, "spec", "unschedulable") else word


def _roles(node: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = [key.removeprefix(prefix) for key in at(node, "metadata", "labels") or {} if key.startswith(prefix)]
    return ",".join(sorted(roles)) or "<none>"


def _ready(pod: Object) -> str:
    statuses = list(objects(at(pod, "status", "containerStatuses")))
    total = len(at(pod, "spec", "containers") or ())
    return f"{sum(bool(each.get('ready')) for each in statuses)}/{total}"


def _pod_status(pod: Object) -> Value:
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    return at(pod, "status", "reason") or at(pod, "status", "phase")


def _restarts(pod: Object) -> str:
    return str(sum(each.get("restartCount", 0) for each in objects(at(pod, "status", "containerStatuses"))))


def _claim_state(claim: Object) -> str:
    states = []
    if "deletionTimestamp" in claim["metadata"]:
        states.append("deleted")
    allocated, reserved = at(claim, "status", "allocation"), at(claim, "status", "reservedFor")
    if not allocated:
        if "deletionTimestamp" not in claim["metadata"]:
            states.append("pending")
    else:
        states += ["allocated", *(["reserved"] if reserved else [])]
    return ",".join(states)


def _limit(budget: Object, field: str) -> str:
    value = at(budget, "spec", field)
    return "N/A" if value is None else str(value)


def _seen(event: Object) -> Value:
    for part in ("lastTimestamp", "eventTime", "firstTimestamp"):
        if event.get(part):
            return event[part]
    return None


def _involved(event: Object) -> str:
    involved = event.get("involvedObject") or event.get("regarding") or {}
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


_EVENT = (
    Column(name="Last Seen", value=_seen, moment=True, field=("lastTimestamp",)),
    Column(name="Type", value=lambda event: event.get("type", ""), field=("type",)),
    Column(name="Reason", value=lambda event: event.get("reason", ""), field=("reason",)),
    Column(name="Object", value=_involved, field=("involvedObject",)),
    Column(
        name="Subobject",
        value=lambda event: at(event, "involvedObject", "fieldPath") or "",
        field=("involvedObject", "fieldPath"),
        priority=1,
    ),
    Column(
        name="Source", value=lambda event: at(event, "source", "component") or "", field=("source",), priority=1
    ),
    Column(
        name="Message",
        value=lambda event: (event.get("message") or event.get("note") or "").strip(),
        field=("message",),
    ),
    Column(
        name="First Seen",
        value=lambda event: event.get("firstTimestamp"),
        field=("firstTimestamp",),
        moment=True,
        priority=1,
    ),
    Column(name="Count", value=lambda event: str(event.get("count", 1)), field=("count",), priority=1),
    Column(
        name="Name",
        format="name",
        value=lambda event: event["metadata"]["name"],
        field=("metadata", "name"),
        priority=1,
        last=True,
    ),
)
_STATE = Column(
    name="State",
    value=_claim_state,
    description="A summary of the current state (allocated, pending, reserved, etc.).",
)

COLUMNS: Mapping[tuple[str, str], tuple[Column, ...]] = {
    ("", "configmaps"): (_count("Data", "data", "binaryData"),),
    ("", "events"): _EVENT,
    ("", "namespaces"): (_field("Status", "status", "phase"),),
    ("", "nodes"): (
        Column(name="Status", value=_node_status),
        Column(name="Roles", value=_roles),
        _field("Version", "status", "nodeInfo", "kubeletVersion"),
    ),
    ("", "pods"): (
        Column(name="Ready", value=_ready),
        Column(name="Status", value=_pod_status),
        Column(name="Restarts", value=_restarts),
    ),
    ("", "secrets"): (_field("Type", "type"), _count("Data", "data")),
    ("", "serviceaccounts"): (),
    ("apps", "daemonsets"): (
        _field("Desired", "status", "desiredNumberScheduled", kind="integer"),
        _field("Current", "status", "currentNumberScheduled", kind="integer"),
        _field("Ready", "status", "numberReady", kind="integer"),
        _field("Up-to-date", "status", "updatedNumberScheduled", kind="integer"),
        _field("Available", "status", "numberAvailable", kind="integer"),
    ),
    ("apps", "deployments"): (
        Column(
            name="Ready",
            value=lambda d: f"{at(d, 'status', 'readyReplicas') or 0}/{at(d, 'spec', 'replicas') or 0}",
        ),
        _field("Up-to-date", "status", "updatedReplicas", kind="integer"),
        _field("Available", "status", "availableReplicas", kind="integer"),
    ),
    ("apps", "replicasets"): (
        _field("Desired", "spec", "replicas", kind="integer"),
        _field("Current", "status", "replicas", kind="integer"),
        _field("Ready", "status", "readyReplicas", kind="integer"),
    ),
    ("coordination.k8s.io", "leases"): (_field("Holder", "spec", "holderIdentity"),),
    ("events.k8s.io", "events"): _EVENT,
    ("policy", "poddisruptionbudgets"): (
        Column(name="Min Available", value=lambda budget: _limit(budget, "minAvailable")),
        Column(name="Max Unavailable", value=lambda budget: _limit(budget, "maxUnavailable")),
        _field("Allowed Disruptions", "status", "disruptionsAllowed", kind="integer"),
    ),
    ("resource.k8s.io", "deviceclasses"): (),
    ("resource.k8s.io", "resourceclaims"): (_STATE,),
    ("resource.k8s.io", "resourceclaimtemplates"): (),
    ("resource.k8s.io", "resourceclasses"): (_field("DriverName", "driverName"),),
    ("resource.k8s.io", "resourceslices"): (
        _field("Node", "spec", "nodeName"),
        _field("Driver", "spec", "driver"),
        _field("Pool", "spec", "pool", "name"),
    ),
}
CLASSIC: Mapping[tuple[str, str], tuple[Column, ...]] = {
    ("resource.k8s.io", "resourceclaims"): (
        _field("ResourceClassName", "spec", "resourceClassName"),
        _field("AllocationMode", "spec", "allocationMode"),
        _STATE,
    ),
    ("resource.k8s.io", "resourceclaimtemplates"): (
        _field("ResourceClassName", "spec", "spec", "resourceClassName"),
        _field("AllocationMode", "spec", "spec", "allocationMode"),
    ),
}
"""Up to 1.30."""


def columns_of(key: tuple[str, str], minor: int) -> tuple[Column, ...] | None:
    """The columns of a built-in kind between name and age; None if only these are known."""
    return CLASSIC.get(key, COLUMNS.get(key)) if minor <= 30 else COLUMNS.get(key)
