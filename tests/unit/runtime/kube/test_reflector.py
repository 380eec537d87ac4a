"""One cache and one server: what is asked, what is told, and what happens when the server misbehaves."""

import functools
import json
import logging
import threading

import pytest

from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.reflector import Reflector, Timing
from reconciler.runtime.kube.transport import Response
from tests.unit.runtime.kube.following import SWIFT, following
from tests.unit.runtime.kube.memory_server import UNREADABLE, MemoryServer, status
from tests.unit.runtime.kube.replies import Lines

A, B, C = Key(namespace="", name="a"), Key(namespace="n", name="b"), Key(namespace="n", name="c")
RESET = Unreachable("connection reset")


def server_with(*keys: Key) -> MemoryServer:
    server = MemoryServer()
    for key in keys:
        server.put(key, "first")
    return server


def test_a_list_in_pages_then_changes() -> None:
    server = server_with(A, B, C)
    with following(server, page=2) as told:
        told.until(told.reflector.synced.is_set)
        assert told.data() == {A: "first", B: "first", C: "first"}
        assert sorted(told.changed) == [A, B, C]
        server.put(B, "second")
        server.delete(A)
        told.until(lambda: told.data() == {B: "second", C: "first"})
        assert told.changed[3:] == [B, A]
        told.until(lambda: told.reflector.trouble == "")
    first, second, watch = (dict(request.query) for request in server.asked)
    assert first == {"limit": "2"}
    assert second == {"limit": "2", "continue": "13:2"}
    seconds = int(watch.pop("timeoutSeconds"))
    assert 300 <= seconds <= 600
    assert watch == {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": "13"}
    assert server.asked[2].timeout == 90


def test_a_closed_or_broken_watch_goes_on_where_it_was() -> None:
    server = server_with(A)
    with following(server) as told:
        told.until(lambda: server.open)
        for number, how in enumerate((None, RESET, Unreachable("reset"), None)):
            server.drop(how)
            server.put(A, f"{number}")
            told.until(functools.partial(lambda text: told.data() == {A: text}, f"{number}"))
            told.until(lambda: server.open)
    assert server.lists == 1
    assert server.watches == 5


def test_a_bookmark_moves_the_position_along() -> None:
    server = server_with(A)
    with following(server) as told:
        told.until(lambda: server.open)
        server.version += 100  # other collections changed
        server.bookmark()
        server.drop(None)
        told.until(lambda: server.watches == 2)
    assert dict(server.asked[-1].query)["resourceVersion"] == "111"
    assert server.lists == 1


def test_a_forgotten_position_is_listed_again_and_compared() -> None:
    server = server_with(A, B)
    with following(server) as told:
        told.until(lambda: server.open)
        with server.lock:
            server.drop(RESET)
            server.delete(A)
            server.put(C, "new")
            server.compact()
            told.changed.clear()
        told.until(lambda: told.data() == {B: "first", C: "new"})
        assert sorted(told.changed) == [A, C]
    assert server.lists == 2


def test_an_object_deleted_and_made_anew_unseen_shows_as_another_uid() -> None:
    server = server_with(A)
    with following(server) as told:
        told.until(lambda: server.open)
        before = told.reflector.cache.entry(A)
        with server.lock:
            server.drop(RESET)
            server.put(A, "first", anew=True)
            server.compact()
            told.changed.clear()
        told.until(lambda: told.changed)
        after = told.reflector.cache.entry(A)
        assert told.changed == [A]
        assert before is not None
        assert after is not None
        assert before.uid != after.uid
        assert before.value == after.value


def test_pages_that_expire_are_read_again_in_one_piece() -> None:
    server = server_with(A, B, C)

    def compact() -> None:
        server.on_page = lambda: None
        server.put(A, "second")
        server.compact()

    server.on_page = compact
    with following(server, page=2) as told:
        told.until(told.reflector.synced.is_set)
        assert told.data() == {A: "second", B: "first", C: "first"}
    assert [dict(request.query) for request in server.asked[:3]] == [
        {"limit": "2"},
        {"limit": "2", "continue": "13:2"},
        {},
    ]


def test_a_resource_that_is_not_there_is_waited_for_and_may_vanish_again() -> None:
    server = server_with(A)
    gone = Response(status=404, headers={"content-type": "text/plain"}, body=b"404 page not found\n")
    server.list_faults = [gone] * 3
    with following(server) as told:
        told.until(lambda: told.reflector.absent or told.reflector.synced.is_set())
        told.until(told.reflector.synced.is_set)
        assert not told.reflector.absent
        with server.lock:
            server.list_faults = [gone] * 1000
            server.watch_faults = [Lines(gone)]
            server.drop(None)
        told.until(lambda: told.reflector.absent)
        assert told.data() == {A: "first"}  # an API server that is just starting says the same
        server.list_faults = []
        told.until(lambda: not told.reflector.absent)


def test_not_synced_before_the_first_complete_list() -> None:
    server = server_with(A)
    server.list_faults = [status(403, "Forbidden")] * 1000
    with following(server) as told:
        told.until(lambda: "403" in told.reflector.trouble)
        assert not told.reflector.synced.is_set()
        assert not told.reflector.absent
        server.list_faults = []
        told.until(told.reflector.synced.is_set)
        assert told.reflector.trouble == ""


@pytest.mark.parametrize(
    ("fault", "lists"),
    [
        (status(500, "InternalError"), 2),  # the answer to an unreadable resourceVersion
        (status(400, "BadRequest"), 2),
        (status(410, "Expired"), 2),
        (status(503, "ServiceUnavailable"), 1),
        (status(504, "Timeout"), 1),
        (status(429, "TooManyRequests"), 1),
        (status(401, "Unauthorized"), 1),
        (status(403, "Forbidden"), 1),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Response) else "",
)
def test_after_a_refused_watch_only_a_doubtful_position_is_given_up(fault: Response, lists: int) -> None:
    server = server_with(A)
    server.watch_faults = [Lines(fault)]
    with following(server) as told:
        told.until(lambda: server.open)
        assert server.lists == lists


def test_silence_makes_the_position_doubtful() -> None:
    """A server restored from a backup answers nothing to a position of its future."""
    server = server_with(A)
    with following(server) as told:
        told.until(lambda: server.open)
        server.drop(Unreachable("timed out", silent=True))
        told.until(lambda: server.watches == 2)
    assert server.lists == 2


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"[]",
        b'{"type": "ADDED"}',
        b'{"type": "ADDED", "object": 7}',
        b'{"type": "SURPRISE", "object": {"metadata": {"resourceVersion": "5"}}}',
        b'{"type": "BOOKMARK", "object": {}}',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": "a"}, "data": "x"}}',
        b'{"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "boom"}}',
        b'{"type": "ERROR", "object": "?"}',
        b"\xff\xfe",
        b"{" * 100,
    ],
)
def test_a_line_that_makes_no_sense_leads_to_a_new_list(line: bytes) -> None:
    server = server_with(A)
    server.watch_faults = [Lines().feed(line, None)]
    with following(server) as told:
        told.until(lambda: server.open)
        told.until(lambda: told.data() == {A: "first"})
    assert server.lists == 2


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{}", b'{"metadata": {}, "items": []}', b"<html>", b'{"items": 3}']
)
def test_a_list_that_makes_no_sense_is_asked_for_again(body: bytes) -> None:
    server = server_with(A)
    server.list_faults = [Response(status=200, body=body)]
    with following(server) as told:
        told.until(told.reflector.synced.is_set)
        assert told.data() == {A: "first"}


def test_an_empty_list_may_have_null_items() -> None:
    server = MemoryServer()
    server.list_faults = [Response(status=200, body=b'{"metadata": {"resourceVersion": "10"}, "items": null}')]
    with following(server) as told:
        told.until(told.reflector.synced.is_set)
        server.put(A, "new")
        told.until(lambda: told.data() == {A: "new"})


def test_an_object_that_cannot_be_decoded_keeps_its_last_good_value(caplog: pytest.LogCaptureFixture) -> None:
    server = server_with(A, B)
    with following(server) as told, caplog.at_level(logging.WARNING):
        told.until(lambda: server.open)
        unreadable(server, A)
        unreadable(server, A)
        server.put(B, "second")
        told.until(lambda: told.data()[B] == "second")
        assert told.data()[A] == "first"
        entry = told.reflector.cache.entry(A)
        assert entry is not None
        assert "Expected `str`, got `int` - at `$.data`" in entry.undecodable
        assert told.unreadable == [(A, entry.undecodable)]
        assert told.reflector.cache.undecodable() == {A: entry.undecodable}
        server.put(A, "mended")
        told.until(lambda: told.data()[A] == "mended")
        assert told.reflector.cache.undecodable() == {}
    assert len([record for record in caplog.records if "cannot read an object" in record.message]) == 1


def test_one_that_never_could_be_decoded_is_not_there_but_told_of() -> None:
    server = server_with(B)
    with server.lock:
        unreadable(server, A)
    with following(server) as told:
        told.until(told.reflector.synced.is_set)
        assert told.data() == {B: "first"}
        assert told.reflector.cache.undecodable().keys() == {A}
        assert A in told.changed
        server.delete(A)
        told.until(lambda: not told.reflector.cache.undecodable())
        assert told.changed[-1] == A


def test_the_value_of_a_former_object_is_not_kept_for_a_new_one() -> None:
    server = server_with(A)
    with following(server) as told:
        told.until(lambda: server.open)
        with server.lock:
            server.drop(RESET)
            server.delete(A)
            unreadable(server, A)
            server.compact()
        told.until(lambda: told.reflector.cache.undecodable().keys() == {A})
        assert told.data() == {}


def unreadable(server: MemoryServer, key: Key) -> None:
    """Store an object whose data are a number where a text belongs."""
    server.put(key, UNREADABLE)


def test_a_failing_server_is_not_flooded(caplog: pytest.LogCaptureFixture) -> None:
    server = server_with(A)
    server.list_faults = [status(503, "ServiceUnavailable")] * 1000
    timing = Timing(first_wait=0.01, longest_wait=1000.0)
    with following(server, timing=timing) as told, caplog.at_level(logging.WARNING):
        told.until(lambda: len(server.asked) >= 5)
    assert len(server.asked) < 20
    # 0.01 s doubled 4 times, each at least half of it: 0.075 s at least went by for the fifth attempt
    assert len([record for record in caplog.records if "cannot follow" in record.message]) == 1


def test_a_server_that_ends_every_watch_at_once_is_not_flooded() -> None:
    server = server_with(A)
    server.watch_faults = [Lines().feed(None) for _ in range(1000)]
    with following(server, timing=Timing(first_wait=0.01, longest_wait=1000.0)) as told:
        told.until(lambda: server.watches >= 5)
    assert server.watches < 20
    assert server.lists == 1


def test_retry_after_is_obeyed() -> None:
    server = server_with(A)
    server.list_faults = [Response(status=429, headers={"retry-after": "1000"})]
    with following(server) as told:
        told.until(lambda: told.reflector.trouble)
    assert len(server.asked) == 1


def test_stopping_wakes_a_waiting_watch_and_nothing_is_told_afterwards() -> None:
    server = server_with(A)
    with following(server) as told:
        told.until(lambda: server.open)
        told.reflector.stop(10)
        told.changed.clear()
        server.put(A, "late")
    assert told.changed == []
    assert told.data() == {A: "first"}


def test_stopping_before_a_list_is_answered_changes_nothing_any_more() -> None:
    server = server_with(A)
    asked, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        assert go_on.wait(10)

    server.on_page = hang
    with following(server) as told:
        assert asked.wait(10)
        told.reflector.stop(0)
        go_on.set()
    assert told.changed == []
    assert not told.reflector.synced.is_set()


def test_a_handler_that_fails_is_a_crash_told_of() -> None:
    server = server_with(A)
    crashed = threading.Event()

    def fail(key: Key) -> None:
        raise RuntimeError("a bug")

    reflector = Reflector(
        KubeClient(server), "/a", json.loads, fail, on_crash=lambda error: crashed.set(), timing=SWIFT
    )
    reflector.start()
    assert crashed.wait(10)
    reflector.stop()


def test_a_reflector_starts_once() -> None:
    with following(server_with()) as told, pytest.raises(ValueError, match="started before"):
        told.reflector.start()
