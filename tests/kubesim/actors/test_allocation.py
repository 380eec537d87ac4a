"""The allocator against a brute-force oracle that tries everything, in the same order, and takes the first that is
legal. What is legal it says in its own way: by adding up, never by looking at what the search did.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubesim.actors.allocation import Chosen, search
from kubesim.actors.amounts import Capacity, Policy
from kubesim.actors.asks import Ask, Constraint, Usage, Wish
from kubesim.actors.devices import Attribute, Device, DeviceId, Pool, Taint
from kubesim.actors.selectors import Selectors

DRIVER, POOL = "d", "p"
COUNTER = ("set", "token")
MEMORY, KIND = "memory", "d/kind"
SPARE = Policy(default=Fraction(2), least=Fraction(1), most=Fraction(4), step=Fraction(1))


def device(name: str, *, shared: bool, tokens: int, kind: str | None, memory: int, tainted: bool) -> Device:
    policy = SPARE if shared else None
    return Device(
        id=DeviceId(DRIVER, POOL, name),
        attributes={} if kind is None else {KIND: Attribute("string", kind)},
        capacity={MEMORY: Capacity(value=Fraction(memory), binary=False, policy=policy)},
        shared=shared,
        consumes=((COUNTER, Fraction(tokens)),) if tokens else (),
        taints=(Taint("sick", "", "NoSchedule", ""),) if tainted else (),
        binding_conditions=(),
        binding_failures=(),
        binds_to_node=False,
        place={"nodeName": "n"},
    )


def ask(name: str, *, count: int | None, admin: bool, memory: int, tolerant: bool) -> Ask:
    return Ask(
        request=name,
        selectors=(),
        count=count,
        admin=admin,
        tolerations=({"operator": "Exists"},) if tolerant else (),
        capacity={MEMORY: Fraction(memory)} if memory else {},
        class_name="c",
    )


@st.composite
def devices(draw: st.DrawFn) -> tuple[Device, ...]:
    return tuple(
        device(
            f"d{number}",
            shared=draw(st.booleans()),
            tokens=draw(st.integers(0, 2)),
            kind=draw(st.sampled_from(("a", "b", None))),
            memory=draw(st.integers(1, 6)),
            tainted=draw(st.integers(0, 4)) == 0,
        )
        for number in range(draw(st.integers(1, 4)))
    )


@st.composite
def wishes(draw: st.DrawFn) -> tuple[Wish, ...]:
    made = []
    for _ in range(draw(st.integers(1, 2))):
        requests = []
        for number in range(draw(st.integers(1, 2))):
            ways = tuple(
                ask(
                    f"r{number}/s{way}",
                    count=draw(st.sampled_from((1, 1, 2, None))),
                    admin=draw(st.integers(0, 4)) == 0,
                    memory=draw(st.integers(0, 4)),
                    tolerant=draw(st.booleans()),
                )
                for way in range(draw(st.integers(1, 2)))
            )
            requests.append(ways)
        constraints = draw(
            st.lists(
                st.builds(
                    Constraint,
                    attribute=st.just(KIND),
                    requests=st.sampled_from((frozenset[str](), frozenset({"r0"}), frozenset({"r1/s0"}))),
                    distinct=st.booleans(),
                ),
                max_size=1,
            )
        )
        made.append(Wish(requests=tuple(requests), constraints=tuple(constraints)))
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Pick:
    """The oracle's idea of one chosen device."""

    claim: int
    request: int
    ask: Ask
    device: Device


def amount(pick: Pick) -> Fraction | None:
    """What a share takes, None for more than any share is."""
    if not pick.device.shared:
        return Fraction(0)
    wanted = pick.ask.capacity.get(MEMORY, Fraction(2))
    return wanted if 1 <= wanted <= 4 else None


def legal(picks: Sequence[Pick], usage: Usage, pool: Pool, wanted: Sequence[Wish]) -> bool:
    users = [each for each in picks if not each.ask.admin]
    return (
        all(not each.device.taints or each.ask.tolerations for each in picks)
        and all(_enough(each) for each in picks)
        and _alone(picks, users, usage)
        and _memory_lasts(picks, users, usage)
        and _tokens_last(picks, users, usage, pool)
        and all(_constrained(picks, claim, each) for claim, wish in enumerate(wanted) for each in wish.constraints)
    )


def _enough(pick: Pick) -> bool:
    if pick.device.shared:
        return amount(pick) is not None
    return pick.device.capacity[MEMORY].value >= pick.ask.capacity.get(MEMORY, Fraction(0))


def _alone(picks: Sequence[Pick], users: Sequence[Pick], usage: Usage) -> bool:
    """A device of one user has one; nobody looks at it twice in a claim; a request takes no device twice."""
    whole = Counter(each.device.id for each in users if not each.device.shared)
    seen = Counter((each.claim, each.device.id) for each in picks if not each.device.shared and each.ask.admin)
    mixed = {(each.claim, each.device.id) for each in users if not each.device.shared}
    twice = Counter((each.claim, each.request, each.device.id) for each in picks)
    return (
        all(count == 1 and name not in usage.exclusive for name, count in whole.items())
        and all(count == 1 for count in seen.values())
        and not (set(seen) & mixed)
        and all(count == 1 for count in twice.values())
    )


def _memory_lasts(picks: Sequence[Pick], users: Sequence[Pick], usage: Usage) -> bool:
    """Also for somebody with admin access, who takes nothing but must fit when his turn comes."""
    for place, pick in enumerate(picks):
        if not pick.device.shared:
            continue
        earlier = [each for each in picks[:place] if each in users and each.device.id == pick.device.id]
        taken = sum((amount(each) or Fraction(0) for each in earlier), Fraction(0))
        taken += usage.shares.get(pick.device.id, {}).get(MEMORY, Fraction(0))
        if taken + (amount(pick) or Fraction(0)) > pick.device.capacity[MEMORY].value:
            return False
    return True


def _tokens_last(picks: Sequence[Pick], users: Sequence[Pick], usage: Usage, pool: Pool) -> bool:
    for place, pick in enumerate(picks):
        holders = {each.device.id for each in picks[:place] if each in users}
        holders |= usage.exclusive | set(usage.shares)
        if pick.device.shared and pick.device.id in holders:
            continue
        total = sum(
            (tokens for each in pool.devices if each.id in holders for _, tokens in each.consumes), Fraction(0)
        )
        more = sum((tokens for _, tokens in pick.device.consumes), Fraction(0))
        if more and total + more > pool.counters[COUNTER]:
            return False
    return True


def _constrained(picks: Sequence[Pick], claim: int, constraint: Constraint) -> bool:
    values = [
        each.device.attributes.get(KIND)
        for each in picks
        if each.claim == claim
        and (not constraint.requests or {each.ask.request, f"r{each.request}"} & constraint.requests)
    ]
    if None in values:
        return False
    return len(set(values)) == len(values) if constraint.distinct else len(set(values)) <= 1


def everything(pool: Pool, wanted: Sequence[Wish]) -> Iterator[tuple[Pick, ...]]:
    """All ways to choose, the preferred first."""
    parts = [
        [
            tuple(Pick(claim, number, way, each) for each in group)
            for way in ways
            for group in itertools.combinations(
                pool.devices, len(pool.devices) if way.count is None else way.count
            )
        ]
        for claim, wish in enumerate(wanted)
        for number, ways in enumerate(wish.requests)
    ]
    for combination in itertools.product(*parts):
        yield tuple(itertools.chain.from_iterable(combination))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Pool, Usage]:
    found = draw(devices())
    exclusive: set[DeviceId] = set()
    shares: dict[DeviceId, dict[str, Fraction]] = {}
    for each in found:
        if draw(st.integers(0, 3)) == 0:
            if each.shared:
                shares[each.id] = {MEMORY: min(Fraction(draw(st.integers(1, 4))), each.capacity[MEMORY].value)}
            else:
                exclusive.add(each.id)
    pool = Pool(
        driver=DRIVER,
        name=POOL,
        usable=True,
        devices=found,
        everywhere={each.id.device: each for each in found},
        counters={COUNTER: Fraction(draw(st.integers(0, 4)))},
    )
    return pool, Usage(exclusive=frozenset(exclusive), shares=shares)


@settings(max_examples=400)
@given(situation=situations(), wanted=wishes())
def test_the_search_finds_the_first_legal_choice(situation: tuple[Pool, Usage], wanted: tuple[Wish, ...]) -> None:
    pool, usage = situation
    expected = next((each for each in everything(pool, wanted) if legal(each, usage, pool, wanted)), None)
    found = search(wanted, (pool,), usage, Selectors())
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert [_plain(each) for each in found] == [(p.claim, p.ask.request, p.device.id) for p in expected]


def _plain(chosen: Chosen) -> tuple[int, str, DeviceId]:
    return chosen.claim, chosen.ask.request, chosen.device.id


@settings(max_examples=100)
@given(situation=situations(), data=st.data())
def test_claim_after_claim_nothing_is_given_twice(situation: tuple[Pool, Usage], data: st.DataObject) -> None:
    """Allocate until nothing is left, taking each result into account: totals stay within what there is."""
    pool, _ = situation
    exclusive: set[DeviceId] = set()
    shares: dict[DeviceId, dict[str, Fraction]] = {}
    for _ in range(8):
        usage = Usage(exclusive=frozenset(exclusive), shares=shares)
        found = search(data.draw(wishes()), (pool,), usage, Selectors())
        for each in found or ():
            if each.ask.admin:
                continue
            if each.device.shared:
                taken: Any = shares.setdefault(each.device.id, defaultdict(Fraction))
                taken[MEMORY] += each.amounts[MEMORY]
            else:
                assert each.device.id not in exclusive
                exclusive.add(each.device.id)
        by_id = {each.id: each for each in pool.devices}
        held = [by_id[name] for name in (*exclusive, *shares)]
        tokens = sum((count for each in held for _, count in each.consumes), Fraction(0))
        assert tokens <= pool.counters[COUNTER]
        assert all(taken[MEMORY] <= by_id[name].capacity[MEMORY].value for name, taken in shares.items())
