"""Claims as last heard of; those that we have written since, as the server answered.

A write is accepted only by the version it was made from, so that nothing lies between the two. Without this every
claim would be served once more from the past, to no avail.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from reconciler.runtime.kube.cache import Cache, Key
from state.classic.claims import ClassicClaim


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A claim straight from the server, and the versions that are older for certain."""

    claim: ClassicClaim
    older: frozenset[str]


class KnownClaims:
    """Reads a cache that somebody else fills. Thread-safe."""

    def __init__(self, cache: Cache[ClassicClaim]) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._answers: dict[Key, _Answer] = {}

    def get(self, key: Key) -> ClassicClaim | None:
        """The newest state known of a claim, or None."""
        cached = self._cache.get(key)
        with self._lock:
            answer = self._answers.get(key)
            if answer is None:
                return cached
            if cached is not None and cached.resource_version in answer.older:
                return answer.claim
            del self._answers[key]
            return cached

    def items(self) -> tuple[tuple[Key, ClassicClaim], ...]:
        """All claims, as last heard of."""
        return self._cache.items()

    def take_answer(self, before: ClassicClaim, after: ClassicClaim) -> None:
        """A write made from ``before`` gave ``after``."""
        key = Key(before.ref.namespace, before.ref.name)
        with self._lock:
            known = self._answers.get(key)
            older = known.older if known is not None and known.claim.uid == after.uid else frozenset[str]()
            self._answers[key] = _Answer(claim=after, older=older | {before.resource_version})
