"""HTTP as it is on the wire, with servers that break off, fall silent, dawdle or talk nonsense."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import urllib3

from reconciler.runtime.kube.credentials import NoToken
from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.http_transport import Credentials, HttpTransport
from reconciler.runtime.kube.transport import Request, Response
from tests.unit.runtime.kube.wire_server import (
    Answer,
    Asked,
    Connection,
    WireServer,
    always,
    chunk,
    chunked,
    reply,
    serving,
)

GET = Request(method="GET", path="/api", timeout=10)
BRIEF = Request(method="GET", path="/api", timeout=0.1)


@contextmanager
def transport_to(url: str, credentials: Credentials | None = None) -> Iterator[HttpTransport]:
    pool = urllib3.PoolManager()
    transport = HttpTransport(pool, url, credentials or NoToken(), user_agent="tester/1")
    try:
        yield transport
    finally:
        transport.close()


@contextmanager
def connected(
    answer: Answer, credentials: Credentials | None = None
) -> Iterator[tuple[HttpTransport, WireServer]]:
    with serving(answer) as server, transport_to(server.url, credentials) as transport:
        yield transport, server


def failure(send: Callable[[], object]) -> Unreachable:
    with pytest.raises(Unreachable) as caught:
        send()
    return caught.value


def test_a_request_on_the_wire() -> None:
    with connected(always(reply(201, b"made", Warning='299 - "x"', X_Other="y"))) as (transport, server):
        query = (("fieldManager", "a b&c"), ("labelSelector", "x=y,z"))
        asked = Request(
            method="PATCH", path="/api/x", query=query, body=b"{}", content_type="application/merge-patch+json"
        )
        response = transport.send(asked)
    assert (response.status, response.body) == (201, b"made")
    assert (response.headers["warning"], response.headers["x-other"]) == ('299 - "x"', "y")
    seen = server.asked[0]
    assert (seen.method, seen.target) == ("PATCH", "/api/x?fieldManager=a+b%26c&labelSelector=x%3Dy%2Cz")
    assert seen.body == b"{}"
    assert seen.headers["content-type"] == "application/merge-patch+json"
    assert seen.headers["accept"] == "application/json"
    assert seen.headers["user-agent"] == "tester/1"
    assert "authorization" not in seen.headers


def test_connections_are_used_again_also_after_errors() -> None:
    with connected(always(reply(200), reply(404), reply(200, b""))) as (transport, server):
        assert [transport.send(GET).status for _ in range(3)] == [200, 404, 200]
    assert {asked.connection for asked in server.asked} == {0}


def test_a_connection_the_server_closed_while_idle_is_replaced() -> None:
    closed = threading.Event()

    def once(asked: Asked, connection: Connection) -> None:
        connection.say(reply(200))
        connection.sock.shutdown(socket.SHUT_RDWR)
        closed.set()

    with connected(once) as (transport, server):
        for _ in range(3):
            assert transport.send(GET).status == 200
            assert closed.wait(10)
            closed.clear()
    assert len({asked.connection for asked in server.asked}) == 3


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with transport_to(f"http://127.0.0.1:{port}") as transport:
        error = failure(lambda: transport.send(GET))
    assert error.never_sent
    assert not error.silent
    assert "refused" in str(error)
    assert error.__cause__ is not None


def drop(asked: Asked, connection: Connection) -> None:
    connection.sock.shutdown(socket.SHUT_RDWR)


def cut_short(asked: Asked, connection: Connection) -> None:
    connection.say(reply(200, b"0123456789")[:-5])
    connection.sock.shutdown(socket.SHUT_RDWR)


def cut_chunk(asked: Asked, connection: Connection) -> None:
    connection.say(chunked() + chunk(b"0123456789")[:-5])
    connection.sock.shutdown(socket.SHUT_RDWR)


def no_last_chunk(asked: Asked, connection: Connection) -> None:
    connection.say(chunked() + chunk(b"0123456789"))
    connection.sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("how", [drop, cut_short, cut_chunk, no_last_chunk, always(b"SSH-2.0-OpenSSH_9\r\n\r\n")])
def test_an_answer_that_is_none_or_not_whole(how: Answer) -> None:
    with connected(how) as (transport, _):
        error = failure(lambda: transport.send(GET))
    assert not error.never_sent
    assert not error.silent
    assert str(error).startswith("GET /api: ")
    assert error.__cause__ is not None


def fall_silent(asked: Asked, connection: Connection) -> None:
    """Wait until the client goes away."""
    with contextlib.suppress(OSError):
        connection.sock.recv(1)


def test_a_silent_server_is_given_up() -> None:
    with connected(fall_silent) as (transport, _):
        error = failure(lambda: transport.send(BRIEF))
    assert error.silent
    assert not error.never_sent


def test_a_trickle_ends_at_the_deadline() -> None:
    hours = itertools.count(0.0, 3600.0)

    def dawdle(asked: Asked, connection: Connection) -> None:
        connection.say(chunked())
        while not server.over.wait(0.01):
            connection.say(chunk(b"x"))

    with serving(dawdle) as server:
        slow = HttpTransport(
            urllib3.PoolManager(), server.url, NoToken(), user_agent="tester/1", clock=lambda: next(hours)
        )
        error = failure(lambda: slow.send(GET))
        slow.close()
    assert "not complete in time" in str(error)
    assert error.silent


def test_lines_come_one_by_one_however_they_are_cut() -> None:
    go_on = threading.Event()

    def tell(asked: Asked, connection: Connection) -> None:
        connection.say(chunked() + chunk(b"one\ntw"))
        assert go_on.wait(10)
        connection.say(chunk(b"o\n\nthree\n") + chunk(b""))

    with connected(tell) as (transport, _), transport.stream(GET) as stream:
        assert stream.head == Response(status=200, headers=stream.head.headers)
        lines = iter(stream)
        assert next(lines) == b"one"
        go_on.set()
        assert list(lines) == [b"two", b"three"]


def test_lines_without_chunks_come_at_once_too() -> None:
    """As through a proxy that speaks HTTP/1.0."""
    go_on = threading.Event()

    def tell(asked: Asked, connection: Connection) -> None:
        connection.say(b"HTTP/1.0 200 OK\r\n\r\none\n")
        assert go_on.wait(10)
        connection.say(b"two\nthr")
        connection.sock.shutdown(socket.SHUT_RDWR)

    with connected(tell) as (transport, _), transport.stream(GET) as stream:
        lines = iter(stream)
        assert next(lines) == b"one"
        go_on.set()
        assert list(lines) == [b"two", b"thr"]


@pytest.mark.parametrize("end", [cut_chunk, no_last_chunk])
def test_a_stream_that_breaks_off(end: Answer) -> None:
    with connected(end) as (transport, _), transport.stream(GET) as stream:
        error = failure(lambda: list(stream))
    assert not error.silent


def test_a_half_open_stream_is_given_up() -> None:
    def tell(asked: Asked, connection: Connection) -> None:
        connection.say(chunked() + chunk(b"one\n"))
        fall_silent(asked, connection)

    patient = Request(method="GET", path="/api", timeout=0.5)
    with connected(tell) as (transport, _), transport.stream(patient) as stream:
        lines = iter(stream)
        assert next(lines) == b"one"
        assert failure(lambda: next(lines)).silent


def test_a_stream_is_closed_by_another_thread_while_its_reader_waits() -> None:
    def tell(asked: Asked, connection: Connection) -> None:
        connection.say(chunked() + chunk(b"one\n"))
        fall_silent(asked, connection)

    with connected(tell) as (transport, _), transport.stream(GET) as stream:
        lines = iter(stream)
        assert next(lines) == b"one"
        closer = threading.Timer(0.05, stream.close)
        closer.start()
        assert list(lines) == []
        closer.join(10)
        stream.close()


def test_a_stream_that_is_refused_has_its_answer() -> None:
    with connected(always(reply(403, b"no"))) as (transport, _), transport.stream(GET) as stream:
        assert (stream.head.status, stream.head.body) == (403, b"no")
        assert list(stream) == []


def test_redirects_are_not_followed() -> None:
    with connected(always(reply(302, b"", Location="http://127.0.0.1:1/"))) as (transport, _):
        assert transport.send(GET).status == 302


class Rotating:
    """Credentials that have a new token once asked for it."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)

    def header(self) -> str | None:
        return f"Bearer {self.tokens[0]}"

    def renew(self, refused: str | None) -> bool:
        assert refused == self.header()
        if len(self.tokens) == 1:
            return False
        del self.tokens[0]
        return True


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("tokens", "statuses"), [(("old", "new"), [401, 200]), (("old",), [401])])
def test_a_refused_token_is_renewed_once(tokens: tuple[str, ...], statuses: list[int], streaming: bool) -> None:
    given: list[int] = []

    def check(asked: Asked, connection: Connection) -> None:
        given.append(200 if asked.headers["authorization"] == "Bearer new" else 401)
        connection.say(reply(given[-1], b"{}\n"))

    with connected(check, Rotating(*tokens)) as (transport, server):
        if streaming:
            with transport.stream(GET) as stream:
                assert stream.head.status == statuses[-1]
        else:
            assert transport.send(GET).status == statuses[-1]
    assert given == statuses
    assert {asked.connection for asked in server.asked} == {0}
