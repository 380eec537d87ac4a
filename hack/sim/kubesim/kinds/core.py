"""Namespaces, pods, nodes, events and other kinds of the core group, as far as clients of a driver see them."""

import re
from collections.abc import Iterator

from kubesim.kinds.behaviour import Behaviour, View
from kubesim.refusals import Cause, invalid_value
from kubesim.values import Object, at, objects

CONFIG_KEY = r"[-._a-zA-Z0-9]+"
POD_DEFAULTS: Object = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "serviceAccountName": "default",
    "serviceAccount": "default",
    "securityContext": {},
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
}
CONTAINER_DEFAULTS: Object = {
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}


def _default_namespace(namespace: Object) -> None:
    labels = namespace["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = namespace["metadata"]["name"]
    namespace.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])


def _create_namespace(namespace: Object) -> None:
    namespace["status"] = {"phase": "Active"}


def default_pod_spec(spec: Object) -> None:
    """The defaults of a pod's spec that other objects and people see."""
    for key, value in POD_DEFAULTS.items():
        spec.setdefault(key, value)
    for container in (*objects(spec.get("containers")), *objects(spec.get("initContainers"))):
        for key, value in CONTAINER_DEFAULTS.items():
            container.setdefault(key, value)
        _, colon, tag = container.get("image", "").rpartition(":")
        latest = not colon or "/" in tag or tag == "latest"
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")


def _default_pod(pod: Object) -> None:
    default_pod_spec(pod.setdefault("spec", {}))
    for condition in objects(at(pod, "status", "conditions")):
        condition.setdefault("lastProbeTime", None)
        condition.setdefault("lastTransitionTime", None)


def _create_pod(pod: Object) -> None:
    pod["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def _default_secret(secret: Object) -> None:
    secret.setdefault("type", "Opaque")


def _config_causes(config: Object, view: View) -> Iterator[Cause]:
    for part in ("data", "binaryData"):
        for key in config.get(part) or {}:
            if not re.fullmatch(CONFIG_KEY, key):
                why = (
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
                    f"(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is "
                    f"'{CONFIG_KEY}')"
                )
                yield invalid_value(f"{part}[{key}]", key, why)
    if view.old is not None and view.old.get("immutable"):
        if not config.get("immutable"):
            why = "field is immutable when `immutable` is set"
            yield Cause("FieldValueForbidden", f"Forbidden: {why}", "immutable")
        if config.get("data") != view.old.get("data"):
            why = "field is immutable when `immutable` is set"
            yield Cause("FieldValueForbidden", f"Forbidden: {why}", "data")


def _default_node(node: Object) -> None:
    node.setdefault("spec", {})
    node.setdefault("status", {})


def _default_event(event: Object) -> None:
    """Parts that show whether or not they were given."""
    for name in ("eventTime", "firstTimestamp", "lastTimestamp"):
        event.setdefault(name, None)
    event.setdefault("source", {})
    for name in ("reportingComponent", "reportingInstance"):
        event.setdefault(name, "")


INVOLVED = frozenset(
    f"involvedObject.{part}"
    for part in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
)

NAMESPACE = Behaviour(default=_default_namespace, create=_create_namespace, selectable=frozenset({"status.phase"}))
POD = Behaviour(
    default=_default_pod,
    create=_create_pod,
    selectable=frozenset(
        {"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase",
         "status.podIP", "status.nominatedNodeName"}
    ),
)  # fmt: skip
CONFIG_MAP = Behaviour(causes=_config_causes)
SECRET = Behaviour(default=_default_secret, causes=_config_causes, selectable=frozenset({"type"}))
NODE = Behaviour(default=_default_node, selectable=frozenset({"spec.unschedulable"}))
EVENT = Behaviour(
    default=_default_event,
    selectable=INVOLVED | {"reason", "reportingComponent", "source", "type"},
)
