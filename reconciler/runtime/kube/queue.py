"""Keys to look at: each at most once at a time, failing ones after a growing wait, those asked for later then."""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from reconciler.runtime.backoff import Backoff

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """A queue of keys for any number of workers, who look up in caches what there is to do.

    A key added twice is taken once. One added while a worker has it is given out again after done(), never to two
    workers at once. Times are seconds of `clock`, which must not go back.
    """

    def __init__(self, backoff: Backoff[K], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff = backoff
        self._clock = clock
        self._changed = threading.Condition()
        self._ready: deque[K] = deque()
        self._wanted: set[K] = set()  # in _ready, or to go there when done
        self._taken: set[K] = set()
        self._due: dict[K, float] = {}
        self._later: list[tuple[float, int, K]] = []  # may hold what _due no longer has
        self._sequence = 0
        self._closed = False

    def add(self, key: K) -> None:
        """Ask for a key to be looked at now."""
        with self._changed:
            self._add(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for a key in a while; of several such wishes for a key the earliest counts."""
        with self._changed:
            due = self._clock() + seconds
            if not self._closed and due < self._due.get(key, float("inf")):
                self._due[key] = due
                self._sequence += 1  # equal times must not compare keys
                heapq.heappush(self._later, (due, self._sequence, key))
                self._changed.notify()

    def get(self, timeout: float | None = None) -> K | None:
        """Wait up to `timeout` seconds (None: for ever) and take a key; None on timeout and once closed.

        The caller says done() when through with it, whatever happened.
        """
        with self._changed:
            give_up = None if timeout is None else self._clock() + timeout
            while True:
                now = self._clock()
                self._move_due(now)
                if self._closed:
                    return None
                if self._ready:
                    key = self._ready.popleft()
                    self._wanted.discard(key)
                    self._taken.add(key)
                    return key
                if give_up is not None and now >= give_up:
                    return None
                ends = [end for end in (give_up, self._later[0][0] if self._later else None) if end is not None]
                self._changed.wait(max(0.0, min(ends) - now) if ends else None)

    def done(self, key: K) -> None:
        """Give a key back; if it was added meanwhile it is given out again."""
        with self._changed:
            self._taken.discard(key)
            if key in self._wanted:
                self._ready.append(key)
                self._changed.notify()

    def failed(self, key: K, *, at_least: float = 0.0) -> float:
        """Ask for a key again after its back-off, but not before `at_least` seconds; returns the wait."""
        with self._changed:
            wait = max(at_least, self._backoff.failed(key, self._clock()))
        self.add_after(key, wait)
        return wait

    def succeeded(self, key: K) -> None:
        """Forget the failures of a key."""
        with self._changed:
            self._backoff.succeeded(key)

    def close(self) -> None:
        """End all waiting, now and later; what was queued is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """close() has been called."""
        with self._changed:
            return self._closed

    def __len__(self) -> int:
        """Keys that could be taken now."""
        with self._changed:
            self._move_due(self._clock())
            return len(self._ready)

    def _add(self, key: K) -> None:
        if self._closed or key in self._wanted:
            return
        self._wanted.add(key)
        if key not in self._taken:
            self._ready.append(key)
            self._changed.notify()

    def _move_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)
