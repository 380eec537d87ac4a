"""What claims ask for, and what allocated ones hold."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from kubesim.actors.devices import DeviceId
from kubesim.quantities import quantity
from kubesim.values import Object, at, objects


class UnknownClass(LookupError):
    """A request names a DeviceClass that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One way to satisfy a request. `count` is None for all devices there are."""

    request: str
    """As results name it: the request, or request/sub-request."""
    selectors: tuple[str, ...]
    count: int | None
    admin: bool
    tolerations: tuple[Object, ...]
    capacity: Mapping[str, Fraction]
    class_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What the devices of some requests (none named: all) must have in common, or must not."""

    attribute: str
    requests: frozenset[str]
    distinct: bool

    def concerns(self, request: str) -> bool:
        return not self.requests or request in self.requests or request.partition("/")[0] in self.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A claim to allocate: for each request the ways to satisfy it, preferred first."""

    requests: tuple[tuple[Ask, ...], ...]
    constraints: tuple[Constraint, ...]


def wish(claim: Object, classes: Mapping[str, Object]) -> Wish:
    """What a claim (in its stored form) asks for. Raises UnknownClass."""
    devices = claim["spec"].get("devices") or {}
    return Wish(
        requests=tuple(_ways(each, classes) for each in objects(devices.get("requests"))),
        constraints=tuple(_constraint(each) for each in objects(devices.get("constraints"))),
    )


def _ways(request: Object, classes: Mapping[str, Object]) -> tuple[Ask, ...]:
    name = request["name"]
    if "exactly" in request:
        return (_ask(name, request["exactly"], classes),)
    return tuple(_ask(f"{name}/{sub['name']}", sub, classes) for sub in objects(request.get("firstAvailable")))


def _ask(name: str, raw: Object, classes: Mapping[str, Object]) -> Ask:
    device_class = classes.get(raw["deviceClassName"])
    if device_class is None:
        raise UnknownClass(f"request {name}: device class {raw['deviceClassName']} does not exist")
    chosen = (*objects(device_class["spec"].get("selectors")), *objects(raw.get("selectors")))
    return Ask(
        request=name,
        selectors=tuple(each["cel"]["expression"] for each in chosen),
        count=None if raw.get("allocationMode") == "All" else raw.get("count", 1),
        admin=bool(raw.get("adminAccess")),
        tolerations=tuple(objects(raw.get("tolerations"))),
        capacity={key: quantity(text) for key, text in (at(raw, "capacity", "requests") or {}).items()},
        class_name=raw["deviceClassName"],
    )


def _constraint(raw: Object) -> Constraint:
    distinct = raw.get("distinctAttribute")
    return Constraint(
        attribute=distinct or raw["matchAttribute"],
        requests=frozenset(raw.get("requests") or ()),
        distinct=distinct is not None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What allocated claims hold: whole devices, and shares of others. Admin access holds nothing."""

    exclusive: frozenset[DeviceId] = frozenset()
    shares: Mapping[DeviceId, Mapping[str, Fraction]]

    def holds(self, device: DeviceId) -> bool:
        return device in self.exclusive or device in self.shares


def usage(claims: Iterable[Object]) -> Usage:
    """What these claims hold."""
    exclusive: set[DeviceId] = set()
    shares: dict[DeviceId, dict[str, Fraction]] = {}
    for claim in claims:
        for result in objects(at(claim, "status", "allocation", "devices", "results")):
            if result.get("adminAccess"):
                continue
            device = DeviceId.of(result)
            if not result.get("shareID"):
                exclusive.add(device)
                continue
            taken = shares.setdefault(device, defaultdict(Fraction))
            for name, text in (result.get("consumedCapacity") or {}).items():
                taken[name] += quantity(text)
    return Usage(exclusive=frozenset(exclusive), shares=shares)
