"""As much of a scheduler as decides who gets which device: it knows slices as JSON, and nothing of the product.

Capacities, request policies, counters, taints and complete pools as in Kubernetes 1.36; no scoring, first fit.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_UNITS = {"": 1, "k": 1000, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}


def amount(quantity: str) -> int:
    match = re.fullmatch(r"([0-9]+)([A-Za-z]*)", quantity)
    assert match is not None, quantity
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Claim:
    """A device and what of its capacities was given. ``number`` tells claims apart."""

    number: int
    device: str
    consumed: Mapping[str, int]
    divided: bool


@dataclass
class Scheduler:
    """Sees slices as they were when it last looked."""

    slices: list[Json] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    count: int = 0

    def allocate(self, kind: str, needs: Mapping[str, int], *, pick: int = 0) -> Claim | None:
        """A claim for a device of a type; of all that fit the one at ``pick``, which a real one would not do."""
        fitting = [one for device in self.devices() if (one := self._fits(device, kind, needs)) is not None]
        if not fitting:
            return None
        claim = fitting[pick % len(fitting)]
        self.claims.append(claim)
        self.count += 1
        return claim

    def devices(self) -> Iterator[Json]:
        for slice in self._pool():
            for device in slice["spec"].get("devices", ()):
                yield {"name": device["name"], **device.get("basic", device)}

    def _pool(self) -> list[Json]:
        newest = max((one["spec"]["pool"]["generation"] for one in self.slices), default=0)
        pool = [one for one in self.slices if one["spec"]["pool"]["generation"] == newest]
        complete = all(one["spec"]["pool"]["resourceSliceCount"] == len(pool) for one in pool)
        return sorted(pool, key=lambda one: one["metadata"]["name"]) if complete else []

    def _fits(self, device: Json, kind: str, needs: Mapping[str, int]) -> Claim | None:
        if device["attributes"]["type"]["string"] != kind or device.get("taints"):
            return None
        mine = [claim for claim in self.claims if claim.device == device["name"]]
        multiple = device.get("allowMultipleAllocations", False)
        if mine and not multiple:
            return None
        if not (mine and multiple) and not self._has_counters(device):
            return None
        consumed = {}
        capacities = device.get("capacity", {})
        if needs.keys() - capacities.keys():
            return None
        for name, found in capacities.items():
            capacity = {"value": found} if isinstance(found, str) else found  # 1.31: nothing but a quantity
            total = amount(capacity["value"])
            if not multiple:
                if needs.get(name, 0) > total:
                    return None
                continue
            taken = _rounded(capacity, needs.get(name))
            if taken is None or taken + sum(claim.consumed.get(name, 0) for claim in mine) > total:
                return None
            consumed[name] = taken
        return Claim(number=self.count, device=device["name"], consumed=consumed, divided=multiple)

    def _has_counters(self, device: Json) -> bool:
        left: dict[tuple[str, str], int] = {}
        for slice in self._pool():
            for each in slice["spec"].get("sharedCounters", ()):
                for name, counter in each["counters"].items():
                    left[each["name"], name] = amount(counter["value"])
        held = {claim.device for claim in self.claims}
        for other in self.devices():
            if other["name"] in held:
                for key, value in _consumption(other):
                    left[key] -= value
        return all(left.get(key, 0) >= value for key, value in _consumption(device))


def _consumption(device: Json) -> Iterable[tuple[tuple[str, str], int]]:
    for each in device.get("consumesCounters", ()):
        for name, counter in each["counters"].items():
            yield (each["counterSet"], name), amount(counter["value"])


def _rounded(capacity: Json, need: int | None) -> int | None:
    policy = capacity.get("requestPolicy")
    if policy is None:
        return amount(capacity["value"]) if need is None else need
    if need is None:
        return amount(policy["default"])
    if "validValues" in policy:
        return min((value for value in map(amount, policy["validValues"]) if value >= need), default=None)
    span = policy.get("validRange")
    if span is None:
        return need
    least, step = amount(span["min"]), amount(span["step"])
    taken = least if need <= least else least + -(-(need - least) // step) * step
    return taken if taken <= amount(span["max"]) else None
