"""gRPC servers on unix sockets that appear all at once, are ours alone, and are missed when they are gone."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

LONGEST_PATH = 107
"""Bytes of a unix socket's path that the kernel takes (unix(7): sun_path less its end)."""

LARGEST_REQUEST = 256 * 1024
"""Bytes. The biggest sensible request has some hundred claims of a few hundred bytes each."""

_CONNECT_SECONDS = 1.0


class SocketServer:
    """A gRPC server on a socket with permissions 0600. ``calls`` is how many it works on at the same time.

    Twice as many may wait for their turn; further ones are refused at once, so that memory stays bounded.
    """

    def __init__(self, path: Path, handlers: Iterable[grpc.GenericRpcHandler], *, calls: int, name: str) -> None:
        self.path = path
        self._pool = ThreadPoolExecutor(calls, thread_name_prefix=name)
        self._server = grpc.server(
            self._pool,
            handlers=list(handlers),
            options=(("grpc.max_receive_message_length", LARGEST_REQUEST), ("grpc.so_reuseport", 0)),
            maximum_concurrent_rpcs=2 * calls,
        )
        self._identity: tuple[int, int] | None = None

    def start(self) -> None:
        """Listen, then put the socket in its place, over whatever was there. OSError names the path."""
        # A name that begins with a dot is nothing to the kubelet, so it finds a socket that answers, or none.
        hidden = self.path.with_name(f".{self.path.name}")
        check_length(hidden)
        with contextlib.suppress(FileNotFoundError):
            hidden.unlink()
        try:
            self._server.add_insecure_port(f"unix:{hidden}")
        except RuntimeError as error:
            raise OSError(errno.EADDRNOTAVAIL, f"can't listen: {error}", str(hidden)) from error
        os.chmod(hidden, 0o600)
        self._server.start()
        self._identity = _identity(hidden)
        os.rename(hidden, self.path)

    def in_place(self) -> bool:
        """The socket at our path is ours, or belongs to another process that answers there."""
        found = _identity(self.path)
        return found is not None and (found == self._identity or answers(self.path))

    def withdraw(self) -> None:
        """Take the socket away, if it is ours. Connections live on."""
        if self._identity is not None and _identity(self.path) == self._identity:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()

    def retire(self, grace: float) -> None:
        """Like stop(), but without waiting: whoever is connected has ``grace`` seconds to come to an end."""
        self.withdraw()
        self._server.stop(grace)

    def stop(self, grace: float) -> None:
        """Take no further calls and wait up to ``grace`` seconds for those under way; then they are cut off."""
        self.withdraw()
        self._server.stop(grace).wait()
        self._pool.shutdown(wait=False)


def check_length(path: Path) -> None:
    """OSError if the kernel would not take this path for a socket."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise OSError(
            errno.ENAMETOOLONG, f"longer than the {LONGEST_PATH} bytes that a socket may have", str(path)
        )


def answers(path: Path) -> bool:
    """Whether somebody listens at this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
        attempt.settimeout(_CONNECT_SECONDS)
        try:
            attempt.connect(os.fspath(path))
        except OSError:
            return False
        return True


def remove_dead(directory: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Remove those of the named sockets where nobody listens any more; returns what was removed.

    The kubelet asks a dead registration socket again and again, for ever.
    """
    removed = []
    for name in names:
        path = directory / name
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode) and not answers(path):
                path.unlink()
                removed.append(name)
    return tuple(removed)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino)
