"""ResourceSlices as JSON, in each version of resource.k8s.io that we write.

v1 and v1beta2 have a device's fields side by side, v1beta1 and v1alpha3 have them below ``basic``. v1alpha3 is as
in 1.31, where a capacity is a quantity and nothing else; later kubelets need v1beta1.
"""

from __future__ import annotations

from typing import Final

import msgspec

from state.dra.quantities import whole_units
from state.slices.model import MODE, Capacity, Device, LiveSlice, Pool, Slice, Taint, Value

VF_READY: Final = "gpu.intel.com/vf-ready"
"""Condition of a claim's device that pods wait for where binding conditions are in use."""
VF_FAILED: Final = "gpu.intel.com/vf-failed"
"""Condition that makes the scheduler look for another device."""

_MIB = 1024 * 1024
_MEMORY = "memory"
_PLAIN_CAPACITIES = "v1alpha3"
_BELOW_BASIC = frozenset({"v1beta1", _PLAIN_CAPACITIES})
Json = dict[str, object]


def encode_slice(slice: Slice, row: str, *, owner: Json | None = None, over: LiveSlice | None = None) -> Json:
    """The object to create; or with ``over`` to put in place of exactly that one. ``owner`` is a reference."""
    metadata: Json = {"name": slice.name}
    if over is not None:
        metadata |= {"uid": over.uid, "resourceVersion": over.resource_version}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    pool = slice.pool
    spec: Json = {
        "driver": pool.driver,
        "nodeName": pool.node,
        "pool": {"name": pool.node, "generation": pool.generation, "resourceSliceCount": pool.count},
    }
    # An empty list beside the other field is refused, so what is empty is left out.
    if slice.counters:
        spec["sharedCounters"] = [{"name": name, "counters": _token()} for name in slice.counters]
    if slice.devices:
        spec["devices"] = [_device(device, row) for device in slice.devices]
    return {
        "apiVersion": f"resource.k8s.io/{row}",
        "kind": "ResourceSlice",
        "metadata": metadata,
        "spec": spec,
    }


def _token() -> Json:
    return {MODE: {"value": "1"}}


def _device(device: Device, row: str) -> Json:
    fields: Json = {"attributes": {name: _attribute(value) for name, value in device.attributes}}
    if device.capacity:
        plain = row == _PLAIN_CAPACITIES
        fields["capacity"] = {name: _capacity(name, each, plain=plain) for name, each in device.capacity}
    if device.multiple:
        fields["allowMultipleAllocations"] = True
    if device.counter_set:
        fields["consumesCounters"] = [{"counterSet": device.counter_set, "counters": _token()}]
    if device.taints:
        fields["taints"] = [_taint(taint) for taint in device.taints]
    if device.binding:
        fields |= {
            "bindsToNode": True,
            "bindingConditions": [VF_READY],
            "bindingFailureConditions": [VF_FAILED],
        }
    return {"name": device.name, "basic": fields} if row in _BELOW_BASIC else {"name": device.name, **fields}


def _attribute(value: Value) -> Json:
    match value:
        case bool():
            return {"bool": value}
        case int():
            return {"int": value}
        case str():
            return {"string": value}


def _taint(taint: Taint) -> Json:
    value = {"value": taint.value} if taint.value else {}
    return {"key": taint.key, "effect": taint.effect, **value}


def _capacity(name: str, capacity: Capacity, *, plain: bool) -> Json | str:
    def text(amount: int) -> str:
        return f"{amount // _MIB}Mi" if name == _MEMORY and amount and amount % _MIB == 0 else str(amount)

    if plain:
        return text(capacity.value)
    written: Json = {"value": text(capacity.value)}
    if capacity.default is None:
        return written
    policy: Json = {"default": text(capacity.default)}
    if capacity.allowed:
        policy["validValues"] = [text(amount) for amount in capacity.allowed]
    bounds = {"min": capacity.least, "max": capacity.most, "step": capacity.step}
    given: Json = {bound: text(amount) for bound, amount in bounds.items() if amount is not None}
    if given:
        policy["validRange"] = given
    return {**written, "requestPolicy": policy}


class _Wire(msgspec.Struct, rename="camel"):
    """Part of an object as the server sends it; unknown fields are not read."""


class _Bounds(_Wire):
    least: str | None = msgspec.field(default=None, name="min")
    most: str | None = msgspec.field(default=None, name="max")
    step: str | None = None


class _Policy(_Wire):
    default: str | None = None
    valid_values: list[str] | None = None
    valid_range: _Bounds | None = None


class _Capacity(_Wire):
    value: str
    request_policy: _Policy | None = None


class _Attribute(_Wire):
    string: str | None = None
    number: int | None = msgspec.field(default=None, name="int")
    flag: bool | None = msgspec.field(default=None, name="bool")
    version: str | None = None


class _Taint(_Wire):
    key: str
    effect: str
    value: str | None = None


class _Counter(_Wire):
    value: str


class _Consumed(_Wire):
    counter_set: str
    counters: dict[str, _Counter]


class _Fields(_Wire):
    attributes: dict[str, _Attribute] | None = None
    capacity: dict[str, _Capacity | str] | None = None
    allow_multiple_allocations: bool | None = None
    consumes_counters: list[_Consumed] | None = None
    taints: list[_Taint] | None = None
    binding_conditions: list[str] | None = None
    binding_failure_conditions: list[str] | None = None


class _Device(_Fields):
    name: str = ""
    basic: _Fields | None = None


class _CounterSet(_Wire):
    name: str
    counters: dict[str, _Counter]


class _Pool(_Wire):
    name: str
    generation: int = 0
    resource_slice_count: int = 0


class _Spec(_Wire):
    driver: str
    pool: _Pool
    node_name: str | None = None
    devices: list[_Device] | None = None
    shared_counters: list[_CounterSet] | None = None


class _Metadata(_Wire):
    name: str
    uid: str = ""
    resource_version: str = ""


class _Slice(_Wire):
    metadata: _Metadata
    spec: _Spec


_decode = msgspec.json.Decoder(_Slice).decode


def decode_slice(raw: bytes) -> LiveSlice:
    """A slice in any version, of any driver. Raises ValueError, naming the field, when it is none."""
    wire = _decode(raw)
    spec = wire.spec
    # Ours are named after their nodes; another pool's slice can't be made one of ours.
    is_named_so = spec.pool.name == spec.node_name
    pool = Pool(
        driver=spec.driver,
        node=spec.pool.name if is_named_so else "",
        generation=spec.pool.generation,
        count=spec.pool.resource_slice_count,
    )
    sets, devices = spec.shared_counters or (), spec.devices or ()
    content = Slice(
        name=wire.metadata.name,
        pool=pool,
        counters=tuple(each.name for each in sets),
        devices=tuple(_read_device(device) for device in devices),
    )
    consumed = (each for device in devices for each in (device.basic or device).consumes_counters or ())
    intact = all(_is_token(each.counters) for each in (*sets, *consumed)) and all(
        len((device.basic or device).consumes_counters or ()) <= 1 for device in devices
    )
    return LiveSlice(
        content=content, uid=wire.metadata.uid, resource_version=wire.metadata.resource_version, intact=intact
    )


def _is_token(counters: dict[str, _Counter]) -> bool:
    return {name: counter.value for name, counter in counters.items()} == {MODE: "1"}


def _read_device(wire: _Device) -> Device:
    fields = wire.basic or wire
    attributes = ((name, _value(each)) for name, each in (fields.attributes or {}).items())
    capacity = ((name, _read_capacity(each)) for name, each in (fields.capacity or {}).items())
    consumed = fields.consumes_counters or ()
    taints = (Taint(key=each.key, effect=each.effect, value=each.value or "") for each in fields.taints or ())
    return Device(
        name=wire.name,
        attributes=tuple(sorted((name, value) for name, value in attributes if value is not None)),
        capacity=tuple(sorted(capacity, key=lambda each: each[0])),
        multiple=bool(fields.allow_multiple_allocations),
        counter_set=consumed[0].counter_set if consumed else "",
        taints=tuple(sorted(taints)),
        binding=bool(fields.binding_conditions and fields.binding_failure_conditions),
    )


def _value(wire: _Attribute) -> Value | None:
    known = (wire.string, wire.flag, wire.number, wire.version)
    return next((value for value in known if value is not None), None)


def _read_capacity(wire: _Capacity | str) -> Capacity:
    if isinstance(wire, str):
        return Capacity(value=whole_units(wire))
    policy = wire.request_policy
    if policy is None or policy.default is None:
        return Capacity(value=whole_units(wire.value))
    bounds = policy.valid_range or _Bounds()
    return Capacity(
        value=whole_units(wire.value),
        default=whole_units(policy.default),
        allowed=tuple(whole_units(text) for text in policy.valid_values or ()),
        least=_units(bounds.least),
        most=_units(bounds.most),
        step=_units(bounds.step),
    )


def _units(text: str | None) -> int | None:
    return None if text is None else whole_units(text)
