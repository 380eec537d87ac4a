"""Claims as last heard of; those that we have written since, as the server answered.

A write is accepted only by the version it was made from, so that nothing lies between the two. Without this every
claim would be served once more from the past, to no avail.
"""

from __future__ import annotations

import threading

from reconciler.controller.answers import Answers
from reconciler.runtime.kube.cache import Cache, Key
from state.classic.claims import ClassicClaim


class KnownClaims:
    """Reads a cache that somebody else fills. Thread-safe."""

    def __init__(self, cache: Cache[ClassicClaim]) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._answers: Answers[Key, ClassicClaim] = Answers()

    def get(self, key: Key) -> ClassicClaim | None:
        """The newest state known of a claim, or None."""
        cached = self._cache.get(key)
        with self._lock:
            return self._answers.newest(key, cached)

    def items(self) -> tuple[tuple[Key, ClassicClaim], ...]:
        """All claims, as last heard of."""
        return self._cache.items()

    def take_answer(self, before: ClassicClaim, after: ClassicClaim) -> None:
        """A write made from ``before`` gave ``after``."""
        key = Key(before.ref.namespace, before.ref.name)
        with self._lock:
            self._answers.take(key, after, frozenset({before.resource_version}))
