"""Watches: what happened since a version, what happens from now on, bookmarks, and how they end."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kubesim.clock import Clock
from kubesim.selecting import Matches
from kubesim.store import Change, Step
from kubesim.values import Object

LONGEST_NAP = 0.5
"""Seconds between looks at the clock, which may be a test's own."""


class Dropped(ConnectionError):
    """The connection broke in the middle of a watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """When a watch ends and how often it sends bookmarks (0: never), in seconds."""

    timeout: float
    bookmarks: float = 0.0


class Watch:
    """One watch. Lines are fed by writes; `poll` hands them out, blocking never; iterating blocks.

    A watch that is `frozen` is a half-open connection: it stays open and says nothing more, not even bookmarks.
    """

    def __init__(
        self, clock: Clock, rhythm: Rhythm, bookmark: Callable[[], bytes], closed: Callable[["Watch"], None]
    ) -> None:
        self.status = 200
        self.headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
        self.frozen = False
        self._clock = clock
        self._bookmark = bookmark
        self._on_close = closed
        self._rhythm = rhythm
        self._deadline = clock.monotonic() + rhythm.timeout
        self._next_bookmark = clock.monotonic() + rhythm.bookmarks if rhythm.bookmarks else None
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._dropped = False
        self._listener: Callable[[], None] | None = None
        self._left: int | None = None
        self._freezes = False

    def feed(self, line: bytes) -> None:
        with self._changed:
            if self.frozen or self._ended:
                return
            if self._left == 0:
                self._spoil()
            else:
                self._left = None if self._left is None else self._left - 1
                self._lines.append(line)
            self._changed.notify_all()
        self._tell()

    def spoil_after(self, lines: int, *, frozen: bool) -> None:
        """Break, or fall silent, when more lines than these would have come; those queued already count."""
        with self._changed:
            queued = list(self._lines)
            self._lines = deque(queued[:lines])
            self._left, self._freezes = lines - len(self._lines), frozen
            if len(queued) > lines:
                self._spoil()

    def restart_with(self, line: bytes) -> None:
        """Send this line only, and end."""
        with self._changed:
            self._lines.clear()
            self._lines.append(line)
        self.finish()

    def _spoil(self) -> None:
        if self._freezes:
            self.frozen = True
        else:
            self._dropped = self._ended = True

    def finish(self) -> None:
        """End the stream after what was fed."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._tell()

    def drop(self) -> None:
        """Break the connection: what was not read is lost."""
        with self._changed:
            self._dropped = True
            self._lines.clear()
        self.finish()

    def close(self) -> None:
        """The client is gone."""
        self.finish()
        self._on_close(self)

    def listen(self, listener: Callable[[], None]) -> None:
        """Be called, from any thread, when `poll` may have news."""
        self._listener = listener

    def poll(self) -> tuple[list[bytes], bool]:
        """The lines there are, and whether there will be more. Raises Dropped."""
        with self._changed:
            self._keep_time()
            lines = list(self._lines)
            self._lines.clear()
            if self._dropped and not lines:
                raise Dropped("the watch was dropped")
            return lines, self._dropped or not self._ended

    def nap(self) -> float:
        """For how many seconds at most nothing happens by itself."""
        return max(0.001, min(LONGEST_NAP, self._deadline - self._clock.monotonic()))

    def __iter__(self) -> Iterator[bytes]:
        try:
            while True:
                lines, more = self.poll()
                yield from lines
                if not more:
                    return
                with self._changed:
                    if not self._lines and not self._ended:
                        self._changed.wait(self.nap())
        finally:
            self.close()

    def _keep_time(self) -> None:
        if self.frozen or self._ended:
            return
        now = self._clock.monotonic()
        if self._next_bookmark is not None and now >= self._next_bookmark:
            self._next_bookmark = now + self._rhythm.bookmarks
            self._lines.append(self._bookmark())
        if now >= self._deadline:
            self._ended = True

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener()


def seen(change: Change, matches: Matches) -> tuple[Step, Object] | None:
    """A change as one watcher sees it: an object that leaves a selection is deleted, one that enters is added."""
    before = change.previous is not None and matches(change.previous)
    if change.step is Step.DELETED:
        return (Step.DELETED, change.current) if before else None
    after = matches(change.current)
    if after:
        return (Step.MODIFIED if before else Step.ADDED), change.current
    if before and change.previous is not None:
        left = change.previous
        version = change.current["metadata"]["resourceVersion"]
        return Step.DELETED, {**left, "metadata": {**left["metadata"], "resourceVersion": version}}
    return None
