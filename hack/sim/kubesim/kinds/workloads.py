"""Deployments, daemon sets and replica sets: stored, with the defaults that show."""

from kubesim.kinds.behaviour import Behaviour
from kubesim.kinds.core import default_pod_spec
from kubesim.values import Object


def _template(workload: Object) -> Object:
    spec: Object = workload.setdefault("spec", {})
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    default_pod_spec(template.setdefault("spec", {}))
    return spec


def _default_deployment(deployment: Object) -> None:
    spec = _template(deployment)
    spec.setdefault("replicas", 1)
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
    spec.setdefault("strategy", rolling)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def _default_daemon_set(daemon_set: Object) -> None:
    spec = _template(daemon_set)
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    spec.setdefault("updateStrategy", rolling)
    spec.setdefault("revisionHistoryLimit", 10)


def _default_replica_set(replica_set: Object) -> None:
    _template(replica_set).setdefault("replicas", 1)


def _create(workload: Object) -> None:
    workload["status"] = {}


def _create_daemon_set(daemon_set: Object) -> None:
    counts = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady")
    daemon_set["status"] = dict.fromkeys(counts, 0)


DEPLOYMENT = Behaviour(default=_default_deployment, create=_create)
DAEMON_SET = Behaviour(default=_default_daemon_set, create=_create_daemon_set)
REPLICA_SET = Behaviour(default=_default_replica_set, create=_create)
