"""Time as the plugin sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """``monotonic`` in seconds, for waits; ``wall`` in UTC, to compare with times in files."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], datetime] = _now
