"""The node agent's status as the plugin follows it."""

from __future__ import annotations

import threading

import pytest

from plugin.agent_status import AgentStatus, Seen
from plugin.places import Places
from tests.unit.plugin.stand import Agent, entry, eventually, uid


def test_it_is_read_when_it_was_replaced_and_only_then(places: Places) -> None:
    agent, heard = Agent(places), list[Seen]()
    status = AgentStatus(places.status_file, heard.append)
    assert status.refresh() is None
    agent.set(entry(uid(1)), entry(uid(2), origin="alloc"))
    agent.step()
    first = status.refresh()
    assert first is not None
    assert first.claims.keys() == {uid(1)}
    assert status.refresh() is first
    agent.set(entry(uid(3)))
    agent.step()
    second = status.refresh()
    assert second is not None
    assert second.number == first.number + 1
    assert heard == [first, second]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"writtenAt":1}', b"[" * 100_000])
def test_what_makes_no_sense_changes_nothing_and_is_said_once(
    places: Places, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    agent = Agent(places)
    agent.step()
    status = AgentStatus(places.status_file, lambda seen: None)
    good = status.refresh()
    places.status_file.write_bytes(content)
    for _ in range(3):
        assert status.refresh() is good
    assert len(caplog.records) == 1
    assert str(places.status_file) in caplog.text
    agent.set(entry(uid(1)))
    agent.step()
    better = status.refresh()
    assert better is not None
    assert better is not good


def test_a_file_that_is_gone_changes_nothing(places: Places) -> None:
    Agent(places).step()
    status = AgentStatus(places.status_file, lambda seen: None)
    good = status.refresh()
    places.status_file.unlink()
    assert status.refresh() is good


def test_waiting_ends_with_something_newer_or_when_told(places: Places) -> None:
    agent = Agent(places)
    status = AgentStatus(places.status_file, lambda seen: None)
    stop = threading.Event()
    ended: list[str] = []

    def wait(name: str, after: int) -> None:
        status.wait(after, 30, stop.is_set)
        ended.append(name)

    waits = [threading.Thread(target=wait, args=("first", 0)), threading.Thread(target=wait, args=("second", 1))]
    for thread in waits:
        thread.start()
    agent.step()
    status.refresh()
    eventually(lambda: ended == ["first"])
    stop.set()
    status.nudge()
    for thread in waits:
        thread.join(10)
    assert ended == ["first", "second"]
