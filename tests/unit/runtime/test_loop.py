"""The loop: when passes run, what they are told, and how it ends."""

import itertools
import logging
import threading
from collections.abc import Callable

import pytest

from reconciler.runtime.loop import DUE, RESYNC, Loop, PassRun
from reconciler.runtime.wakeups import WakeSet

FIRST = frozenset({RESYNC})


class Driven:
    """A loop in a thread of its own whose passes the test meets one by one."""

    def __init__(self, *, resync: float = 1000.0, settle: float = 0.0) -> None:
        self.wakes = WakeSet()
        self.runs: list[PassRun] = []
        self.begun: list[frozenset[str]] = []
        self._answers: list[float | None] = []
        self._entered = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)
        self.loop = Loop(self._one_pass, self.wakes, resync=resync, settle=settle, on_run=self.runs.append)
        self.thread = threading.Thread(target=self.loop.run)

    def __enter__(self) -> "Driven":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        self._go_on.release()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def _one_pass(self, topics: frozenset[str]) -> float | None:
        self.begun.append(topics)
        self._entered.release()
        assert self._go_on.acquire(timeout=10)
        return self._answers.pop() if self._answers else None

    def enter(self) -> frozenset[str]:
        """Wait until a pass is under way; it stays there."""
        assert self._entered.acquire(timeout=10), "no pass"
        return self.begun[-1]

    def leave(self, again: float | None = None) -> None:
        self._answers.append(again)
        self._go_on.release()


def test_the_first_pass_looks_everywhere_and_wakes_during_a_pass_are_kept() -> None:
    with Driven() as driven:
        assert driven.enter() == FIRST
        for topic in ("b", "a", "b"):
            driven.wakes.wake(topic)
        assert len(driven.begun) == 1  # never two at once
        driven.leave()
        assert driven.enter() == {"a", "b"}
        driven.leave()


def test_what_was_woken_before_the_start_is_in_the_first_pass() -> None:
    driven = Driven()
    driven.wakes.wake("early")
    with driven:
        assert driven.enter() == FIRST | {"early"}
        driven.leave()


def test_a_pass_that_asks_for_another_gets_it() -> None:
    with Driven() as driven:
        driven.enter()
        for again in (0.0, 0.01, -5.0):
            driven.leave(again)
            assert driven.enter() == {DUE}
        driven.leave()


def test_a_wake_comes_before_what_is_due_and_the_later_answer_holds() -> None:
    with Driven() as driven:
        driven.enter()
        driven.leave(1000.0)
        driven.wakes.wake("a")
        assert driven.enter() == {"a"}
        driven.leave(None)
        driven.wakes.wake("b")
        assert driven.enter() == {"b"}
        driven.leave()


def test_the_resync_timer_runs_by_itself() -> None:
    with Driven(resync=0.01) as driven:
        for _ in range(4):
            assert driven.enter() == FIRST
            driven.leave()


def test_a_busy_loop_still_resyncs() -> None:
    """Time moves only when asked, one second a look: wakes never stop and still the timer is kept."""
    seconds = itertools.count()
    wakes = WakeSet()
    seen: list[frozenset[str]] = []

    def one_pass(topics: frozenset[str]) -> float | None:
        seen.append(topics)
        wakes.wake("busy")
        if len(seen) == 40:
            wakes.close()
        return None

    Loop(one_pass, wakes, resync=20, settle=0, clock=lambda: float(next(seconds))).run()
    resyncs = [number for number, topics in enumerate(seen) if RESYNC in topics]
    gaps = [later - earlier for earlier, later in itertools.pairwise(resyncs)]
    assert resyncs[0] == 0
    assert len(gaps) >= 3
    assert max(gaps) <= 10  # at least two looks at the clock in each pass


class Impatient(WakeSet):
    """Notes how long it was to pause, and goes on at once."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def test_passes_keep_their_distance_unless_one_asks_for_the_next_sooner() -> None:
    wakes = Impatient()
    answers: list[float | None] = [None, 0.0, 1.0, 30.0]

    def one_pass(topics: frozenset[str]) -> float | None:
        wakes.wake("busy")
        if len(answers) == 1:
            wakes.close()
        return answers.pop(0)

    Loop(one_pass, wakes, resync=20, settle=2, clock=lambda: 0.0).run()
    assert wakes.pauses == [0.0, 2.0, 0.0, 1.0]  # before each: the first is due at once


def test_a_loop_that_keeps_its_distance_can_be_stopped() -> None:
    with Driven(resync=5000, settle=1000) as driven:
        assert driven.enter() == FIRST
        driven.wakes.wake("late")
        driven.leave()
    assert driven.begun == [FIRST]


@pytest.mark.parametrize("again", [None, 1000.0])
def test_stop_ends_the_wait(again: float | None) -> None:
    with Driven() as driven:
        driven.enter()
        driven.leave(again)
    assert driven.begun == [FIRST]


def test_stop_waits_for_the_pass_under_way_and_starts_no_other() -> None:
    with Driven() as driven:
        driven.enter()
        driven.wakes.wake("a")
        driven.loop.stop()
        assert driven.thread.is_alive()
        driven.leave(0.0)
        driven.thread.join(10)
    assert driven.begun == [FIRST]


def test_a_crash_is_logged_counted_and_ends_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[PassRun] = []

    def one_pass(topics: frozenset[str]) -> float | None:
        raise ZeroDivisionError("a bug")

    loop = Loop(one_pass, WakeSet(), resync=60, on_run=runs.append)
    with pytest.raises(ZeroDivisionError, match="a bug"), caplog.at_level(logging.ERROR):
        loop.run()
    assert [run.crashed for run in runs] == [True]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.__dict__["topics"] == RESYNC
    assert "ZeroDivisionError: a bug" in caplog.text
    assert "Traceback" in caplog.text


def test_each_pass_is_reported() -> None:
    with Driven() as driven:
        driven.enter()
        driven.leave()
        driven.wakes.wake("a")
        driven.enter()
        driven.leave()
    assert [(run.topics, run.crashed) for run in driven.runs] == [(FIRST, False), ({"a"}, False)]
    assert all(run.seconds >= 0 for run in driven.runs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Loop(lambda topics: None, WakeSet(), resync=0),
        lambda: Loop(lambda topics: None, WakeSet(), resync=1, settle=-1),
    ],
)
def test_senseless_times_are_refused(make: Callable[[], Loop]) -> None:
    with pytest.raises(ValueError, match="need resync > 0"):
        make()
