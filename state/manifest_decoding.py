"""Parsed YAML or JSON into a manifest and back: strict, and clear to the person who wrote it.

Whatever is refused is refused whole: the last good manifest stays in force. What a well-formed manifest says
about hardware (a GPU that is not there, a profile its model lacks) is judged later and entry by entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

import msgspec

from state.manifest import API_VERSION, KIND, NodeState, Override, OverrideDriver, OverrideMode, Spec
from state.mismatches import Problem, mismatches, shown

MOST_PROBLEMS = 20
"""How many problems of one manifest are told."""

QUANTITY_FACTORS: Mapping[str, int] = MappingProxyType(
    {
        "": 1,
        **{f"{prefix}i": 1024**power for power, prefix in enumerate("KMGTPE", 1)},
        **{prefix: 1000**power for power, prefix in enumerate("kMGTPE", 1)},
    }
)
"""Suffixes of Kubernetes quantities (apimachinery ``resource.Quantity``) that make sense for memory."""

_QUANTITY = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?([A-Za-z]*)")
_SUFFIXES = tuple(suffix or "no suffix" for suffix in QUANTITY_FACTORS)
_VM_DRIVERS = (OverrideDriver.VFIO, OverrideDriver.XE_VFIO)


class ManifestError(Exception):
    """A refused manifest: ``path``, ``why`` and ``allowed`` are those of the first of ``problems``."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)
        self.path = self.problems[0].path
        self.why = self.problems[0].why
        self.allowed = self.problems[0].allowed

    def __str__(self) -> str:
        more = len(self.problems) - 1
        return f"{self.problems[0]}" + (f"; and {more} more problem{'s' * (more > 1)}" if more else "")


def decode(raw: object, *, cluster: bool) -> NodeState:
    """The manifest in ``raw``, plain parsed YAML or JSON, without its status. Raises ManifestError.

    ``cluster`` says that the controller's part may be there; in a file for one machine it may not.
    """
    _require_understood(raw)
    readable, problems = _with_memory_in_bytes(raw)
    try:
        state = msgspec.convert(readable, NodeState, strict=True)
    except msgspec.ValidationError as error:
        known = {problem.path for problem in problems}
        problems += [found for found in mismatches(readable, NodeState) if found.path not in known]
        problems = problems or [Problem(path="", why=str(error))]
        raise ManifestError(problems[:MOST_PROBLEMS]) from error
    broken = tuple(islice(_broken_rules(state.spec, cluster=cluster), MOST_PROBLEMS))
    if broken:
        raise ManifestError(broken)
    return msgspec.structs.replace(state, status=None)


def encode(state: NodeState) -> dict[str, object]:
    """``state`` as plain dicts, lists, strings, numbers, booleans; defaults left out; decode's inverse."""
    plain = msgspec.json.decode(msgspec.json.encode(state), type=dict[str, object])
    # msgspec leaves out empty lists and dicts, but not objects that are empty for having only defaults.
    spec = plain["spec"]
    if isinstance(spec, dict) and not spec["policy"]:
        del spec["policy"]
    return {name: part for name, part in plain.items() if part}


def parse_quantity(text: str) -> int:
    """Bytes in a Kubernetes quantity: ``4Gi``, ``1.5G``, ``4096``. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is no quantity (for example 4Gi)")
    whole, fraction, suffix = match[1], match[2] or "", match[3]
    if suffix not in QUANTITY_FACTORS:
        raise ValueError(f"{shown(text)} has an unknown suffix")
    size, rest = divmod(int(whole + fraction) * QUANTITY_FACTORS[suffix], int("1" + "0" * len(fraction)))
    if rest:
        raise ValueError(f"{shown(text)} is not a whole number of bytes")
    return size


def _require_understood(raw: object) -> None:
    """Anything else wrong with a manifest of another version or kind is noise: say only this."""
    if not isinstance(raw, dict):
        raise ManifestError([Problem(path="", why=f"must be an object, not {shown(raw)}")])
    for name, understood in (("apiVersion", API_VERSION), ("kind", KIND)):
        found = raw.get(name, understood)
        if found != understood:
            why = f"{shown(found)} is not understood by this release"
            raise ManifestError([Problem(path=name, why=why, allowed=(understood,))])


def _with_memory_in_bytes(raw: object) -> tuple[object, list[Problem]]:
    """``raw`` with people's memory quantities as plain numbers of bytes, and the problems with some of them.

    Copies what it changes, and leaves alone what does not look as expected: that is msgspec's to refuse.
    """
    problems: list[Problem] = []

    def of_device(device: object, path: str) -> object:
        if not isinstance(device, dict) or not isinstance(text := device.get("memory"), str):
            return device
        try:
            return {**device, "memory": parse_quantity(text)}
        except ValueError as error:
            problems.append(Problem(path=f"{path}.memory", why=str(error), allowed=_SUFFIXES))
            return device

    def of_entry(entry: object, path: str) -> object:
        return _with_items(entry, "devices", path, of_device)

    def of_spec(spec: object) -> object:
        return _with_items(spec, "manualAllocations", "spec", of_entry)

    readable = {**raw, "spec": of_spec(raw["spec"])} if isinstance(raw, dict) and "spec" in raw else raw
    return readable, problems


def _with_items(holder: object, field: str, path: str, changed: Callable[[object, str], object]) -> object:
    """A copy of ``holder``, each element of its list ``field`` turned into what ``changed`` makes of it."""
    if not isinstance(holder, dict) or not isinstance(items := holder.get(field), list):
        return holder
    return {
        **holder,
        field: [changed(item, f"{path}.{field}[{index}]") for index, item in enumerate(items)],
    }


def _broken_rules(spec: Spec, *, cluster: bool) -> Iterator[Problem]:
    """What types cannot say."""
    if spec.allocations and not cluster:
        why = "is written by the controller only; use spec.manualAllocations"
        yield Problem(path="spec.allocations", why=why)
    yield from _twice("spec.overrides[{}].device", [override.device for override in spec.overrides])
    yield from _twice("spec.manualAllocations[{}].name", [entry.name for entry in spec.manual_allocations])
    yield from _twice("spec.releases[{}]", spec.releases)
    yield from _twice("spec.allocations[{}].name", [entry.name for entry in spec.allocations])
    for index, override in enumerate(spec.overrides):
        yield from _contradictions(override, f"spec.overrides[{index}]")
    for index, entry in enumerate(spec.manual_allocations):
        where = f"spec.manualAllocations[{index}].devices[{{}}].device"
        yield from _twice(where, [device.device for device in entry.devices])


def _twice(where: str, keys: Sequence[str]) -> Iterator[Problem]:
    first_at: dict[str, int] = {}
    for index, key in enumerate(keys):
        first = first_at.setdefault(key, index)
        if first != index:
            yield Problem(path=where.format(index), why=f"{shown(key)} is already at {where.format(first)}")


def _contradictions(override: Override, path: str) -> Iterator[Problem]:
    if override.virtual_functions is None:
        return
    if override.mode is not OverrideMode.FIXED:
        why = f"needs mode {OverrideMode.FIXED.value}, not {override.mode.value}"
        yield Problem(path=f"{path}.virtualFunctions", why=why)
    if override.kernel_driver in _VM_DRIVERS:
        allowed = tuple(driver.value for driver in OverrideDriver if driver not in _VM_DRIVERS)
        why = f"{override.kernel_driver.value!r} takes the whole GPU, which then cannot have virtualFunctions"
        yield Problem(path=f"{path}.kernelDriver", why=why, allowed=allowed)
