"""The verbs of the Kubernetes API over any transport: bytes in, bytes out, errors as exceptions.

There is no client-side rate limit: the server's flow control governs, and its 429 answers are obeyed.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from reconciler.runtime.kube.errors import ApiError, ServerFault, TooManyRequests, Unreachable, error_of
from reconciler.runtime.kube.measures import REQUEST_SECONDS, REQUESTS
from reconciler.runtime.kube.transport import JSON, Query, Request, Response, Stream, Transport
from reconciler.runtime.metrics import Metrics

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
_WARNINGS_KEPT = 1000  # texts remembered as already logged

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a request is sent again within one call, and how long (seconds) is waited in between.

    Only what surely wasn't processed (429, a refused connection) and reads are repeated. Waits grow from `base`
    and are shortened by chance; where the server names a longer one, that is waited, unless it exceeds
    `longest`: then the caller gets the error, which carries `retry_after`.
    """

    times: int = 3
    base: float = 0.1
    longest: float = 5.0


DEFAULT_RETRIES = Retries()
NO_RETRIES = Retries(times=0)


class KubeClient:
    """Requests to one API server, from any thread.

    Every method returns the body of the answer and raises ApiError. Paths are those of the REST API, subresources
    included; all requests time out (`timeout`, seconds).
    """

    def __init__(
        self,
        transport: Transport,
        *,
        metrics: Metrics | None = None,
        retries: Retries = DEFAULT_RETRIES,
        timeout: float = 30.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._metrics = metrics
        self._retries = retries
        self._timeout = timeout
        self._rng = rng or random.Random()
        self._clock = clock
        self._closed = threading.Event()
        self._warned: set[str] = set()

    def patience(self, *, retries: Retries, timeout: float) -> "KubeClient":
        """A client over the same transport that waits differently; closing one doesn't end the other's waits."""
        return KubeClient(
            self._transport,
            metrics=self._metrics,
            retries=retries,
            timeout=timeout,
            rng=self._rng,
            clock=self._clock,
        )

    def get(self, path: str, query: Query = ()) -> bytes:
        """Read an object, or one page of a list."""
        return self._call("GET", path, query)

    def create(self, path: str, body: bytes, query: Query = ()) -> bytes:
        """POST an object to its collection."""
        return self._call("POST", path, query, body)

    def replace(self, path: str, body: bytes, query: Query = ()) -> bytes:
        """PUT a whole object. Only for objects that are wholly ours: unknown fields of others would be lost."""
        return self._call("PUT", path, query, body)

    def merge_patch(self, path: str, body: bytes, query: Query = ()) -> bytes:
        """Change some fields; metadata.resourceVersion and metadata.uid in the patch are preconditions."""
        return self._call("PATCH", path, query, body, MERGE_PATCH)

    def json_patch(self, path: str, body: bytes, query: Query = ()) -> bytes:
        """Apply a list of operations; a failed `test` raises Invalid."""
        return self._call("PATCH", path, query, body, JSON_PATCH)

    def apply(
        self, path: str, body: bytes, *, field_manager: str, force: bool = False, query: Query = ()
    ) -> bytes:
        """Server-side apply of the fields that `field_manager` owns (JSON is YAML); creates what is absent.

        `force` takes over fields that others own, without it they are a Conflict.
        """
        mine: Query = (("fieldManager", field_manager), ("force", "true" if force else "false"))
        return self._call("PATCH", path, query + mine, body, APPLY_PATCH)

    def delete(self, path: str, *, uid: str | None = None, resource_version: str | None = None) -> bytes:
        """Delete an object, if given only this one (`uid`) as last read (`resource_version`); else Conflict."""
        given = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {name: value for name, value in given.items() if value is not None}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        return self._call("DELETE", path, (), msgspec.json.encode(options) if preconditions else b"")

    @contextmanager
    def watch(self, path: str, query: Query, *, silence: float) -> Iterator[Stream]:
        """Open a watch; a peer silent for `silence` seconds is taken for dead (Unreachable). Never retried."""
        request = Request(method="GET", path=path, query=(("watch", "1"), *query), timeout=silence)
        started = self._clock()
        try:
            with self._transport.stream(request) as stream:
                self._note("WATCH", str(stream.head.status), started)
                self._log_warnings(stream.head)
                if stream.head.status != 200:
                    raise error_of(stream.head, request)
                yield stream
        except Unreachable:
            self._note("WATCH", "none", started)
            raise

    def close(self) -> None:
        """End waits between retries, now and later (calls under way raise their last error); drop idle
        connections.
        """
        self._closed.set()
        self._transport.close()

    def _call(self, method: str, path: str, query: Query, body: bytes = b"", content_type: str = JSON) -> bytes:
        request = Request(
            method=method, path=path, query=query, body=body, content_type=content_type, timeout=self._timeout
        )
        attempt = 0
        while True:
            try:
                return self._once(request)
            except ApiError as error:
                wait = self._wait_before_retry(request, error, attempt)
                if wait is None or self._closed.wait(wait):
                    raise
                attempt += 1
                _log.debug("sending again", extra={"request": f"{method} {path}", "why": str(error)})

    def _once(self, request: Request) -> bytes:
        started = self._clock()
        try:
            response = self._transport.send(request)
        except Unreachable:
            self._note(request.method, "none", started)
            raise
        self._note(request.method, str(response.status), started)
        self._log_warnings(response)
        if not 200 <= response.status < 300:
            raise error_of(response, request)
        return response.body

    def _wait_before_retry(self, request: Request, error: ApiError, attempt: int) -> float | None:
        """Seconds; None if it must not, or should not, be sent again."""
        if attempt >= self._retries.times or not _may_repeat(request, error):
            return None
        own: float = self._retries.base * 2.0**attempt * (0.5 + 0.5 * self._rng.random())
        if error.retry_after is None:
            return own
        if error.retry_after > self._retries.longest:
            return None
        return error.retry_after * (1 + 0.25 * self._rng.random()) + own

    def _note(self, verb: str, code: str, started: float) -> None:
        if self._metrics is not None:
            self._metrics.count(REQUESTS, verb=verb, code=code)
            self._metrics.observe(REQUEST_SECONDS, self._clock() - started, verb=verb)

    def _log_warnings(self, response: Response) -> None:
        header = response.headers.get("warning")
        if header is None:
            return
        for text in _WARNING.findall(header):
            if text not in self._warned and len(self._warned) < _WARNINGS_KEPT:
                self._warned.add(text)
                _log.warning("the API server warns: %s", re.sub(r"\\(.)", r"\1", text))


def _may_repeat(request: Request, error: ApiError) -> bool:
    match error:
        case TooManyRequests():
            return error.retry_after is not None  # without: refused by a rule (a disruption budget), not for load
        case Unreachable():
            return error.never_sent or (request.method == "GET" and not error.silent)  # it has waited enough
        case ServerFault():
            return request.method == "GET"
        case _:
            return False
