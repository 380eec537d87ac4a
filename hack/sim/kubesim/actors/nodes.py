"""Which pods and devices fit which nodes."""

from collections.abc import Callable, Iterable, Mapping

from kubesim.values import Object, Value, at, objects

HARD = ("NoSchedule", "NoExecute")


def name_of(node: Object) -> str:
    name: str = node["metadata"]["name"]
    return name


def reaches(place: Object, node: Object) -> bool:
    """Whether a slice (or device) with these fields is for a node."""
    if place.get("allNodes"):
        return True
    if place.get("nodeName"):
        return bool(place["nodeName"] == name_of(node))
    return selected(place.get("nodeSelector"), node)


def selected(selector: Value, node: Object) -> bool:
    """Whether a v1.NodeSelector selects a node: any of its terms does; none selects nothing."""
    return any(_term(term, node) for term in objects(at(selector, "nodeSelectorTerms")))


def _term(term: Object, node: Object) -> bool:
    expressions = list(objects(term.get("matchExpressions")))
    matched = list(objects(term.get("matchFields")))
    if not expressions and not matched:
        return False
    labels = node["metadata"].get("labels") or {}
    return all(_matches(each, labels) for each in expressions) and all(
        _matches(each, {"metadata.name": name_of(node)}) for each in matched
    )


OPERATORS: Mapping[str, Callable[[str | None, list[str]], bool]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
    "Gt": lambda value, values: value is not None and int(value) > int(values[0]),
    "Lt": lambda value, values: value is not None and int(value) < int(values[0]),
}


def _matches(requirement: Object, labels: Mapping[str, str]) -> bool:
    values = requirement.get("values") or []
    return OPERATORS[requirement["operator"]](labels.get(requirement["key"]), values)


def tolerates(tolerations: Iterable[Object], key: str, value: str, effect: str) -> bool:
    """Whether one of the tolerations (of pods or of device requests) tolerates a taint."""
    return any(tolerated(each, key, value, effect) for each in tolerations)


def tolerated(toleration: Object, key: str, value: str, effect: str) -> bool:
    """Whether this toleration tolerates a taint; no key means any, no effect means all."""
    if toleration.get("effect") and toleration["effect"] != effect:
        return False
    if toleration.get("key") and toleration["key"] != key:
        return False
    return toleration.get("operator") == "Exists" or bool((toleration.get("value") or "") == value)


def preference(pod: Object, node: Object) -> int:
    """How much a pod would like to go to a node: the weights of the preferences that the node meets."""
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    wishes = objects(at(pod, "spec", "affinity", "nodeAffinity", preferred))
    return sum(each["weight"] for each in wishes if _term(each["preference"], node))


def why_not(pod: Object, node: Object) -> str:
    """Why a pod's own wishes keep it off a node, in the scheduler's words; "" if they don't."""
    spec = pod["spec"]
    tolerations = list(objects(spec.get("tolerations")))
    if at(node, "spec", "unschedulable") and not tolerates(
        tolerations, "node.kubernetes.io/unschedulable", "", "NoSchedule"
    ):
        return "node(s) were unschedulable"
    for taint in objects(at(node, "spec", "taints")):
        known = tolerates(tolerations, taint["key"], taint.get("value") or "", taint["effect"])
        if taint["effect"] in HARD and not known:
            return "node(s) had untolerated taint(s)"
    labels = node["metadata"].get("labels") or {}
    wanted = spec.get("nodeSelector") or {}
    required = at(spec, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    if any(labels.get(key) != value for key, value in wanted.items()) or (
        required is not None and not selected(required, node)
    ):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""
