"""A server that says on the wire exactly what a test wants: also half answers, and none."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it came over the wire; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


class Connection:
    """One client's connection."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self._number = number
        self._reader = sock.makefile("rb")

    def next(self) -> Asked | None:
        """Read a request; None at the end of the connection."""
        line = self._reader.readline().decode()
        if not line:
            return None
        method, target, _ = line.split(" ")
        headers = {}
        while (line := self._reader.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = self._reader.read(int(headers.get("content-length", "0")))
        return Asked(method=method, target=target, headers=headers, body=body, connection=self._number)

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close(self) -> None:
        self._reader.close()
        self.sock.close()


def reply(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    """A whole answer; header names with underscores for dashes."""
    fields = {"Content-Length": str(len(body)), **{n.replace("_", "-"): v for n, v in headers.items()}}
    return _head(status, fields) + body


def chunked(status: int = 200) -> bytes:
    """The head of an answer whose length isn't known."""
    return _head(status, {"Transfer-Encoding": "chunked", "Content-Type": "application/json"})


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _head(status: int, fields: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode()


Answer = Callable[[Asked, Connection], None]


@dataclass
class WireServer:
    """`answer` is called in a thread per connection, for each request."""

    answer: Answer
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    """Set when the test is through: what an answer that hangs waits for."""
    port: int = 0
    _open: list[Connection] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def accept_all(self, listener: socket.socket) -> None:
        while not self.over.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(10)
            thread = threading.Thread(target=self._serve, args=(sock, len(self._threads)))
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        self.over.set()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in tuple(self._threads):
            thread.join(10)

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            stack.enter_context(contextlib.suppress(OSError))  # the client went away, or didn't like us
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            connection = Connection(sock, number)
            self._open.append(connection)
            stack.callback(connection.close)
            while not self.over.is_set() and (asked := connection.next()) is not None:
                self.asked.append(asked)
                self.answer(asked, connection)


@contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[WireServer]:
    """Serve on a free port of 127.0.0.1."""
    server = WireServer(answer=answer, tls=tls)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        accepting = threading.Thread(target=server.accept_all, args=(listener,))
        accepting.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(10)
            server.end()


def always(*answers: bytes) -> Answer:
    """Give these answers in turn, the last one for ever."""
    rest = list(answers)
    return lambda asked, connection: connection.say(rest.pop(0) if len(rest) > 1 else rest[0])
