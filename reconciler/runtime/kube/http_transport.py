"""HTTP by urllib3's connection pool, as the official client sets it up: TLS, client certificates, proxies."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)

from reconciler.runtime.kube.errors import Garbled, Unreachable
from reconciler.runtime.kube.transport import Request, Response, Stream

_CONNECT_SECONDS = 3.0
_PIECE = 1 << 16  # bytes asked for at a time; a watch gets what is there
_LINE_LIMIT = 16 << 20  # bytes; objects are limited to 3 MiB by the API server


class Credentials(Protocol):
    """What stands in the Authorization header."""

    def header(self) -> str | None:
        """The value now; None without a token (client certificates, anonymous)."""

    def renew(self, refused: str | None) -> bool:
        """The server refused this value: get another one, unless there is one already; False if there is none."""


class HttpTransport:
    """Sends requests to one server over pooled connections, with the credentials of the moment.

    A 401 is answered by fresh credentials once. Redirects are not followed: API servers send none.
    """

    def __init__(
        self,
        pool: urllib3.PoolManager,
        host: str,
        credentials: Credentials,
        *,
        user_agent: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._host = host.rstrip("/")
        self._credentials = credentials
        self._user_agent = user_agent
        self._clock = clock

    def send(self, request: Request) -> Response:
        """One answer, whole, within the request's timeout. Raises Unreachable."""
        deadline = self._clock() + request.timeout
        answer = self._open(request)
        with _released(answer), _unreachable(request):
            body = _read_until(answer, deadline, self._clock)
        return _response(answer, body)

    @contextmanager
    def stream(self, request: Request) -> Iterator[Stream]:
        """An answer to be read line by line; its connection is dropped at the end. Raises Unreachable."""
        deadline = self._clock() + request.timeout
        answer = self._open(request)
        with _dropped(answer):
            body = b""
            if answer.status != 200:
                with _unreachable(request):
                    body = _read_until(answer, deadline, self._clock)
            stream = HttpStream(answer, _response(answer, body), request)
            try:
                yield stream
            finally:
                stream.close()

    def close(self) -> None:
        """Close idle connections; those in use end with their requests."""
        self._pool.clear()

    def _open(self, request: Request) -> urllib3.BaseHTTPResponse:
        authorization = self._credentials.header()
        answer = self._ask(request, authorization)
        if answer.status == 401 and self._credentials.renew(authorization):
            with _released(answer), _unreachable(request):
                _read_until(answer, self._clock() + request.timeout, self._clock)
            answer = self._ask(request, self._credentials.header())
        return answer

    def _ask(self, request: Request, authorization: str | None) -> urllib3.BaseHTTPResponse:
        query = f"?{urlencode(request.query)}" if request.query else ""
        headers = {"Accept": request.accept, "User-Agent": self._user_agent}
        if request.body:
            headers["Content-Type"] = request.content_type
        if authorization is not None:
            headers["Authorization"] = authorization
        with _unreachable(request):
            return self._pool.request(
                request.method,
                self._host + request.path + query,
                body=request.body or None,
                headers=headers,
                timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, request.timeout), read=request.timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )


class HttpStream:
    """The lines of one answer; see transport.Stream."""

    def __init__(self, answer: urllib3.BaseHTTPResponse, head: Response, request: Request) -> None:
        self._answer = answer
        self._head = head
        self._request = request
        self._lock = threading.Lock()
        self._closed = False
        self._through = head.status != 200

    @property
    def head(self) -> Response:
        """Status and headers, with the body where the server refused."""
        return self._head

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while not self._through:
            piece = self._read()
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LINE_LIMIT:
                raise Garbled(f"a line of more than {_LINE_LIMIT} bytes", about=_about(self._request))
            yield from (line for line in lines if line)
            self._through = not piece
        if rest and not self._closed:
            yield rest

    def close(self) -> None:
        """Wake the reader, who then finds the end. From any thread, and more than once."""
        with self._lock:
            if not self._closed and not self._through:
                self._closed = True
                # Only wakes the reader, who then lets go of the connection: closing it here would race with him.
                _shut_down(self._answer)

    def _read(self) -> bytes:
        try:
            with _unreachable(self._request):
                return self._answer.read1(_PIECE)
        except Unreachable:
            if self._closed:
                return b""
            raise


def _shut_down(answer: urllib3.BaseHTTPResponse) -> None:
    try:
        answer.shutdown()
    except (OSError, RuntimeError, ValueError):
        return  # already over: nobody waits


def _read_until(answer: urllib3.BaseHTTPResponse, deadline: float, clock: Callable[[], float]) -> bytes:
    """Read the whole body. Each piece has the request's time-out; a trickle of them ends at the deadline."""
    pieces: list[bytes] = []
    while piece := answer.read1(_PIECE):
        pieces.append(piece)
        if clock() > deadline:
            raise TimeoutError("the answer is not complete in time")
    return b"".join(pieces)


def _response(answer: urllib3.BaseHTTPResponse, body: bytes) -> Response:
    headers = {name.lower(): answer.headers[name] for name in answer.headers}
    return Response(status=answer.status, headers=headers, body=body)


@contextmanager
def _released(answer: urllib3.BaseHTTPResponse) -> Iterator[None]:
    """Give a fully read connection back to the pool, and close one left in the middle."""
    try:
        yield
    except BaseException:
        answer.close()
        raise
    finally:
        answer.release_conn()


@contextmanager
def _dropped(answer: urllib3.BaseHTTPResponse) -> Iterator[None]:
    try:
        yield
    finally:
        answer.close()
        answer.release_conn()


@contextmanager
def _unreachable(request: Request) -> Iterator[None]:
    """Turn what urllib3 and sockets raise into Unreachable, the cause kept."""
    try:
        yield
    except (HTTPError, OSError) as error:
        cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        raise Unreachable(
            str(cause) or type(cause).__name__,
            about=_about(request),
            never_sent=_never_sent(cause),
            silent=isinstance(cause, ReadTimeoutError | TimeoutError),
        ) from error


def _never_sent(error: BaseException) -> bool:
    # A name without address, a refused connection, a proxy that gives no tunnel: no request has been written then.
    return isinstance(error, NewConnectionError | ConnectTimeoutError | NameResolutionError | ProxyError)


def _about(request: Request) -> str:
    return f"{request.method} {request.path}"
