"""CEL expressions about one device, as in DeviceClass and request selectors.

The engine has no optional syntax (`.?`) and no cel.bind. Quantities and versions are maps of one entry; the
functions below, of Kubernetes' CEL libraries, know them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from kubesim.actors.devices import Attribute, Device
from kubesim.quantities import quantity
from kubesim.values import Object, Value

if TYPE_CHECKING:
    import cel

DOMAIN = re.compile(r"""\[\s*["']([^"']+)["']\s*\]""")
QUANTITY, VERSION = "quantity", "semver"


class SelectorError(ValueError):
    """An expression could not be evaluated; the pod can't be scheduled until that changes."""


def _quantity(amount: Fraction) -> Object:
    return {QUANTITY: str(amount)}


def _version(text: str) -> Object:
    return {VERSION: text}


def _order(mine: Object, other: Object) -> int:
    """-1, 0 or 1. Raises ValueError for values that are neither."""
    a, b = _comparable(mine), _comparable(other)
    return (a > b) - (a < b)


def _comparable(value: Object) -> tuple[Value, ...]:
    if QUANTITY in value:
        return (Fraction(value[QUANTITY]),)
    return precedence(value[VERSION])


def precedence(text: str) -> tuple[Value, ...]:
    """A semantic version's place in the order of semver.org 2.0.0, section 11."""
    core, dash, rest = text.partition("+")[0].partition("-")
    numbers = tuple(int(each) for each in core.split("."))
    if not dash:
        return (*numbers, 1, ())
    parts = tuple((0, int(each), "") if each.isdigit() else (1, 0, each) for each in rest.split("."))
    return (*numbers, 0, parts)


def _number(value: Object, place: int) -> int:
    return int(precedence(value[VERSION])[place])


def _combined(mine: Object, other: Object | int, sign: int) -> Object:
    amount = Fraction(other) if isinstance(other, int) else Fraction(other[QUANTITY])
    return _quantity(Fraction(mine[QUANTITY]) + sign * amount)


def _is(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "quantity": lambda text: _quantity(quantity(text)),
    "isQuantity": lambda text: _is(quantity, text),
    "semver": _version,
    "isSemver": lambda text: _is(precedence, text),
    "compareTo": _order,
    "isGreaterThan": lambda mine, other: _order(mine, other) > 0,
    "isLessThan": lambda mine, other: _order(mine, other) < 0,
    "asInteger": lambda value: int(Fraction(value[QUANTITY])),
    "isInteger": lambda value: Fraction(value[QUANTITY]).denominator == 1,
    "asApproximateFloat": lambda value: float(Fraction(value[QUANTITY])),
    "sign": lambda value: (Fraction(value[QUANTITY]) > 0) - (Fraction(value[QUANTITY]) < 0),
    "add": lambda mine, other: _combined(mine, other, 1),
    "sub": lambda mine, other: _combined(mine, other, -1),
    "major": lambda value: _number(value, 0),
    "minor": lambda value: _number(value, 1),
    "patch": lambda value: _number(value, 2),
    "includes": lambda items, item: item in items if isinstance(items, list) else items == item,
    "lowerAscii": lambda text: text.lower(),
    "upperAscii": lambda text: text.upper(),
}


class Selectors:
    """Compiles each expression once, and remembers what it said of a device."""

    def __init__(self) -> None:
        self._programs: dict[str, cel.Program] = {}
        self._verdicts: dict[tuple[str, int], tuple[Device, bool]] = {}

    def selects(self, expression: str, device: Device) -> bool:
        """Raises SelectorError."""
        key = (expression, id(device))
        known = self._verdicts.get(key)
        if known is not None and known[0] is device:
            return known[1]
        if len(self._verdicts) > 100_000:
            self._verdicts.clear()
        verdict = self._evaluated(expression, device)
        self._verdicts[key] = (device, verdict)
        return verdict

    def _evaluated(self, expression: str, device: Device) -> bool:
        import cel

        program = self._programs.get(expression)
        try:
            if program is None:
                program = self._programs[expression] = cel.compile(expression)
            context = cel.Context({"device": variable(device, DOMAIN.findall(expression))}, dict(FUNCTIONS))
            verdict = program.execute(context)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise SelectorError(f"CEL expression {expression!r} on device {device.id.device}: {error}") from error
        if not isinstance(verdict, bool):
            raise SelectorError(f"CEL expression {expression!r} says {verdict!r}, which is neither true nor false")
        return verdict


def variable(device: Device, domains: list[str]) -> Object:
    """The variable `device`. A domain in `domains` of which the device has nothing is there, and empty."""
    attributes: dict[str, Object] = {domain: {} for domain in (*domains, device.id.driver)}
    capacity: dict[str, Object] = {domain: {} for domain in attributes}
    for name, attribute in device.attributes.items():
        domain, _, short = name.rpartition("/")
        attributes.setdefault(domain, {})[short] = _spoken(attribute)
    for name, entry in device.capacity.items():
        domain, slash, short = name.rpartition("/")
        capacity.setdefault(domain if slash else device.id.driver, {})[short] = _quantity(entry.value)
    return {
        "driver": device.id.driver,
        "attributes": attributes,
        "capacity": capacity,
        "allowMultipleAllocations": device.shared,
    }


def _spoken(attribute: Attribute) -> Value:
    if attribute.kind == "version":
        return _version(str(attribute.value))
    if attribute.kind == "versions" and isinstance(attribute.value, tuple):
        return [_version(str(each)) for each in attribute.value]
    return list(attribute.value) if isinstance(attribute.value, tuple) else attribute.value
