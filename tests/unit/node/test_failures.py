import random
from datetime import UTC, datetime, timedelta

from reconciler.node.failures import Failures
from state.ids import DeviceName

START = datetime(2026, 1, 1, tzinfo=UTC)
UNIT = "0000-03-00-0-0x56c0"


def failures() -> Failures:
    return Failures(base=1.0, cap=60.0, rng=random.Random(1))


def test_a_failure_backs_off_and_is_remembered() -> None:
    known = failures()
    known.failed(UNIT, "EIO", START)
    failure = known.now()[UNIT]
    assert (failure.attempts, failure.message, failure.undo_failed) == (1, "EIO", False)
    assert START + timedelta(seconds=0.5) <= failure.retry_at <= START + timedelta(seconds=1)
    assert known.backs_off(UNIT, START)
    assert not known.backs_off(UNIT, failure.retry_at)
    assert not known.backs_off("another", START)


def test_a_failure_during_the_back_off_is_that_of_the_undoing_and_keeps_the_cause() -> None:
    known = failures()
    known.failed(UNIT, "ENOSPC", START)
    known.failed(UNIT, "EIO", START + timedelta(milliseconds=10))
    failure = known.now()[UNIT]
    assert failure.undo_failed
    assert failure.message == "ENOSPC; undoing it failed too: EIO"


def test_failures_in_a_row_wait_longer_up_to_the_cap() -> None:
    known, now, waits = failures(), START, []
    for _ in range(12):
        known.failed(UNIT, "EIO", now)
        waits.append((known.now()[UNIT].retry_at - now).total_seconds())
        now = known.now()[UNIT].retry_at
    assert known.now()[UNIT].attempts == 12
    assert waits[0] <= 1.0
    assert 30.0 <= waits[-1] <= 60.0


def test_it_is_forgotten_once_it_is_due_and_nothing_is_left_to_do() -> None:
    known = failures()
    known.failed(UNIT, "EIO", START)
    due = known.now()[UNIT].retry_at
    known.settle(frozenset(), frozenset(), START)
    assert UNIT in known.now()
    known.settle(frozenset({UNIT}), frozenset(), due)
    assert UNIT in known.now()
    known.settle(frozenset(), frozenset(), due)
    assert known.now() == {}
    known.failed(UNIT, "EIO", due)
    assert known.now()[UNIT].attempts == 1


def test_it_is_not_forgotten_while_a_worker_tries_again() -> None:
    """What is left to do shows only when the GPU has been looked at; until then the wait goes on growing."""
    known, changing = failures(), frozenset({DeviceName(UNIT)})
    for unit in (UNIT, f"{UNIT}/driver", f"{UNIT}/vf0"):
        known.failed(unit, "EIO", START)
        due = known.now()[unit].retry_at
        known.settle(frozenset(), changing, due)
        known.failed(unit, "EIO", due)
        assert known.now()[unit].attempts == 2
