"""sd_notify over real datagram sockets."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.runtime.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Notifier]]:
    if request.param == "path":
        name = bound = str(tmp_path / "notify")
    else:
        name, bound = f"@test-{os.getpid()}-{id(request)}", f"\0test-{os.getpid()}-{id(request)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(bound)
        server.settimeout(10)
        yield server, Notifier({"NOTIFY_SOCKET": name}, clock_usec=lambda: 123456)


def test_what_systemd_hears(systemd: tuple[socket.socket, Notifier]) -> None:
    server, notifier = systemd
    notifier.ready("2 GPUs")
    notifier.reloading()
    notifier.ready()
    notifier.status("line one\nREADY=1")
    notifier.status("")
    notifier.alive()
    notifier.stopping()
    assert [server.recv(1000) for _ in range(6)] == [
        b"READY=1\nSTATUS=2 GPUs",
        b"RELOADING=1\nMONOTONIC_USEC=123456",
        b"READY=1",
        b"STATUS=line one READY=1",  # one datagram line: nothing else can be smuggled in
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_outside_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    notifier.stopping()
    assert notifier.watchdog_seconds is None


def test_a_socket_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert caught.value.filename == str(tmp_path / "gone")
    with pytest.raises(ConnectionRefusedError) as refused:
        Notifier({"NOTIFY_SOCKET": "@nobody-there"}).ready()
    assert refused.value.filename == "@nobody-there"


def test_the_watchdog_is_ours_only() -> None:
    environ = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}
    assert Notifier(environ, pid=42).watchdog_seconds == 3.0
    assert Notifier(environ, pid=43).watchdog_seconds is None
    assert Notifier({"WATCHDOG_USEC": "500000"}).watchdog_seconds == 0.5


@pytest.mark.parametrize(
    "environ", [{"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"WATCHDOG_USEC": "soon"}]
)
def test_nonsense_is_named(environ: dict[str, str]) -> None:
    (name,) = environ
    with pytest.raises(ValueError, match=name):
        Notifier(environ)


def test_the_default_clock_is_systemds(tmp_path: Path) -> None:
    import time

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "s"))
        server.settimeout(10)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "s")}).reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        sent = int(server.recv(1000).decode().rpartition("=")[2])
    assert before <= sent <= after
