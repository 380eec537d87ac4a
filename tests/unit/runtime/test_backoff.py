"""Back-off: bounds of every wait, and independence of the keys."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.runtime.backoff import Backoff


@given(
    seed=st.integers(),
    base=st.floats(0.01, 10),
    factor=st.floats(1, 1000),
    jitter=st.floats(0, 0.99),
    failures=st.integers(1, 60),
)
def test_waits_double_up_to_the_cap_within_the_jitter(
    seed: int, base: float, factor: float, jitter: float, failures: int
) -> None:
    cap = base * factor
    backoff: Backoff[str] = Backoff(base, cap, random.Random(seed), jitter=jitter)
    for attempt in range(failures):
        full = min(cap, base * 2.0**attempt)
        wait = backoff.failed("a", 100.0)
        assert full * (1 - jitter) * (1 - 1e-9) <= wait <= full * (1 + 1e-9)
        assert wait <= cap
        assert backoff.attempts("a") == attempt + 1


@given(seed=st.integers(), keys=st.lists(st.sampled_from("abc"), max_size=30))
def test_the_same_seed_gives_the_same_waits(seed: int, keys: list[str]) -> None:
    first: Backoff[str] = Backoff(1, 60, random.Random(seed))
    second: Backoff[str] = Backoff(1, 60, random.Random(seed))
    assert [first.failed(key, 0) for key in keys] == [second.failed(key, 0) for key in keys]


def test_a_million_failures_do_not_overflow() -> None:
    backoff: Backoff[str] = Backoff(0.5, 60, random.Random(1), jitter=0)
    waits = [backoff.failed("a", 0.0) for _ in range(3000)]
    assert waits[-1] == 60


@given(now=st.floats(0, 1e6), seed=st.integers())
def test_a_key_is_ready_when_next_due_says(now: float, seed: int) -> None:
    backoff: Backoff[str] = Backoff(1, 60, random.Random(seed))
    assert backoff.ready("a", now)
    assert backoff.next_due(now) is None
    wait = backoff.failed("a", now)
    assert not backoff.ready("a", now)
    assert backoff.next_due(now) == pytest.approx(wait)
    assert backoff.ready("a", now + wait)
    assert backoff.next_due(now + wait) is None


def test_keys_fail_and_recover_alone() -> None:
    backoff: Backoff[str] = Backoff(1, 60, random.Random(0), jitter=0)
    assert [backoff.failed("a", 0), backoff.failed("a", 0), backoff.failed("b", 0)] == [1, 2, 1]
    assert backoff.next_due(0) == 1
    assert backoff.next_due(1) == 1  # b is ready, a waits on
    backoff.succeeded("a")
    backoff.succeeded("never failed")
    assert backoff.ready("a", 0)
    assert (backoff.attempts("a"), backoff.attempts("b")) == (0, 1)
    assert backoff.failed("a", 5) == 1


def test_other_users_of_chance_change_nothing() -> None:
    def waits() -> list[float]:
        backoff: Backoff[str] = Backoff(1, 60, random.Random(7))
        return [backoff.failed("a", 0) for _ in range(5)]

    random.seed(1)
    first = waits()
    random.seed(2)
    assert waits() == first
    assert len(set(first)) == 5


@pytest.mark.parametrize(("base", "cap", "jitter"), [(0, 1, 0), (2, 1, 0), (1, 2, 1), (1, 2, -0.1)])
def test_senseless_bounds_are_refused(base: float, cap: float, jitter: float) -> None:
    with pytest.raises(ValueError, match="need 0 < base <= cap"):
        Backoff(base, cap, random.Random(0), jitter=jitter)
