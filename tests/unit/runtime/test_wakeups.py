"""The wake set: coalescing, and losing nothing."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.runtime.wakeups import WakeSet


@given(rounds=st.lists(st.lists(st.sampled_from("abcd"))))
def test_each_wait_takes_what_was_woken_since_the_last(rounds: list[list[str]]) -> None:
    wakes = WakeSet()
    for topics in rounds:
        for topic in topics:
            wakes.wake(topic)
        assert wakes.wait(0) == frozenset(topics)
    assert wakes.wait(0) == frozenset()


@given(workers=st.lists(st.lists(st.integers(0, 40).map(str), min_size=1), min_size=1, max_size=4))
def test_no_topic_of_any_thread_is_lost(workers: list[list[str]]) -> None:
    wakes = WakeSet()

    def work(topics: list[str]) -> None:
        for topic in topics:
            wakes.wake(topic)

    threads = [threading.Thread(target=work, args=(topics,)) for topics in workers]
    for thread in threads:
        thread.start()
    wanted = frozenset(topic for topics in workers for topic in topics)
    seen: frozenset[str] = frozenset()
    while seen != wanted:
        taken = wakes.wait(10)
        assert taken, f"still missing {wanted - seen}"
        seen |= taken
    for thread in threads:
        thread.join()


def test_settling_takes_a_burst_in_one_go() -> None:
    for settle in (0.1, 1.0, 10.0):  # longer ones only for a machine too busy to start a thread
        wakes = WakeSet()
        wakes.wake("first")
        later = threading.Timer(0.01, wakes.wake, ("later",))
        later.start()
        taken = wakes.wait(0, settle=settle)
        later.join()
        if taken == {"first", "later"}:
            return
    pytest.fail("the second topic of the burst was not taken along")


def test_without_a_topic_nothing_settles() -> None:
    assert WakeSet().wait(0, settle=1000) == frozenset()


def test_closing_ends_waiting_and_settling_at_once() -> None:
    for topic in ((), ("a",)):
        wakes = WakeSet()
        for name in topic:
            wakes.wake(name)
        taken: list[frozenset[str]] = []

        def wait(wakes: WakeSet = wakes, taken: list[frozenset[str]] = taken) -> None:
            taken.append(wakes.wait(None, settle=1000))

        thread = threading.Thread(target=wait)
        thread.start()
        wakes.close()
        thread.join(10)
        assert taken == [frozenset()]
        assert wakes.closed
        wakes.wake("late")
        assert wakes.wait(1000) == frozenset()
