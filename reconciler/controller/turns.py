"""One at a time for each node: several who write to one GpuNodeState would only make each other's writes fail."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """A lock for each name in use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Wait until nobody else is at ``name``, and keep others away meanwhile."""
        with self._lock:
            turn, users = self._turns.get(name, (threading.Lock(), 0))
            self._turns[name] = turn, users + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                users = self._turns.pop(name)[1] - 1
                if users:
                    self._turns[name] = turn, users
