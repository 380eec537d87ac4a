"""A transport that answers what a test says, and remembers what it was asked."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.transport import Request, Response, Stream

Answer = Response | Unreachable


class Lines:
    """A stream that a test feeds: bytes are lines, None ends it, an exception breaks it."""

    def __init__(self, head: Response | None = None) -> None:
        self._head = head or Response(status=200)
        self._lines: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
        self.closed = threading.Event()

    @property
    def head(self) -> Response:
        return self._head

    def feed(self, *lines: bytes | Exception | None) -> "Lines":
        for line in lines:
            self._lines.put(line)
        return self

    def __iter__(self) -> Iterator[bytes]:
        while self._head.status == 200:
            line = self._lines.get()
            if line is None or self.closed.is_set():
                return
            if isinstance(line, Exception):
                raise line
            yield line

    def close(self) -> None:
        self.closed.set()
        self._lines.put(None)


@dataclass
class Replies:
    """`answer` is called for each request; `open_stream` for each watch."""

    answer: Callable[[Request], Answer] = lambda request: Response(status=200)
    open_stream: Callable[[Request], Stream | Unreachable] = lambda request: Lines()
    asked: list[Request] = field(default_factory=list)

    def send(self, request: Request) -> Response:
        self.asked.append(request)
        return _or_raise(self.answer(request))

    @contextmanager
    def stream(self, request: Request) -> Iterator[Stream]:
        self.asked.append(request)
        stream = self.open_stream(request)
        if isinstance(stream, Unreachable):
            raise stream
        try:
            yield stream
        finally:
            stream.close()

    def close(self) -> None:
        pass


def _or_raise(answer: Answer) -> Response:
    if isinstance(answer, Unreachable):
        raise answer
    return answer


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    """Give these answers one after the other; a request too many is an error of the test."""
    rest = list(answers)
    return lambda request: rest.pop(0)
