"""What goes in and out of the simulated server, whether or not HTTP carries it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from kubesim.access import User
from kubesim.values import Value, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request. Header names are lower case; `user` is who a client certificate says it is."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    user: User | None = None

    @classmethod
    def to(
        cls,
        method: str,
        url: str,
        body: Value = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> "Request":
        """A request from a path with its query, as written in a URL; a body that is not bytes is sent as JSON."""
        parts = urlsplit(url)
        sent = {"accept": accept, **{name.lower(): value for name, value in (headers or {}).items()}}
        payload = b""
        if body is not None:
            payload = body if isinstance(body, bytes) else encode(body)
            sent["content-type"] = content_type
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        return cls(method=method, path=parts.path, query=query, headers=sent, body=payload)

    def option(self, name: str) -> str:
        """A query parameter, "" where it is not given."""
        return next((value for key, value in self.query if key == name), "")

    def flag(self, name: str) -> bool:
        """A query parameter that is true or false; as in the real server, "1" is true as well."""
        return self.option(name) in ("true", "1")

    @property
    def accept(self) -> str:
        return self.headers.get("accept", "")

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip()

    @property
    def url(self) -> str:
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    @property
    def watches(self) -> bool:
        return self.method == "GET" and self.flag("watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer with a body known at once; header names as on the wire, repeated ones in their order."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Stream(Protocol):
    """A watch: its status and headers, and lines until it ends. `close` works from any thread."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> tuple[tuple[str, str], ...]: ...

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


def json_response(status: int, value: Value, *headers: tuple[str, str]) -> Response:
    return Response(status=status, headers=(("Content-Type", "application/json"), *headers), body=encode(value))


def text_response(status: int, text: str, *headers: tuple[str, str]) -> Response:
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return Response(
        status=status, headers=(kind, ("X-Content-Type-Options", "nosniff"), *headers), body=text.encode()
    )
