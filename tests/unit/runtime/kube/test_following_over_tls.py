"""The reflector over real connections: changes come at once, and stopping doesn't wait for the server."""

import json
import threading
from pathlib import Path

import pytest

from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.kube.reflector import Reflector, Timing
from tests.unit.runtime.kube.following import SWIFT
from tests.unit.runtime.kube.kubeconfigs import connected, encoded, kubeconfig, make_certificates
from tests.unit.runtime.kube.wire_server import Asked, Connection, chunk, chunked, reply, serving

pytestmark = pytest.mark.usefixtures("no_proxies")


def thing(name: str, version: int) -> dict[str, object]:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)},
        "data": f"{version}",
    }


def listed(version: int, *items: dict[str, object]) -> bytes:
    return reply(200, json.dumps({"metadata": {"resourceVersion": str(version)}, "items": items}).encode())


def event(type: str, body: dict[str, object]) -> bytes:
    return chunk(json.dumps({"type": type, "object": body}).encode() + b"\n")


class Server:
    """Lists one object, then tells of another one, then says nothing more until it is told how to end."""

    def __init__(self) -> None:
        self.watches = 0
        self.waiting = threading.Event()

    def answer(self, asked: Asked, connection: Connection) -> None:
        if "watch=1" not in asked.target:
            connection.say(listed(1, thing("a", 1)))
            return
        self.watches += 1
        connection.say(chunked() + event("ADDED", thing("b", 1 + self.watches)))
        self.waiting.set()
        connection.sock.recv(1)  # until the client goes away


@pytest.mark.parametrize("tls", [False, True])
def test_stopping_a_reflector_whose_watch_waits(tls: bool, tmp_path: Path) -> None:
    certificates = make_certificates()
    server = Server()
    crashes: list[BaseException] = []
    heard = threading.Event()

    def on_change(key: Key) -> None:
        if key.name == "b":
            heard.set()

    with serving(server.answer, certificates.server_context() if tls else None) as wire:
        trust: dict[str, object] = {"certificate-authority-data": encoded(certificates.authority_pem)}
        with connected(kubeconfig(tmp_path, wire.url, cluster=trust if tls else {})) as client:
            reflector = Reflector(client, "/things", json.loads, on_change, on_crash=crashes.append)
            reflector.start()
            assert heard.wait(10)
            assert {key.name for key, _ in reflector.cache.items()} == {"a", "b"}
            reflector.stop(10)  # less than the time-out of a silent watch
            assert reflector.stopped
    assert crashes == []


def test_a_half_open_watch_is_opened_again(tmp_path: Path) -> None:
    server = Server()
    timing = Timing(first_wait=SWIFT.first_wait, longest_wait=SWIFT.longest_wait, silence=0.05)
    again = threading.Event()

    def on_change(key: Key) -> None:
        if server.watches >= 3:
            again.set()

    with serving(server.answer) as wire, connected(kubeconfig(tmp_path, wire.url)) as client:
        reflector = Reflector(client, "/things", json.loads, on_change, timing=timing)
        reflector.start()
        assert again.wait(10)
        reflector.stop(10)


def test_a_server_that_hangs_before_its_answer_is_left_behind(tmp_path: Path) -> None:
    asked = threading.Event()

    def hang(request: Asked, connection: Connection) -> None:
        asked.set()
        connection.sock.recv(1)

    with serving(hang) as wire, connected(kubeconfig(tmp_path, wire.url)) as client:
        reflector = Reflector(client, "/things", json.loads, lambda key: None)
        reflector.start()
        assert asked.wait(10)
        reflector.stop(0)
        left_behind = not reflector.stopped
        wire.end()
        reflector.stop(10)
        assert left_behind
        assert reflector.stopped
        assert not reflector.synced.is_set()


def test_429_then_an_answer_over_the_wire(tmp_path: Path) -> None:
    answers = [reply(429, b"Too many requests, please try again later.\n", Retry_After="1"), reply(200)]

    def answer(asked: Asked, connection: Connection) -> None:
        connection.say(answers.pop(0))

    with serving(answer) as wire, connected(kubeconfig(tmp_path, wire.url)) as client:
        with pytest.raises(ApiError) as caught:
            client.get("/api")
        assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
        assert client.get("/api") == b"{}"
