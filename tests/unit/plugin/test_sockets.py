"""Servers on unix sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from plugin.pb.pluginregistration import registration_pb2 as pb
from plugin.places import Places
from plugin.rpc import unary
from plugin.sockets import SocketServer, answers, check_length, remove_dead

METHOD = "/test.Test/Ask"


class Asked:
    """A service whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.under_way = threading.Semaphore(0)
        self.let_go = threading.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        def answer(request: pb.InfoRequest, context: grpc.ServicerContext) -> pb.PluginInfo:
            self.under_way.release()
            assert self.let_go.wait(20)
            return pb.PluginInfo(name="here")

        return grpc.method_handlers_generic_handler("test.Test", {"Ask": unary(pb.InfoRequest, answer)})


@pytest.fixture
def path(places: Places) -> Path:
    return places.kubelet / "a.sock"


@pytest.fixture
def asked() -> Iterator[Asked]:
    asked = Asked()
    yield asked
    asked.let_go.set()


def ask(channel: grpc.Channel) -> grpc.Future[bytes]:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
    return call.future(b"", timeout=20)


def test_more_calls_than_twice_what_it_works_on_are_refused_at_once(path: Path, asked: Asked) -> None:
    server = SocketServer(path, [asked.handler()], calls=2, name="test")
    server.start()
    with grpc.insecure_channel(f"unix:{path}") as channel:
        calls = [ask(channel) for _ in range(10)]
        refused = [call for call in calls if call not in waiting(calls, 4)]
        assert len(refused) == 6
        assert {call.exception().code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}  # type: ignore[union-attr]
        asked.let_go.set()
        assert all(call.result() for call in calls if call not in refused)
    server.stop(5)


def waiting(calls: list[grpc.Future[bytes]], how_many: int) -> list[grpc.Future[bytes]]:
    """Those not done when all but so many are."""
    done = threading.Semaphore(0)
    for call in calls:
        call.add_done_callback(lambda _: done.release())
    for _ in range(len(calls) - how_many):
        assert done.acquire(timeout=20)
    return [call for call in calls if not call.done()]


def test_stopping_waits_for_calls_under_way_and_takes_no_others(path: Path, asked: Asked) -> None:
    server = SocketServer(path, [asked.handler()], calls=2, name="test")
    server.start()
    with grpc.insecure_channel(f"unix:{path}") as channel:
        call = ask(channel)
        assert asked.under_way.acquire(timeout=20)
        stopping = threading.Thread(target=server.stop, args=(20,))
        stopping.start()
        while path.exists():
            assert stopping.is_alive()
        asked.let_go.set()
        assert pb.PluginInfo.FromString(call.result()).name == "here"
        stopping.join(20)
        assert not stopping.is_alive()


def test_calls_that_outlast_the_grace_are_cut_off(path: Path, asked: Asked) -> None:
    server = SocketServer(path, [asked.handler()], calls=2, name="test")
    server.start()
    with grpc.insecure_channel(f"unix:{path}") as channel:
        call = ask(channel)
        assert asked.under_way.acquire(timeout=20)
        server.stop(0.1)
        assert call.exception() is not None


def test_a_socket_of_somebody_else_is_left_to_him_as_long_as_he_answers(path: Path, asked: Asked) -> None:
    server = SocketServer(path, [asked.handler()], calls=1, name="test")
    server.start()
    assert server.in_place()
    other = path.with_name("b.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(other))
        listening.listen()
        other.rename(path)
        assert server.in_place()
        server.withdraw()
        assert path.exists()
    assert not answers(path)
    assert not server.in_place()
    server.stop(0)
    assert path.exists()
    path.unlink()
    assert not server.in_place()


def test_a_listener_that_cannot_be_had_names_its_path(places: Places, asked: Asked) -> None:
    path = places.kubelet / "missing" / "a.sock"
    with pytest.raises(OSError, match=r"can't listen.*missing"):
        SocketServer(path, [asked.handler()], calls=1, name="test").start()


@pytest.mark.parametrize(("length", "fits"), [(107, True), (108, False)])
def test_the_longest_path(length: int, fits: bool) -> None:
    path = Path("/" + "ü" + "x" * (length - 3))
    assert len(os.fsencode(path)) == length
    if fits:
        check_length(path)
    else:
        with pytest.raises(OSError, match="107 bytes"):
            check_length(path)


def test_only_dead_sockets_are_removed(places: Places) -> None:
    names = ("dead", "alive", "file", "link", "missing")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(places.kubelet / "dead"))
    (places.kubelet / "file").touch()
    (places.kubelet / "link").symlink_to("dead")
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(places.kubelet / "alive"))
        alive.listen()
        assert remove_dead(places.kubelet, names) == ("dead",)
    assert {"alive", "file", "link"} <= {path.name for path in places.kubelet.iterdir()}
