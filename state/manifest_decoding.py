"""Parsed YAML or JSON into a manifest and back: strict, and clear to the person who wrote it.

Whatever is refused is refused whole: the last good manifest stays in force. What a well-formed manifest says
about hardware (a GPU that is not there, a profile its model lacks) is judged later and entry by entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
_VM_DRIVERS = (OverrideDriver.VFIO, OverrideDriver.XE_VFIO)


class ManifestError(Exception):
    """A manifest that is refused. ``path``, ``why`` and ``allowed`` are those of the first of ``problems``."""

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
    """The manifest in ``raw``, plain parsed YAML or JSON. Raises ManifestError.

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
    return state


def encode(state: NodeState) -> dict[str, object]:
    """``state`` as plain dicts, lists, strings, numbers and booleans, defaults left out; ``decode`` undoes it."""
    plain: dict[str, object] = msgspec.to_builtins(state)
    match plain:
        case {"spec": {"policy": {} as policy} as spec} if not policy:
            del spec["policy"]
    for name in ("metadata", "spec"):
        if not plain.get(name):
            plain.pop(name, None)
    return plain


def parse_quantity(text: str) -> int:
    """Bytes in a Kubernetes quantity: ``4Gi``, ``1.5G``, ``4096``. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is no quantity (for example 4Gi)")
    whole, fraction, suffix = match[1], match[2] or "", match[3]
    if suffix not in QUANTITY_FACTORS:
        raise ValueError(f"{shown(text)} has an unknown suffix")
    size, rest = divmod(int(whole + fraction) * QUANTITY_FACTORS[suffix], 10 ** len(fraction))
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
    """``raw`` with the memory quantities that people write as plain numbers of bytes, and those that are none.

    Copies what it changes, and leaves alone what does not look as expected: that is msgspec's to refuse.
    """
    match raw:
        case {"spec": {"manualAllocations": [*entries]} as spec}:
            problems: list[Problem] = []
            readable = [
                _entry_in_bytes(entry, f"spec.manualAllocations[{index}]", problems)
                for index, entry in enumerate(entries)
            ]
            return {**raw, "spec": {**spec, "manualAllocations": readable}}, problems
    return raw, []


def _entry_in_bytes(entry: object, path: str, problems: list[Problem]) -> object:
    match entry:
        case {"devices": [*devices]}:
            return {
                **entry,
                "devices": [
                    _device_in_bytes(device, f"{path}.devices[{index}].memory", problems)
                    for index, device in enumerate(devices)
                ],
            }
    return entry


def _device_in_bytes(device: object, path: str, problems: list[Problem]) -> object:
    match device:
        case {"memory": str() as text}:
            try:
                return {**device, "memory": parse_quantity(text)}
            except ValueError as error:
                allowed = ("bytes", *(f"<number>{suffix}" for suffix in QUANTITY_FACTORS if suffix))
                problems.append(Problem(path=path, why=str(error), allowed=allowed))
    return device


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
