"""Time as the node agent sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Clock:
    """Two clocks: ``wall`` for what people read, ``steady`` for all that is reckoned with.

    The steady clock starts at the wall clock's time and then never jumps, so that somebody setting the time
    neither ends nor prolongs a wait.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self.monotonic = monotonic
        self._began = monotonic()
        self._epoch = datetime.fromtimestamp(wall(), UTC)

    def wall(self) -> datetime:
        """The time of day, in UTC."""
        return datetime.fromtimestamp(self._wall(), UTC)

    def steady(self) -> datetime:
        """A time that only ever goes forward, at the same pace."""
        return self._epoch + timedelta(seconds=self.monotonic() - self._began)
