"""Calls for the same claims at the same time, in any order, and a plugin that dies at any step."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.agent_status import AgentStatus, Seen
from plugin.claims import NotPrepared, Prepared
from plugin.clock import Clock
from plugin.confirming import Node
from plugin.in_flight import InFlight
from plugin.marks import Marks
from plugin.places import Places
from plugin.preparing import Preparations
from state.records import Mark
from tests.unit.plugin.stand import BOOT, NODE, Agent, entry, eventually, places_at, uid

UIDS = tuple(uid(number) for number in range(3))


class Killed(BaseException):
    """The process ended here."""


class DyingMarks(Marks):
    """Marks whose process dies before the given step. Each reading, writing, removing is two: start and end."""

    def __init__(self, directory: Path, dies_before: int) -> None:
        super().__init__(directory)
        self._left = dies_before

    def _step(self) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1

    def read(self, uid: str) -> Mark | None:
        self._step()
        found = super().read(uid)
        self._step()
        return found

    def write(self, mark: Mark) -> None:
        self._step()
        super().write(mark)
        self._step()

    def remove(self, uid: str) -> bool:
        self._step()
        removed = super().remove(uid)
        self._step()
        return removed


class Desk:
    """Preparations as one process has them, with the thread that follows the status."""

    def __init__(self, places: Places, marks: Marks) -> None:
        nonces = itertools.count()
        self.status = AgentStatus(places.status_file, self._changed)
        self.preparations = Preparations(
            Node(pool=NODE, boot_id=BOOT), marks, self.status, Clock(), lambda: f"{id(self)}-{next(nonces)}"
        )

    def _changed(self, seen: Seen) -> None:
        self.preparations.status_changed(seen)

    @contextmanager
    def following(self) -> Iterator[Preparations]:
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                self.status.refresh()
                stop.wait(0.001)

        thread = threading.Thread(target=run, name="status")
        thread.start()
        try:
            yield self.preparations
        finally:
            stop.set()
            thread.join()


@contextmanager
def machine() -> Iterator[tuple[Places, Agent]]:
    with tempfile.TemporaryDirectory(prefix="gpu-") as root:
        places = places_at(Path(root))
        agent = Agent(places)
        with agent.at_work():
            yield places, agent


def run_all(*jobs: Callable[[], None]) -> None:
    threads = [threading.Thread(target=job, name=f"job {number}") for number, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a call hangs"


operations = st.lists(
    st.tuples(st.sampled_from(["prepare", "unprepare"]), st.sets(st.sampled_from(UIDS), min_size=1)), max_size=6
)


@settings(max_examples=40)
@given(
    kubelets=st.lists(operations, min_size=1, max_size=4),
    phases=st.lists(st.tuples(st.sampled_from(UIDS), st.sampled_from(["Ready", "Blocked"])), max_size=6),
)
def test_any_calls_in_parallel(kubelets: list[list[tuple[str, set[str]]]], phases: list[tuple[str, str]]) -> None:
    """Nothing hangs, every claim has an answer, and whoever calls last decides whether the claim is marked."""
    with machine() as (places, agent):
        agent.set(*(entry(name) for name in UIDS))

        def kubelet(calls: list[tuple[str, set[str]]]) -> None:
            for what, uids in calls:
                asked = tuple(sorted(uids))
                if what == "prepare":
                    answers = preparations.prepare(asked, "v1", 0.05)
                    assert answers.keys() == uids
                    assert all(bool(a.devices) if isinstance(a, Prepared) else a.why for a in answers.values())
                else:
                    assert preparations.unprepare(asked, 5.0) == dict.fromkeys(asked, "")

        def people() -> None:
            for name, phase in phases:
                agent.set(entry(name, phase))

        with Desk(places, Marks(places.marks_dir)).following() as preparations:
            run_all(people, *(lambda calls=calls: kubelet(calls) for calls in kubelets))
            agent.set(*(entry(name) for name in UIDS))
            assert all(isinstance(one, Prepared) for one in preparations.prepare(UIDS, "v1", 10.0).values())
            assert agent.marks().keys() == set(UIDS)
            preparations.unprepare(UIDS, 5.0)
            assert agent.marks() == {}


@settings(max_examples=30)
@given(rounds=st.integers(2, 6), uids=st.sets(st.sampled_from(UIDS), min_size=1))
def test_a_confirmed_claim_is_marked_until_it_is_given_back(rounds: int, uids: set[str]) -> None:
    """While one kubelet prepares and another gives back, "prepared" is never said of a claim that has no mark."""
    with machine() as (places, agent):
        agent.set(*(entry(name) for name in UIDS))
        asked = tuple(sorted(uids))
        quiet = threading.Lock()
        begun = itertools.count(1)
        given_back = [0]
        with Desk(places, Marks(places.marks_dir)).following() as preparations:

            def prepare() -> None:
                for _ in range(rounds):
                    before = given_back[0]
                    answers = preparations.prepare(asked, "v1", 0.5)
                    with quiet:
                        if given_back[0] == before:
                            prepared = {name for name, answer in answers.items() if isinstance(answer, Prepared)}
                            assert prepared <= agent.marks().keys()

            def give_back() -> None:
                for _ in range(rounds):
                    with quiet:
                        given_back[0] = next(begun)
                        preparations.unprepare(asked, 5.0)

            run_all(prepare, give_back)


@pytest.mark.parametrize("dies_before", range(16))
def test_a_plugin_that_dies_at_any_step(dies_before: int) -> None:
    """The next one carries on: prepares what was asked for, and gives it back."""
    with machine() as (places, agent):
        agent.set(*(entry(name) for name in UIDS))
        with Desk(places, DyingMarks(places.marks_dir, dies_before)).following() as doomed:
            died = False
            try:
                doomed.prepare(UIDS[:2], "v1", 5.0)
                doomed.unprepare(UIDS[:1], 5.0)
            except Killed:
                died = True
            assert died == (dies_before < 14)
        with Desk(places, Marks(places.marks_dir)).following() as after:
            answers = after.prepare(UIDS[:2], "v1", 10.0)
            assert all(isinstance(answer, Prepared) for answer in answers.values())
            assert agent.marks().keys() == set(UIDS[:2])
            assert after.unprepare(UIDS, 5.0) == dict.fromkeys(UIDS, "")
            assert agent.marks() == {}


def test_a_status_between_marking_and_waiting_is_not_missed() -> None:
    """The only status that ever confirms the claim comes while the call has not begun to wait."""
    with machine() as (places, agent):
        agent.set(entry(UIDS[0]))
        desk = Desk(places, Marks(places.marks_dir))

        class LateMarks(Marks):
            def write(self, mark: Mark) -> None:
                super().write(mark)
                eventually(lambda: agent.written and mark.uid in agent.written[1])  # type: ignore[operator]
                desk.status.refresh()

        desk.preparations._marks = LateMarks(places.marks_dir)
        answer = desk.preparations.prepare(UIDS[:1], "v1", 5.0)
        assert isinstance(answer[UIDS[0]], Prepared)


def test_calls_that_share_claims_never_wait_for_each_other() -> None:
    turns = InFlight(Clock().monotonic)
    first = turns.begin(("a", "b"), 0)
    assert first is not None
    assert turns.begin(("b", "c"), 0) is None
    other = turns.begin(("c",), 0)
    assert other is not None
    turns.end(first)
    assert turns.begin(("b", "c"), 0) is None
    turns.end(other)
    assert turns.begin(("b", "c"), 0) is not None


def test_a_cancelled_claim_is_free_while_its_call_waits_on() -> None:
    turns = InFlight(Clock().monotonic)
    call = turns.begin(("a", "b"), 0)
    assert call is not None
    waiting = threading.Thread(
        target=turns.wait,
        args=(call, {"a": "1", "b": "2"}, lambda uid, nonce: NotPrepared(why="waits"), Clock().monotonic() + 10),
    )
    waiting.start()
    turns.cancel("a")
    eventually(lambda: turns.begin(("a",), 0))
    assert turns.begin(("b",), 0) is None
    turns.cancel("b")
    waiting.join(10)
    assert not waiting.is_alive()
