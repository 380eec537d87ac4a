"""One request to an API server, and what may carry it: HTTP in the product, anything else in tests."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

Query = tuple[tuple[str, str], ...]
"""Query parameters in order, not yet percent-encoded."""

JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked. `path` starts with a slash and is percent-encoded where that is needed; `timeout` in seconds:
    for send() until the whole answer is there, for stream() between two pieces of it.
    """

    method: str
    path: str
    query: Query = ()
    body: bytes = b""
    content_type: str = JSON
    accept: str = JSON
    timeout: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What was answered, whatever the status. Header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Stream(Protocol):
    """An answer that goes on: its lines, without their ends, as they come."""

    @property
    def head(self) -> Response:
        """Status and headers. For any status but 200 the answer is complete, its body is here and no line
        follows.
        """

    def __iter__(self) -> Iterator[bytes]:
        """Yield lines until the server ends the answer or close() is called; Unreachable if it breaks off."""

    def close(self) -> None:
        """End it from any thread; a reader waiting for a line returns at once. Any number of times."""


class Transport(Protocol):
    """Carries requests, from any thread. Both methods raise Unreachable where no answer came."""

    def send(self, request: Request) -> Response:
        """Ask and wait for the whole answer."""

    def stream(self, request: Request) -> AbstractContextManager[Stream]:
        """Ask and wait for the head of the answer; leaving the context closes the stream."""

    def close(self) -> None:
        """Let go of idle connections."""
