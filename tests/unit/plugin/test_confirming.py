"""What confirms a claim, with a node agent that does one pass at a time and a status nobody tells of."""

from __future__ import annotations

import itertools
import threading

import pytest

from plugin.agent_status import AgentStatus
from plugin.claims import NotPrepared, Prepared
from plugin.clock import Clock
from plugin.confirming import Node
from plugin.in_flight import InFlight
from plugin.marks import Marks
from plugin.places import Places
from plugin.preparing import Preparations
from state.records import Mark
from tests.unit.plugin.stand import BOOT, NODE, Agent, entry, uid

CLAIM = uid(1)


@pytest.fixture
def agent(places: Places) -> Agent:
    agent = Agent(places)
    agent.set(entry(CLAIM))
    agent.step()
    return agent


def desk(places: Places, marks: Marks | None = None) -> Preparations:
    """Nothing watches the status here: only Preparations themselves look at it."""
    nonces = itertools.count(1)
    status = AgentStatus(places.status_file, lambda seen: None)
    where = Marks(places.marks_dir) if marks is None else marks
    return Preparations(
        Node(pool=NODE, boot_id=BOOT), where, status, Clock(), lambda: f"nonce {next(nonces)} of {id(status)}"
    )


def prepare(preparations: Preparations, seconds: float = 0.0) -> Prepared | NotPrepared:
    return preparations.prepare((CLAIM,), "v1", seconds)[CLAIM]


def test_ready_is_not_enough_the_mark_must_have_been_seen(places: Places, agent: Agent) -> None:
    """The agent may be about to take the device away: it has not seen yet that it is in use."""
    preparations = desk(places)
    assert prepare(preparations) == NotPrepared(why="waits for the node agent to note that the claim is in use")
    agent.step()
    assert isinstance(prepare(preparations), Prepared)


def test_the_echo_of_an_earlier_mark_is_not_enough(places: Places, agent: Agent) -> None:
    preparations = desk(places)
    prepare(preparations)
    agent.step()
    assert isinstance(prepare(preparations), Prepared)
    preparations.unprepare((CLAIM,), 1.0)
    # Prepared for another pod, before the agent has noticed anything.
    assert isinstance(prepare(preparations), NotPrepared)
    agent.step()
    assert isinstance(prepare(preparations), Prepared)


def test_a_status_that_nobody_told_of_is_found_at_the_deadline(places: Places, agent: Agent) -> None:
    class Telling(Marks):
        """The agent works while the plugin waits."""

        def write(self, mark: Mark) -> None:
            super().write(mark)
            agent.step()

    assert isinstance(prepare(desk(places, Telling(places.marks_dir)), 0.05), Prepared)


def test_a_release_that_nobody_told_of_is_found_before_the_mark_is_used_again(
    places: Places, agent: Agent
) -> None:
    preparations = desk(places)
    prepare(preparations)
    agent.step()
    prepare(preparations)
    old = agent.marks()[CLAIM].nonce
    agent.released = {CLAIM: old}
    agent.step()
    prepare(preparations)
    assert agent.marks()[CLAIM].nonce != old


def test_a_claim_that_another_plugin_gave_back_meanwhile_is_not_prepared(places: Places, agent: Agent) -> None:
    """During an update there are two. What the status says is already outdated when this one reads it."""

    class GivenBack(Marks):
        def write(self, mark: Mark) -> None:
            super().write(mark)
            agent.step()
            Marks(places.marks_dir).remove(mark.uid)

    answer = prepare(desk(places, GivenBack(places.marks_dir)), 0.05)
    assert answer == NotPrepared(why="was given back while it was being prepared")


def test_a_call_that_lost_a_claim_does_not_end_the_turn_of_who_has_it_now() -> None:
    turns = InFlight(Clock().monotonic)
    loser = turns.begin(("a", "b"), 0)
    assert loser is not None
    waiting = threading.Thread(
        target=turns.wait,
        args=(loser, {"a": "1", "b": "2"}, lambda uid, nonce: NotPrepared(why="waits"), Clock().monotonic() + 20),
    )
    waiting.start()
    turns.cancel("a")
    owner = turns.begin(("a",), Clock().monotonic() + 20)
    assert owner is not None
    turns.cancel("b")
    waiting.join(20)
    turns.end(loser)
    assert turns.begin(("a",), 0) is None
    turns.end(owner)
    assert turns.begin(("a", "b"), 0) is not None
