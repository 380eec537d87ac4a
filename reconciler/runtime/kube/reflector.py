"""Keeps a cache equal to a collection on the API server: one list, then a watch, for ever.

After the list the watch brings every change in order, and bookmarks (about one a minute) when there is none, so
silence means a dead peer. Where the server has forgotten the position (410), or answers something that makes the
position doubtful, everything is listed again and compared; until then the cache stays as it was.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from reconciler.runtime.backoff import Backoff
from reconciler.runtime.kube.cache import Cache, Key, Seen
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import (
    ApiError,
    Expired,
    Forbidden,
    Garbled,
    NotFound,
    ServerFault,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    error_of_event,
)
from reconciler.runtime.kube.listing import PAGE, Raw, list_all, read_watch_line
from reconciler.runtime.kube.measures import RELISTS, UNDECODABLE, WATCH_EVENTS, WATCHES
from reconciler.runtime.kube.threads import OnCrash, start_thread
from reconciler.runtime.kube.transport import Query, Stream
from reconciler.runtime.metrics import Metrics

T = TypeVar("T")

_LONGEST_OBEYED = 300.0  # seconds of a Retry-After: servers say 1, anything longer than this is a mistake

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How patient a reflector is; all in seconds.

    Waits after failures grow from `first_wait` to `longest_wait`, shortened by chance, and start anew after a
    watch that lived for `good_after`. The server is asked to end a watch after a time between `watch_shortest`
    and `watch_longest`, drawn anew each time, so that not all clients come back at once.
    """

    first_wait: float = 0.1
    longest_wait: float = 30.0
    good_after: float = 1.0
    watch_shortest: int = 300
    watch_longest: int = 600
    silence: float = 90.0


DEFAULT_TIMING = Timing()


class Reflector(Generic[T]):
    """One collection (`path`, narrowed by `query`: labelSelector, fieldSelector), decoded and cached.

    `decode` gets the JSON of one object, which in lists lacks kind and apiVersion; whatever it raises concerns
    only that object: logged, counted, told to `on_undecodable` with the reason, and handled as Cache says. It
    never returns None. `on_change` gets the key of whatever changed, after the cache has: also when only the uid
    did, as an object deleted and made anew may show as one change. Both run in the reflector's thread and must
    be brief.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        decode: Callable[[bytes], T],
        on_change: Callable[[Key], None],
        *,
        query: Query = (),
        on_undecodable: Callable[[Key, str], None] | None = None,
        on_crash: OnCrash | None = None,
        page: int = PAGE,
        timing: Timing = DEFAULT_TIMING,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.cache: Cache[T] = Cache()
        self.synced = threading.Event()
        """Set once the first complete list is in the cache and its keys have been handed on."""
        self._client = client
        self._path = path
        self._decode = decode
        self._on_change = on_change
        self._query = query
        self._on_undecodable = on_undecodable
        self._on_crash = on_crash
        self._page = page
        self._timing = timing
        self._metrics = metrics
        self._clock = clock
        self._rng = rng or random.Random()
        self._backoff: Backoff[str] = Backoff(timing.first_wait, timing.longest_wait, self._rng)
        self._halt = threading.Event()
        self._lock = threading.Lock()  # of _stream: closing must not miss one just opened
        self._stream: Stream | None = None
        self._thread: threading.Thread | None = None
        self._position: str | None = None
        self._absent = False
        self._trouble = ""

    @property
    def absent(self) -> bool:
        """The server doesn't know this resource (no such CRD, yet or any more); the cache stays as it was."""
        return self._absent

    @property
    def trouble(self) -> str:
        """Why the cache may be behind: the last failure, empty once a list or watch has succeeded."""
        return self._trouble

    @property
    def stopped(self) -> bool:
        """Its thread has ended, or never begun."""
        return self._thread is None or not self._thread.is_alive()

    def start(self) -> None:
        """Begin in a thread of its own. Once only."""
        if self._thread is not None:
            raise ValueError(f"{self._path}: this reflector has been started before")
        self._thread = start_thread(f"reflector {self._path}", self._run, self._on_crash)

    def stop(self, wait: float = 0.25) -> None:
        """End the watch and wait up to `wait` seconds for the thread.

        A watch ends at once. A thread in the midst of a list is left to its time-out: it changes nothing any more.
        """
        self._halt.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        if self._thread is not None:
            self._thread.join(wait)

    def _run(self) -> None:
        while not self._halt.is_set():
            wait = self._round()
            if wait:
                self._halt.wait(wait)

    def _round(self) -> float:
        """List if need be, then watch as long as it lasts; returns the seconds until the next round."""
        started = self._clock()
        try:
            if self._position is None:
                self._relist()
                started = self._clock()
            if self._position is not None:  # else stopped
                self._watch(self._position)
        except ApiError as error:
            if self._halt.is_set():
                return 0.0
            self._position = self._position if _position_holds(error) else None
            return self._wait_after(error, self._clock() - started)
        if self._clock() - started < self._timing.good_after:
            return self._backoff.failed(self._path, self._clock())  # a server that ends every watch at once
        self._backoff.succeeded(self._path)
        return 0.0

    def _wait_after(self, error: ApiError, lived: float) -> float:
        if lived >= self._timing.good_after and not self._trouble:
            self._backoff.succeeded(self._path)
        self._absent = self._absent or isinstance(error, NotFound)
        wait = self._backoff.failed(self._path, self._clock())
        if error.retry_after is not None:
            wait = max(wait, min(error.retry_after, _LONGEST_OBEYED) * (1 + 0.25 * self._rng.random()))
        level = logging.DEBUG if isinstance(error, Expired) else logging.WARNING
        if str(error) != self._trouble:  # say it once, not at every attempt
            _log.log(level, "cannot follow: %s", error, extra={"path": self._path, "again_in": round(wait, 3)})
        self._trouble = str(error)
        return wait

    def _relist(self) -> None:
        self._count(RELISTS)
        listing = list_all(self._client, self._path, self._read, self._query, page=self._page)
        if self._halt.is_set():
            return
        for key in self.cache.replace(listing.objects):
            self._on_change(key)
        self._position = listing.resource_version
        self._is_well()
        self.synced.set()

    def _watch(self, position: str) -> None:
        timing = self._timing
        query = (
            *self._query,
            ("resourceVersion", position),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(self._rng.randint(timing.watch_shortest, timing.watch_longest))),
        )
        with self._client.watch(self._path, query, silence=timing.silence) as stream:
            self._count(WATCHES)
            self._is_well()
            if self._adopt(stream):
                try:
                    self._follow(stream)
                finally:
                    self._adopt(None)

    def _adopt(self, stream: Stream | None) -> bool:
        """Let stop() know what to close; False if it has been called already."""
        with self._lock:
            self._stream = stream
            return not self._halt.is_set()

    def _follow(self, stream: Stream) -> None:
        for line in stream:
            if self._halt.is_set():
                return
            event = read_watch_line(line, f"WATCH {self._path}")
            match event.type:
                case "ADDED" | "MODIFIED":
                    self._take(event.object)
                case "DELETED":
                    if self.cache.remove(event.object.key):
                        self._on_change(event.object.key)
                case "BOOKMARK":
                    pass
                case "ERROR":
                    raise error_of_event(event.object.body, f"WATCH {self._path}")
                case _:
                    raise Garbled(f"a watch event of type {event.type!r}", about=f"WATCH {self._path}")
            if not event.object.resource_version:
                raise Garbled("a watch event without metadata.resourceVersion", about=f"WATCH {self._path}")
            self._position = event.object.resource_version
            self._is_well()

    def _take(self, raw: Raw) -> None:
        self._count(WATCH_EVENTS)
        if self.cache.put(self._read(raw)):
            self._on_change(raw.key)

    def _read(self, raw: Raw) -> Seen[T]:
        try:
            value, why = self._decode(raw.body), ""
        except Exception as error:  # noqa: BLE001 – whatever a decoder raises is about this object
            value, why = None, str(error) or type(error).__name__
            self._report_undecodable(raw, why)
        return Seen(key=raw.key, uid=raw.uid, resource_version=raw.resource_version, value=value, why=why)

    def _report_undecodable(self, raw: Raw, why: str) -> None:
        self._count(UNDECODABLE)
        if self.cache.undecodable().get(raw.key) == why:
            return  # told before
        about = {"path": self._path, "namespace": raw.key.namespace, "object": raw.key.name}
        _log.warning("cannot read an object: %s", why, extra=about)
        if self._on_undecodable is not None:
            self._on_undecodable(raw.key, why)

    def _is_well(self) -> None:
        self._absent = False
        self._trouble = ""

    def _count(self, name: str) -> None:
        if self._metrics is not None:
            self._metrics.count(name, path=self._path)


def _position_holds(error: ApiError) -> bool:
    """After this the watch may go on where it was; after anything else nothing is sure but a new list.

    A server whose data were restored from a backup may be asked for a position of its future: it then answers
    nothing at all. So silence until the time-out (see Unreachable.silent) makes the position doubtful.
    """
    match error:
        case Unreachable():
            return not error.silent
        case ServerFault():
            return error.status != 500  # which is what an unreadable resourceVersion is answered with
        case TooManyRequests() | Unauthorized() | Forbidden():
            return True
        case _:
            return False
