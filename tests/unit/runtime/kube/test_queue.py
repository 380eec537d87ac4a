"""The work queue: no key lost, none with two workers, failing ones later."""

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.runtime.backoff import Backoff
from reconciler.runtime.kube.queue import WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def a_queue(clock: Clock | None = None) -> WorkQueue[str]:
    backoff: Backoff[str] = Backoff(1.0, 8.0, random.Random(1), jitter=0)
    return WorkQueue(backoff) if clock is None else WorkQueue(backoff, clock=clock)


def drain(queue: WorkQueue[str]) -> list[str]:
    keys = []
    while (key := queue.get(0)) is not None:
        queue.done(key)
        keys.append(key)
    return keys


@given(added=st.lists(st.sampled_from("abcd")))
def test_keys_come_once_in_the_order_they_were_first_added(added: list[str]) -> None:
    queue = a_queue()
    for key in added:
        queue.add(key)
    assert len(queue) == len(set(added))
    assert drain(queue) == list(dict.fromkeys(added))


def test_a_key_added_while_taken_comes_again_when_done_and_not_before() -> None:
    queue = a_queue()
    queue.add("a")
    assert queue.get(0) == "a"
    queue.add("a")
    queue.add("a")
    assert queue.get(0) is None
    queue.done("a")
    assert drain(queue) == ["a"]


def test_what_is_asked_for_later_comes_then_the_earliest_wish_counting() -> None:
    clock = Clock()
    queue = a_queue(clock)
    for seconds in (5.0, 2.0, 9.0):
        queue.add_after("a", seconds)
    queue.add_after("b", 3.0)
    assert drain(queue) == []
    clock.now += 2.0
    assert drain(queue) == ["a"]
    clock.now += 1.0
    assert drain(queue) == ["b"]
    clock.now += 100.0
    assert drain(queue) == []


def test_failures_wait_longer_each_time_until_one_success() -> None:
    clock = Clock()
    queue = a_queue(clock)
    assert [queue.failed("a") for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert queue.failed("b") == 1.0
    queue.succeeded("a")
    assert queue.failed("a") == 1.0
    assert queue.failed("a", at_least=60.0) == 60.0
    clock.now += 1.0
    assert drain(queue) == ["a", "b"]


def test_a_waiting_worker_is_woken_by_a_key_and_by_a_key_falling_due() -> None:
    queue = a_queue()
    got: list[str | None] = []

    def work() -> None:
        for _ in range(2):
            got.append(queue.get(10))

    worker = threading.Thread(target=work)
    worker.start()
    queue.add("now")
    queue.add_after("soon", 0.01)
    worker.join(10)
    assert got == ["now", "soon"]


@pytest.mark.parametrize("timeout", [None, 1000.0])
def test_closing_ends_waiting_now_and_later(timeout: float | None) -> None:
    queue = a_queue()
    got: list[str | None] = ["nothing yet"]
    worker = threading.Thread(target=lambda: got.append(queue.get(timeout)))
    worker.start()
    queue.close()
    worker.join(10)
    assert got[1:] == [None]
    queue.add("late")
    queue.add_after("later", 0)
    assert queue.closed
    assert queue.get(1000) is None
    assert len(queue) == 0


@given(plan=st.lists(st.lists(st.sampled_from("abcde")), min_size=1, max_size=3))
def test_no_key_is_lost_and_none_is_with_two_workers(plan: list[list[str]]) -> None:
    queue = a_queue()
    lock = threading.Lock()
    busy: set[str] = set()
    pending = {key for keys in plan for key in keys}
    seen: set[str] = set()
    clashes: list[str] = []

    def work() -> None:
        while (key := queue.get()) is not None:
            with lock:
                clashes.extend([key] if key in busy else [])
                busy.add(key)
            with lock:
                busy.discard(key)
                seen.add(key)
            queue.done(key)
            if seen == pending:
                queue.close()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for keys in plan:
        for key in keys:
            queue.add(key)
    if not pending:
        queue.close()
    for worker in workers:
        worker.join(10)
    assert seen == pending
    assert clashes == []
