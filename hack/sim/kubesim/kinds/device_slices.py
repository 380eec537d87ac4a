"""ResourceSlice: what the server of 1.33 and later refuses (recorded from 1.36; older limits: documented)."""

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from kubesim.kinds.behaviour import Behaviour, View
from kubesim.metadata import SUBDOMAIN, label_causes, subdomain_causes
from kubesim.quantities import quantity
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
from kubesim.values import Object, Value, at, objects

Causes: TypeAlias = Iterator[Cause]

DEVICES, DEVICES_WITH_TAINTS = 128, 64
COUNTER_SETS, COUNTERS, SETS_PER_DEVICE = 8, 32, 2
ATTRIBUTES, TEXT_BYTES, NAME_BYTES = 32, 64, 32
BINDING_CONDITIONS = 4
SEPARATE_COUNTERS_SINCE = 35
EFFECTS = ("NoExecute", "NoSchedule", "None")
SELECTIONS = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
VALUES = {
    "int": "IntValue",
    "bool": "BoolValue",
    "string": "StringValue",
    "version": "VersionValue",
    "ints": "IntValues",
    "bools": "BoolValues",
    "strings": "StringValues",
    "versions": "VersionValues",
}
IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
IDENTIFIER_RULE = (
    "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric "
    f"characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '{IDENTIFIER}')"
)
SEMVER = (
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?"
)


def causes(whole: Object, view: View) -> Causes:
    """Everything wrong with a slice."""
    spec = whole.get("spec") or {}
    if view.old is not None:
        yield from _immutable(spec, view.old["spec"])
    yield from _pool_causes(spec.get("pool") or {})
    yield from driver_causes(spec.get("driver", ""), "spec.driver")
    yield from _selection_causes(spec)
    if view.minor >= SEPARATE_COUNTERS_SINCE and "sharedCounters" in spec and "devices" in spec:
        yield invalid_value("spec", "", "only one of `sharedCounters` or `devices` is allowed")
        return
    devices = list(objects(spec.get("devices")))
    heavy = view.minor >= SEPARATE_COUNTERS_SINCE and any(
        each.get("taints") or each.get("consumesCounters") for each in devices
    )
    most = DEVICES_WITH_TAINTS if heavy else DEVICES
    if len(devices) > most:
        yield too_many("spec.devices", len(devices), most)
        return
    names: set[str] = set()
    for index, device in enumerate(devices):
        yield from _device_causes(device, f"spec.devices[{index}]", view.minor)
        if device.get("name") in names:
            yield duplicate(f"spec.devices[{index}]", device["name"])
        names.add(device.get("name", ""))
    yield from _shared_causes(list(objects(spec.get("sharedCounters"))), view.minor)


def _immutable(spec: Object, old: Object) -> Causes:
    for path in (("pool", "name"), ("driver",), ("nodeName",)):
        if at(spec, *path) != at(old, *path):
            yield invalid_value(f"spec.{'.'.join(path)}", at(spec, *path), "field is immutable")


def _pool_causes(pool: Object) -> Causes:
    name = pool.get("name", "")
    if not name:
        yield required("spec.pool.name")
    elif len(name) > 253:
        yield too_long("spec.pool.name", 253)
    for part in name.split("/") if name else ():
        yield from subdomain_causes("spec.pool.name", part)
    if pool.get("resourceSliceCount", 0) <= 0:
        count = pool.get("resourceSliceCount", 0)
        yield invalid_value("spec.pool.resourceSliceCount", count, "must be greater than zero")
    if pool.get("generation", 0) < 0:
        why = "must be greater than or equal to zero"
        yield invalid_value("spec.pool.generation", pool["generation"], why)


def driver_causes(name: str, path: str) -> Causes:
    """A driver's name: a DNS subdomain of at most 63 bytes; upper case is only warned about."""
    if not name:
        yield required(path)
    elif len(name) > 63:
        yield too_long(path, 63)
    elif not re.fullmatch(SUBDOMAIN, name.lower()):
        yield from subdomain_causes(path, name)


def _selection_causes(spec: Object) -> Causes:
    given = [name for name in SELECTIONS if spec.get(name)]
    rule = f"exactly one of {', '.join(f'`{name}`' for name in SELECTIONS)} is required"
    if not given:
        yield required("spec", rule)
    elif len(given) > 1:
        shown = "{" + ", ".join(f"`{name}`" for name in given) + "}"
        yield invalid_value("spec", shown, f"{rule}, but multiple fields are set")


def _device_causes(device: Object, path: str, minor: int) -> Causes:
    yield from label_causes(f"{path}.name", device.get("name", ""))
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > ATTRIBUTES:
        why = f"the total number of attributes and capacities must not exceed {ATTRIBUTES}"
        yield invalid_value(path, len(attributes) + len(capacity), why)
        return
    for name, attribute in attributes.items():
        yield from _name_causes(name, f"{path}.attributes")
        yield from _attribute_causes(attribute, f"{path}.attributes[{name}]")
    for name, entry in capacity.items():
        yield from _name_causes(name, f"{path}.capacity")
        policy = entry.get("requestPolicy")
        if policy is not None:
            shared = bool(device.get("allowMultipleAllocations"))
            yield from _policy_causes(policy, f"{path}.capacity[{name}].requestPolicy", shared=shared)
    yield from _taint_causes(list(objects(device.get("taints"))), path, most=16 if minor >= 35 else 4)
    yield from _binding_causes(device, path)
    consumed = list(objects(device.get("consumesCounters")))
    if len(consumed) > SETS_PER_DEVICE and minor >= SEPARATE_COUNTERS_SINCE:
        yield too_many(f"{path}.consumesCounters", len(consumed), SETS_PER_DEVICE)


def _name_causes(name: str, path: str) -> Causes:
    domain, slash, identifier = name.rpartition("/")
    if slash:
        yield from subdomain_causes(path, domain, longest=63)
    if len(identifier) > NAME_BYTES:
        yield too_long(path, NAME_BYTES)
    if not re.fullmatch(IDENTIFIER, identifier):
        yield invalid_value(path, identifier, IDENTIFIER_RULE)


def _attribute_causes(attribute: Object, path: str) -> Causes:
    given = [name for name in VALUES if attribute.get(name) is not None]
    if len(given) != 1:
        shown: Value = {go: attribute.get(name) for name, go in VALUES.items()} if given else ""
        yield invalid_value(path, shown, "exactly one value must be specified")
        return
    for name, value in (("string", attribute.get("string")), ("version", attribute.get("version"))):
        if value is not None and len(value.encode()) > TEXT_BYTES:
            yield too_long(f"{path}.{name}", TEXT_BYTES)
        elif name == "version" and value is not None and not re.fullmatch(SEMVER, value):
            yield invalid_value(f"{path}.version", value, "must be a string compatible with semver.org spec 2.0.0")


def _policy_causes(policy: Object, path: str, *, shared: bool) -> Causes:
    if not shared:
        yield forbidden(path, "allowMultipleAllocations must be true")
        return
    default, valid, span = policy.get("default"), policy.get("validValues"), policy.get("validRange")
    if default is None:
        return
    amount = quantity(default)
    if valid is not None and amount not in {quantity(each) for each in valid}:
        why = "default value is not valid according to the requestPolicy"
        yield invalid_value(f"{path}.validValues", default, why)
    if span is not None and not _in_range(span, default):
        why = "default value is not valid according to the requestPolicy"
        yield invalid_value(f"{path}.validRange", default, why)


def _in_range(span: Mapping[str, str], default: str) -> bool:
    amount, least = quantity(default), quantity(span.get("min", "0"))
    if amount < least or ("max" in span and amount > quantity(span["max"])):
        return False
    return "step" not in span or (amount - least) % quantity(span["step"]) == 0


def _taint_causes(taints: list[Object], path: str, *, most: int) -> Causes:
    if len(taints) > most:
        yield too_many(f"{path}.taints", len(taints), most)
    for index, taint in enumerate(taints):
        if not taint.get("key"):
            yield required(f"{path}.taints[{index}].key")
        if taint.get("effect") not in EFFECTS:
            yield unsupported(f"{path}.taints[{index}].effect", taint.get("effect", ""), EFFECTS)


def _binding_causes(device: Object, path: str) -> Causes:
    lists = {name: device.get(name) or [] for name in ("bindingConditions", "bindingFailureConditions")}
    for name, conditions in lists.items():
        if len(conditions) > BINDING_CONDITIONS:
            yield too_many(f"{path}.{name}", len(conditions), BINDING_CONDITIONS)
    for name, other in (tuple(lists), tuple(reversed(lists))):
        if lists[other] and not lists[name]:
            yield invalid_value(f"{path}.{name}", None, f"{name} are required to use {other}")


def _shared_causes(sets: list[Object], minor: int) -> Causes:
    if len(sets) > COUNTER_SETS and minor >= SEPARATE_COUNTERS_SINCE:
        yield too_many("spec.sharedCounters", len(sets), COUNTER_SETS)
        return
    for index, each in enumerate(sets):
        counters = each.get("counters") or {}
        if len(counters) > COUNTERS:
            yield too_many(f"spec.sharedCounters[{index}].counters", len(counters), COUNTERS)
        yield from label_causes(f"spec.sharedCounters[{index}].name", each.get("name", ""))


def _warnings(whole: Object) -> Iterator[str]:
    driver = whole["spec"].get("driver", "")
    if driver != driver.lower():
        yield f'spec.driver: driver names should be lowercase; "{driver}" contains uppercase characters'


def _stamp_taints(whole: Object, now: str) -> None:
    """A taint without a time gets one with every write, so that writing the same again is a change."""
    for device in objects(at(whole, "spec", "devices")):
        for taint in objects(device.get("taints")):
            taint.setdefault("timeAdded", now)


def _stamp_rule(rule: Object, now: str) -> None:
    taint = at(rule, "spec", "taint")
    if isinstance(taint, dict):
        taint.setdefault("timeAdded", now)


def _tidy(whole: Object) -> None:
    for name in ("devices", "sharedCounters"):
        if whole["spec"].get(name) == []:
            del whole["spec"][name]


SLICE = Behaviour(
    stamp=_stamp_taints,
    causes=causes,
    tidy=_tidy,
    warnings=_warnings,
    selectable=frozenset({"spec.nodeName", "spec.driver", "spec.pool.name"}),
)
TAINT_RULE = Behaviour(stamp=_stamp_rule)
