"""Which pods are being scheduled, and which claims they have."""

from __future__ import annotations

import threading
from collections import defaultdict

from reconciler.runtime.kube.cache import Key
from state.dra.resource_claims import ClaimRef


class Wants:
    """Claims by pod and the other way round. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[Key, frozenset[ClaimRef]] = {}
        self._pods: defaultdict[ClaimRef, set[Key]] = defaultdict(set)

    def note(self, pod: Key, claims: frozenset[ClaimRef]) -> None:
        """A pod being scheduled has these claims."""
        with self._lock:
            self._drop(pod)
            self._claims[pod] = claims
            for ref in claims:
                self._pods[ref].add(pod)

    def drop(self, pod: Key) -> frozenset[ClaimRef]:
        """A pod is not being scheduled any more; returns the claims it had."""
        with self._lock:
            return self._drop(pod)

    def pods_of(self, ref: ClaimRef) -> tuple[Key, ...]:
        """Pods being scheduled that have a claim."""
        with self._lock:
            return tuple(self._pods.get(ref, ()))

    def knows(self, pod: Key) -> bool:
        """Whether the claims of a pod are known."""
        with self._lock:
            return pod in self._claims

    def _drop(self, pod: Key) -> frozenset[ClaimRef]:
        claims = self._claims.pop(pod, frozenset())
        for ref in claims:
            self._pods[ref].discard(pod)
            if not self._pods[ref]:
                del self._pods[ref]
        return claims
