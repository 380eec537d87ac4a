"""Between the versions in which resource.k8s.io is served and the one form in which it is stored.

Structured kinds are stored as v1 says. v1beta2 is the same; v1beta1 and v1alpha3 have requests without `exactly`
and slices with `basic`, in 1.31 with quantities for capacities. Events are stored as the core group says. Every
other kind has one shape.
"""

from collections.abc import Callable, Mapping

from kubesim.resources import Resource
from kubesim.values import Object, Value, objects

FLAT = frozenset({"v1alpha3", "v1beta1"})
REQUEST_FIELDS = frozenset(
    {"adminAccess", "allocationMode", "capacity", "count", "deviceClassName", "selectors", "tolerations"}
)
EVENT_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "count": "deprecatedCount",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "source": "deprecatedSource",
}


def to_internal(resource: Resource, version: str, sent: Object) -> Object:
    """The stored form of an object of some version."""
    if resource.stored_as is not None:
        back = {new: old for old, new in EVENT_NAMES.items()}
        return {back.get(key, key): value for key, value in sent.items()}
    if resource.plain_capacities:
        return _slice(_without_basic)(_slice(_with_values)(sent))
    if version in FLAT and resource.plural in UPWARD and resource.internal == "v1":
        return UPWARD[resource.plural](sent)
    return sent


def to_version(resource: Resource, version: str, stored: Object) -> Object:
    """An object of some version from its stored form."""
    if resource.stored_as is not None:
        return {EVENT_NAMES.get(key, key): value for key, value in stored.items()}
    if resource.plain_capacities:
        return _slice(_with_quantities)(_slice(_with_basic)(stored))
    if version in FLAT and resource.plural in DOWNWARD and resource.internal == "v1":
        return DOWNWARD[resource.plural](stored)
    return stored


def _each_request(claim_spec: Object, change: Callable[[Object], Object]) -> Object:
    devices = claim_spec.get("devices")
    if not isinstance(devices, dict) or "requests" not in devices:
        return claim_spec
    requests = [change(request) for request in objects(devices["requests"])]
    return {**claim_spec, "devices": {**devices, "requests": requests}}


def _nested(request: Object) -> Object:
    """{name, deviceClassName, ...} as {name, exactly: {deviceClassName, ...}}."""
    exactly = {key: value for key, value in request.items() if key in REQUEST_FIELDS}
    rest = {key: value for key, value in request.items() if key not in REQUEST_FIELDS}
    return {**rest, "exactly": exactly} if exactly else rest


def _flat(request: Object) -> Object:
    rest = {key: value for key, value in request.items() if key != "exactly"}
    return {**rest, **(request.get("exactly") or {})}


def _claim(change: Callable[[Object], Object]) -> Callable[[Object], Object]:
    return lambda claim: {**claim, "spec": _each_request(claim["spec"], change)} if "spec" in claim else claim


def _template(change: Callable[[Object], Object]) -> Callable[[Object], Object]:
    convert = _claim(change)
    return lambda template: {**template, "spec": convert(template["spec"])} if "spec" in template else template


def _slice(change: Callable[[Object], Object]) -> Callable[[Object], Object]:
    def convert(whole: Object) -> Object:
        spec = whole.get("spec")
        if not isinstance(spec, dict) or "devices" not in spec:
            return whole
        return {**whole, "spec": {**spec, "devices": [change(device) for device in objects(spec["devices"])]}}

    return convert


def _without_basic(device: Object) -> Object:
    return {**{key: value for key, value in device.items() if key != "basic"}, **(device.get("basic") or {})}


def _with_basic(device: Object) -> Object:
    return {"name": device.get("name"), "basic": {key: value for key, value in device.items() if key != "name"}}


def _each_capacity(device: Object, change: Callable[[Value], Value]) -> Object:
    basic = device.get("basic")
    if not isinstance(basic, dict) or not isinstance(basic.get("capacity"), dict):
        return device
    capacity = {name: change(value) for name, value in basic["capacity"].items()}
    return {**device, "basic": {**basic, "capacity": capacity}}


def _with_values(device: Object) -> Object:
    return _each_capacity(device, lambda quantity: {"value": quantity})


def _with_quantities(device: Object) -> Object:
    return _each_capacity(device, lambda entry: entry.get("value") if isinstance(entry, dict) else entry)


UPWARD: Mapping[str, Callable[[Object], Object]] = {
    "resourceclaims": _claim(_nested),
    "resourceclaimtemplates": _template(_nested),
    "resourceslices": _slice(_without_basic),
}
DOWNWARD: Mapping[str, Callable[[Object], Object]] = {
    "resourceclaims": _claim(_flat),
    "resourceclaimtemplates": _template(_flat),
    "resourceslices": _slice(_with_basic),
}
