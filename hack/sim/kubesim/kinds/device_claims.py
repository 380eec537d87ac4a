"""ResourceClaim and its template, structured (1.31 and later), as stored: the form of v1."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from kubesim.kinds.behaviour import Behaviour, View
from kubesim.kinds.device_slices import driver_causes
from kubesim.metadata import label_causes
from kubesim.refusals import (
    Cause,
    duplicate,
    forbidden,
    invalid_value,
    required,
    too_long,
    too_many,
    unsupported,
)
from kubesim.values import Object, Value, at, encode, objects

Causes: TypeAlias = Iterator[Cause]

REQUESTS, SUBREQUESTS, SELECTORS, CONFIGS, CONSTRAINTS = 32, 8, 32, 32, 32
CONSUMERS, CONDITIONS, DATA_BYTES = 256, 8, 10240
ADMIN_LABEL = "resource.kubernetes.io/admin-access"
NEEDS_LABEL = f"admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
NAMED_BADLY = (
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
)


def default_spec(spec: Object) -> None:
    """One device a request, unless it says otherwise."""
    for request in objects(at(spec, "devices", "requests")):
        for part in (*objects([request.get("exactly")]), *objects(request.get("firstAvailable"))):
            if part.setdefault("allocationMode", "ExactCount") == "ExactCount":
                part.setdefault("count", 1)
            for toleration in objects(part.get("tolerations")):
                toleration.setdefault("operator", "Equal")


def spec_causes(spec: Object, path: str, namespace_labels: Mapping[str, str]) -> Causes:
    """What is wrong with a claim's spec."""
    devices = spec.get("devices") or {}
    requests = list(objects(devices.get("requests")))
    if len(requests) > REQUESTS:
        yield too_many(f"{path}.devices.requests", len(requests), REQUESTS)
        return
    seen: set[str] = set()
    for index, request in enumerate(requests):
        place = f"{path}.devices.requests[{index}]"
        yield from _request_causes(request, place, namespace_labels)
        if request.get("name") in seen:
            yield duplicate(place, request["name"])
        seen.add(request.get("name", ""))
    names = _names(requests)
    constraints = list(objects(devices.get("constraints")))
    if len(constraints) > CONSTRAINTS:
        yield too_many(f"{path}.devices.constraints", len(constraints), CONSTRAINTS)
    for index, constraint in enumerate(constraints):
        yield from _known(constraint.get("requests"), names, f"{path}.devices.constraints[{index}].requests")
    configs = list(objects(devices.get("config")))
    if len(configs) > CONFIGS:
        yield too_many(f"{path}.devices.config", len(configs), CONFIGS)
    for index, config in enumerate(configs):
        yield from _known(config.get("requests"), names, f"{path}.devices.config[{index}].requests")
        yield from opaque_causes(config, f"{path}.devices.config[{index}]")


def _names(requests: list[Object]) -> set[str]:
    """How requests may be referred to: by name, and by name and sub-request."""
    names = {request.get("name", "") for request in requests}
    for request in requests:
        names |= {f"{request.get('name')}/{sub.get('name')}" for sub in objects(request.get("firstAvailable"))}
    return names


def _known(wanted: Value, names: set[str], path: str) -> Causes:
    for index, name in enumerate(wanted or ()):
        if name not in names:
            yield invalid_value(f"{path}[{index}]", name, NAMED_BADLY)


def _request_causes(request: Object, path: str, labels: Mapping[str, str]) -> Causes:
    yield from label_causes(f"{path}.name", request.get("name", ""))
    exactly, alternatives = request.get("exactly"), list(objects(request.get("firstAvailable")))
    rule = "exactly one of `exactly` or `firstAvailable` is required"
    if exactly is None and not alternatives:
        yield required(path, rule)
    elif exactly is not None and alternatives:
        yield invalid_value(path, None, f"{rule}, but multiple fields are set")
    elif exactly is not None:
        if exactly.get("adminAccess") and labels.get(ADMIN_LABEL) != "true":
            yield forbidden(f"{path}.adminAccess", NEEDS_LABEL)
        yield from _part_causes(exactly, f"{path}.exactly")
    elif len(alternatives) > SUBREQUESTS:
        yield too_many(f"{path}.firstAvailable", len(alternatives), SUBREQUESTS)
    else:
        for index, part in enumerate(alternatives):
            yield from label_causes(f"{path}.firstAvailable[{index}].name", part.get("name", ""))
            yield from _part_causes(part, f"{path}.firstAvailable[{index}]")


def _part_causes(part: Object, path: str) -> Causes:
    if not part.get("deviceClassName"):
        yield required(f"{path}.deviceClassName")
    mode = part.get("allocationMode")
    if mode not in ("All", "ExactCount"):
        yield unsupported(f"{path}.allocationMode", mode, ("All", "ExactCount"))
    elif mode == "All" and part.get("count"):
        yield invalid_value(f"{path}.count", part["count"], "must not be specified when allocationMode is 'All'")
    elif mode == "ExactCount" and part.get("count", 0) <= 0:
        yield invalid_value(f"{path}.count", part.get("count", 0), "must be greater than zero")
    selectors = list(objects(part.get("selectors")))
    if len(selectors) > SELECTORS:
        yield too_many(f"{path}.selectors", len(selectors), SELECTORS)
    yield from selector_causes(selectors, f"{path}.selectors")


def selector_causes(selectors: list[Object], path: str) -> Causes:
    """CEL expressions that can't be parsed; their types are not checked."""
    for index, selector in enumerate(selectors):
        expression = at(selector, "cel", "expression")
        place = f"{path}[{index}].cel"
        if expression is None:
            yield required(place)
        elif problem := _parse_problem(expression):
            yield invalid_value(f"{place}.expression", expression, f"compilation failed: {problem}")


def _parse_problem(expression: str) -> str:
    import cel

    try:
        cel.compile(expression)
    except ValueError as error:
        text = str(error)
        start = text.find("ERROR: ")
        return (text[start:] if start >= 0 else text).replace("\n| ", "\n | ").rstrip()
    return ""


def opaque_causes(config: Object, path: str) -> Causes:
    """A driver's own configuration: an object, and not too large."""
    opaque = config.get("opaque")
    if opaque is None:
        yield required(f"{path}.opaque")
        return
    yield from driver_causes(opaque.get("driver", ""), f"{path}.opaque.driver")
    parameters = opaque.get("parameters")
    place = f"{path}.opaque.parameters"
    if parameters is None:
        yield required(place)
    elif len(encode(parameters)) > DATA_BYTES:
        yield too_long(place, DATA_BYTES)
    elif not isinstance(parameters, dict):
        yield invalid_value(place, "<value omitted>", "must be a valid JSON object")


def _claim_causes(claim: Object, view: View) -> Causes:
    if view.old is not None and claim.get("spec") != view.old.get("spec"):
        yield invalid_value("spec", claim.get("spec"), "field is immutable")
    elif view.old is None:
        yield from spec_causes(claim.get("spec") or {}, "spec", view.namespace_labels)
    if view.subresource == "status" and view.old is not None:
        yield from _status_causes(claim, view.old)


def _status_causes(claim: Object, old: Object) -> Causes:
    status, before = claim.get("status") or {}, old.get("status") or {}
    allocation, consumers = status.get("allocation"), list(objects(status.get("reservedFor")))
    if len(consumers) > CONSUMERS:
        yield too_many("status.reservedFor", len(consumers), CONSUMERS)
    if consumers and allocation is None:
        yield forbidden("status.reservedFor", "may not be specified when `allocated` is not set")
    if before.get("allocation") is not None and allocation not in (None, before["allocation"]):
        yield invalid_value("status.allocation", allocation, "field is immutable")
    if allocation is not None and before.get("allocation") is None:
        if "deletionTimestamp" in claim["metadata"]:
            yield forbidden("status.allocation", "may not be set while the claim is being deleted")
        names = _names(list(objects(at(claim, "spec", "devices", "requests"))))
        for index, result in enumerate(objects(at(allocation, "devices", "results"))):
            if result.get("request") not in names:
                place = f"status.allocation.devices.results[{index}].request"
                yield invalid_value(place, result.get("request", ""), NAMED_BADLY)
    yield from _device_status_causes(list(objects(status.get("devices"))), allocation)


def _device_status_causes(devices: list[Object], allocation: Object | None) -> Causes:
    allocated = {_identity(each) for each in objects(at(allocation, "devices", "results"))}
    seen: set[tuple[str, ...]] = set()
    for index, device in enumerate(devices):
        place, identity = f"status.devices[{index}]", _identity(device)
        shown = dict(zip(("Driver", "Pool", "Device", "ShareID"), identity, strict=True))
        if identity in seen:
            yield duplicate(place, shown)
        elif identity not in allocated:
            yield invalid_value(place, shown, "must be an allocated device in the claim")
        seen.add(identity)
        yield from _condition_causes(list(objects(device.get("conditions"))), f"{place}.conditions")
        data = device.get("data")
        if data is not None and len(encode(data)) > DATA_BYTES:
            yield too_long(f"{place}.data", DATA_BYTES)


def _identity(device: Object) -> tuple[str, ...]:
    return tuple(device.get(part) or "" for part in ("driver", "pool", "device", "shareID"))


def _condition_causes(conditions: list[Object], path: str) -> Causes:
    if len(conditions) > CONDITIONS:
        yield too_many(path, len(conditions), CONDITIONS)
        return
    for index, condition in enumerate(conditions):
        for part in ("type", "reason", "lastTransitionTime"):
            if not condition.get(part):
                yield required(f"{path}[{index}].{part}")
        if condition.get("status") not in ("True", "False", "Unknown"):
            allowed = ("False", "True", "Unknown")
            yield unsupported(f"{path}[{index}].status", condition.get("status", ""), allowed)


def _default_claim(claim: Object) -> None:
    default_spec(claim.setdefault("spec", {}))
    status = claim.setdefault("status", {})
    for device in objects(status.get("devices")):
        device.setdefault("conditions", None)


def _update_claim(claim: Object, old: Object) -> None:
    """What was said about devices goes with their allocation."""
    before = {_identity(each) for each in objects(at(old, "status", "allocation", "devices", "results"))}
    now = {_identity(each) for each in objects(at(claim, "status", "allocation", "devices", "results"))}
    devices = [each for each in objects(at(claim, "status", "devices")) if _identity(each) not in before - now]
    if devices:
        claim["status"]["devices"] = devices
    else:
        claim["status"].pop("devices", None)


def _default_template(template: Object) -> None:
    inner = template.setdefault("spec", {})
    default_spec(inner.setdefault("spec", {}))


def _template_causes(template: Object, view: View) -> Causes:
    if view.old is not None and template.get("spec") != view.old.get("spec"):
        yield invalid_value("spec", template.get("spec"), "field is immutable")
    elif view.old is None:
        yield from spec_causes(at(template, "spec", "spec") or {}, "spec.spec", view.namespace_labels)


def _class_causes(device_class: Object, _: View) -> Causes:
    spec = device_class.get("spec") or {}
    yield from selector_causes(list(objects(spec.get("selectors"))), "spec.selectors")
    for index, config in enumerate(objects(spec.get("config"))):
        yield from opaque_causes(config, f"spec.config[{index}]")


CLAIM = Behaviour(default=_default_claim, update=_update_claim, causes=_claim_causes)
TEMPLATE = Behaviour(default=_default_template, causes=_template_causes)
CLASS = Behaviour(default=lambda device_class: device_class.setdefault("spec", {}), causes=_class_causes)
