"""The search for devices: first fit, with backtracking, as the allocator of Kubernetes 1.36 orders it.

Requests in their order, alternatives in theirs, devices by pool, slice and position. Nothing is scored.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from kubesim.actors import nodes
from kubesim.actors.asks import Ask, Constraint, Usage, Wish
from kubesim.actors.devices import CounterKey, Device, Pool
from kubesim.actors.selectors import Selectors

MOST_RESULTS = 32
MOST_STEPS = 200_000
BLOCKING = ("NoSchedule", "NoExecute")


class CannotAllocate(Exception):
    """A node is out of the question for a reason that more searching does not mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A device for a request of a claim (by its place among the wishes)."""

    claim: int
    ask: Ask
    pool: Pool
    device: Device
    amounts: Mapping[str, Fraction]
    """Of each capacity, what is taken; of shared devices only."""


def search(
    wishes: Sequence[Wish], pools: Sequence[Pool], usage: Usage, selectors: Selectors
) -> tuple[Chosen, ...] | None:
    """Devices for all wishes together, None if there are not enough.

    Raises CannotAllocate, and SelectorError for an expression that fails.
    """
    attempt = _Search(wishes, pools, usage, selectors)
    return tuple(attempt.chosen) if attempt.satisfied() else None


class _Search:
    def __init__(self, wishes: Sequence[Wish], pools: Sequence[Pool], usage: Usage, selectors: Selectors) -> None:
        self.chosen: list[Chosen] = []
        self._requests = [(claim, ways) for claim, wish in enumerate(wishes) for ways in wish.requests]
        self._constraints = [wish.constraints for wish in wishes]
        self._pools = pools
        self._usage = usage
        self._selectors = selectors
        self._consumed = {(pool.driver, pool.name): consumed(pool, usage) for pool in pools}
        self._matching: dict[tuple[int, str], list[tuple[Pool, Device]]] = {}
        self._steps = 0

    def satisfied(self, place: int = 0) -> bool:
        """Satisfy the requests from this place on."""
        if place == len(self._requests):
            return True
        claim, ways = self._requests[place]
        return any(self._satisfied_by(place, claim, ask) for ask in ways)

    def _satisfied_by(self, place: int, claim: int, ask: Ask) -> bool:
        found = self._candidates(claim, ask)
        if ask.count is not None:
            return self._some(place, claim, ask, found, start=0, missing=ask.count)
        before = len(self.chosen)
        if found and all(self._take(claim, ask, *each) for each in found) and self.satisfied(place + 1):
            return True
        del self.chosen[before:]
        return False

    def _some(
        self, place: int, claim: int, ask: Ask, found: list[tuple[Pool, Device]], *, start: int, missing: int
    ) -> bool:
        """Take `missing` of the devices from `start` on, then satisfy the rest.

        Devices of one request are interchangeable, so there is no need to try them in every order.
        """
        if missing == 0:
            return self.satisfied(place + 1)
        for position in range(start, len(found)):
            if self._take(claim, ask, *found[position]):
                if self._some(place, claim, ask, found, start=position + 1, missing=missing - 1):
                    return True
                self.chosen.pop()
        return False

    def _candidates(self, claim: int, ask: Ask) -> list[tuple[Pool, Device]]:
        """The devices that match a request, whether or not they are free."""
        key = (claim, ask.request)
        if key not in self._matching:
            self._matching[key] = list(self._matches(ask))
        return self._matching[key]

    def _matches(self, ask: Ask) -> Iterator[tuple[Pool, Device]]:
        for pool in self._pools:
            if pool.usable:
                for device in pool.devices:
                    if all(self._selectors.selects(each, device) for each in ask.selectors):
                        yield pool, device
            elif ask.count is None:
                raise CannotAllocate(
                    f"request {ask.request} asks for all devices, but pool {pool.name} is changing"
                )

    def _take(self, claim: int, ask: Ask, pool: Pool, device: Device) -> bool:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise CannotAllocate(f"gave up after {MOST_STEPS} steps")
        if sum(each.claim == claim for each in self.chosen) >= MOST_RESULTS:
            raise CannotAllocate(f"a claim can have at most {MOST_RESULTS} devices")
        amounts = self._amounts(ask, device)
        if amounts is None or not self._possible(claim, ask, pool, device):
            return False
        taken = Chosen(claim=claim, ask=ask, pool=pool, device=device, amounts=amounts)
        if not all(self._agrees(each, taken) for each in self._constraints[claim]):
            return False
        self.chosen.append(taken)
        return True

    def _possible(self, claim: int, ask: Ask, pool: Pool, device: Device) -> bool:
        return (
            all(
                nodes.tolerates(ask.tolerations, taint.key, taint.value, taint.effect)
                for taint in device.taints
                if taint.effect in BLOCKING
            )
            and self._free(claim, ask, device)
            and self._has_counters(pool, device)
        )

    def _free(self, claim: int, ask: Ask, device: Device) -> bool:
        now = [each for each in self.chosen if each.device.id == device.id]
        if device.shared:
            return not any(each.claim == claim and each.ask is ask for each in now)
        if any(each.claim == claim for each in now):
            return False
        return ask.admin or (device.id not in self._usage.exclusive and all(each.ask.admin for each in now))

    def _amounts(self, ask: Ask, device: Device) -> Mapping[str, Fraction] | None:
        """What a share would take, None if it does not fit. Of a device with one user, that it has enough."""
        if any(name not in device.capacity for name in ask.capacity):
            return None
        if not device.shared:
            enough = all(device.capacity[name].value >= amount for name, amount in ask.capacity.items())
            return {} if enough else None
        amounts: dict[str, Fraction] = {}
        for name, capacity in device.capacity.items():
            amount = capacity.share(ask.capacity.get(name))
            if amount is None or amount + self._taken_of(device, name) > capacity.value:
                return None
            amounts[name] = amount
        return amounts

    def _taken_of(self, device: Device, capacity: str) -> Fraction:
        now = (
            each.amounts.get(capacity, Fraction())
            for each in self.chosen
            if each.device.id == device.id and not each.ask.admin
        )
        return self._usage.shares.get(device.id, {}).get(capacity, Fraction()) + sum(now, Fraction())

    def _has_counters(self, pool: Pool, device: Device) -> bool:
        """Whether a device's counters are left. A shared device that is in use has its counters already."""
        now = {
            each.device.id: each.device
            for each in self.chosen
            if (each.pool.driver, each.pool.name) == (pool.driver, pool.name) and not each.ask.admin
        }
        if device.shared and (device.id in now or device.id in self._usage.shares):
            return True
        taken = self._consumed[pool.driver, pool.name]
        for counter, amount in device.consumes:
            more = sum(
                (
                    each
                    for other in now.values()
                    if not self._usage.holds(other.id)
                    for name, each in other.consumes
                    if name == counter
                ),
                Fraction(),
            )
            if taken.get(counter, Fraction()) + more + amount > pool.counters.get(counter, Fraction()):
                return False
        return True

    def _agrees(self, constraint: Constraint, taken: Chosen) -> bool:
        """Whether a device's attribute goes with those of the devices chosen before."""
        if not constraint.concerns(taken.ask.request):
            return True
        value = taken.device.attributes.get(constraint.attribute)
        if value is None:
            return False
        others = [
            each.device.attributes.get(constraint.attribute)
            for each in self.chosen
            if each.claim == taken.claim and constraint.concerns(each.ask.request)
        ]
        return value not in others if constraint.distinct else all(value == other for other in others)


def consumed(pool: Pool, usage: Usage) -> Mapping[CounterKey, Fraction]:
    """What is taken of a pool's counters: by each device in use once, however many share it.

    A device that is in use but no longer published takes nothing: that is how the scheduler counts.
    """
    taken: dict[CounterKey, Fraction] = defaultdict(Fraction)
    for device in pool.everywhere.values():
        if usage.holds(device.id):
            for counter, amount in device.consumes:
                taken[counter] += amount
    return taken
