"""Devices as a node's scheduler sees them: from ResourceSlices to pools."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from kubesim.actors import nodes
from kubesim.actors.amounts import Capacity
from kubesim.quantities import quantity
from kubesim.values import Object, Value, at, objects


class DeviceId(NamedTuple):
    """What names one device in a cluster."""

    driver: str
    pool: str
    device: str

    @classmethod
    def of(cls, result: Object) -> "DeviceId":
        """From an allocation's result or an entry of a claim's status.devices."""
        return cls(result["driver"], result["pool"], result["device"])


class Attribute(NamedTuple):
    """An attribute's type (string, int, bool, version and their plurals) and value."""

    kind: str
    value: str | int | bool | tuple[str | int | bool, ...]


class Taint(NamedTuple):
    """A device's taint; `added` is the time it was added, as text."""

    key: str
    value: str
    effect: str
    added: str

    @classmethod
    def of(cls, raw: Object) -> "Taint":
        return cls(raw["key"], raw.get("value", ""), raw["effect"], raw.get("timeAdded") or "")


CounterKey: TypeAlias = tuple[str, str]
"""Counter set and counter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device. Attribute names are qualified; capacities are named as published."""

    id: DeviceId
    attributes: Mapping[str, Attribute]
    capacity: Mapping[str, Capacity]
    shared: bool
    consumes: tuple[tuple[CounterKey, Fraction], ...]
    taints: tuple[Taint, ...]
    binding_conditions: tuple[str, ...]
    binding_failures: tuple[str, ...]
    binds_to_node: bool
    place: Object
    """What says on which nodes it is: the fields of its slice's spec, or its own."""

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool's newest generation: the devices within a node's reach, and all there are."""

    driver: str
    name: str
    usable: bool
    """Complete, and no device is named twice."""
    devices: tuple[Device, ...]
    everywhere: Mapping[str, Device]
    counters: Mapping[CounterKey, Fraction]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One ResourceSlice, decoded."""

    name: str
    driver: str
    pool: str
    generation: int
    expected: int
    devices: tuple[Device, ...]
    counters: Mapping[CounterKey, Fraction]


def decoded(stored: Object) -> Slice:
    """A slice from its stored form. Raises ValueError for what is no quantity."""
    spec = stored["spec"]
    counters = {
        (each["name"], name): quantity(counter["value"])
        for each in objects(spec.get("sharedCounters"))
        for name, counter in each["counters"].items()
    }
    return Slice(
        name=stored["metadata"]["name"],
        driver=spec["driver"],
        pool=spec["pool"]["name"],
        generation=spec["pool"].get("generation", 0),
        expected=spec["pool"]["resourceSliceCount"],
        devices=tuple(_device(each, spec) for each in objects(spec.get("devices"))),
        counters=counters,
    )


def _device(raw: Object, spec: Object) -> Device:
    driver = spec["driver"]
    return Device(
        id=DeviceId(driver, spec["pool"]["name"], raw["name"]),
        attributes={_qualified(name, driver): _attribute(each) for name, each in _items(raw, "attributes")},
        capacity={name: Capacity.of(each) for name, each in _items(raw, "capacity")},
        shared=bool(raw.get("allowMultipleAllocations")),
        consumes=tuple(
            ((each["counterSet"], name), quantity(counter["value"]))
            for each in objects(raw.get("consumesCounters"))
            for name, counter in each["counters"].items()
        ),
        taints=tuple(Taint.of(each) for each in objects(raw.get("taints"))),
        binding_conditions=tuple(raw.get("bindingConditions") or ()),
        binding_failures=tuple(raw.get("bindingFailureConditions") or ()),
        binds_to_node=bool(raw.get("bindsToNode")),
        place=raw if spec.get("perDeviceNodeSelection") else spec,
    )


def _items(raw: Object, part: str) -> Iterator[tuple[str, Object]]:
    yield from (raw.get(part) or {}).items()


def _qualified(name: str, driver: str) -> str:
    return name if "/" in name else f"{driver}/{name}"


def _attribute(raw: Object) -> Attribute:
    kind, value = next(iter(raw.items()))
    return Attribute(kind, tuple(value) if isinstance(value, list) else value)


class Inventory:
    """Decodes slices once each, and puts pools together."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Slice] = {}

    def slices(self, stored: Iterable[Object]) -> tuple[Slice, ...]:
        """The slices there are; what was decoded of others is forgotten."""
        known = {}
        for each in stored:
            key = (each["metadata"]["uid"], each["metadata"]["resourceVersion"])
            known[key] = self._known.get(key) or decoded(each)
        self._known = known
        return tuple(sorted(known.values(), key=lambda each: each.name))


def pools(slices: Iterable[Slice], node: Object, rules: Iterable[Object] = ()) -> tuple[Pool, ...]:
    """The pools with devices a node can reach, in the order in which devices are tried.

    Those with binding conditions come last; otherwise by name, as the allocator of Kubernetes 1.36 has it.
    """
    grouped: dict[tuple[str, str], list[Slice]] = defaultdict(list)
    for each in slices:
        grouped[each.driver, each.pool].append(each)
    reached = [_pool(key, parts, node, tuple(rules)) for key, parts in sorted(grouped.items())]
    return tuple(sorted((each for each in reached if each.devices), key=_has_conditions))


def _has_conditions(pool: Pool) -> bool:
    return any(device.binding_conditions for device in pool.devices)


def _pool(key: tuple[str, str], parts: list[Slice], node: Object, rules: tuple[Object, ...]) -> Pool:
    newest = max(each.generation for each in parts)
    current = [each for each in parts if each.generation == newest]
    every = [_tainted(device, rules) for each in current for device in each.devices]
    names = {device.id.device: device for device in every}
    complete = all(each.expected == len(current) for each in current)
    return Pool(
        driver=key[0],
        name=key[1],
        usable=complete and len(names) == len(every),
        devices=tuple(device for device in every if nodes.reaches(device.place, node)),
        everywhere=names,
        counters={name: amount for each in current for name, amount in each.counters.items()},
    )


def _tainted(device: Device, rules: tuple[Object, ...]) -> Device:
    added = tuple(Taint.of(at(rule, "spec", "taint")) for rule in rules if applies(rule, device.id))
    return replace(device, taints=(*device.taints, *added)) if added else device


def applies(rule: Object, device: DeviceId) -> bool:
    """Whether a DeviceTaintRule is about a device. One without a selector is about none."""
    selector: Value = at(rule, "spec", "deviceSelector")
    return selector is not None and all(
        selector.get(part) in (None, value) for part, value in device._asdict().items()
    )
