"""A socket that takes commands for a running machine: one line in, one line out."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from gpusim.commands import CommandError

SOCKET = "control.sock"
_LONGEST = 4096


@contextlib.contextmanager
def serving(where: Path, run: Callable[[str], None]) -> Iterator[Path]:
    """Serve commands at `where`/control.sock for the time of the context. `run` raises CommandError to refuse."""
    path = where / SOCKET
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=_serve, args=(server, run), name="control", daemon=True)
        thread.start()
        try:
            yield path
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            path.unlink(missing_ok=True)


def poke(where: Path, command: str) -> str:
    """Send one command to the machine at `where`; returns its answer, "ok" or "error: …". OSError if none runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(where / SOCKET))
        client.sendall(command.replace("\n", " ").encode() + b"\n")
        with client.makefile("r", encoding="utf-8") as answer:
            return answer.readline().rstrip("\n")


def _serve(server: socket.socket, run: Callable[[str], None]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, run), name="command", daemon=True).start()


def _answer(connection: socket.socket, run: Callable[[str], None]) -> None:
    with connection, connection.makefile("rw", encoding="utf-8") as stream:
        line = stream.readline(_LONGEST)
        try:
            run(line)
        except CommandError as error:
            stream.write(f"error: {error}\n")
        else:
            stream.write("ok\n")
