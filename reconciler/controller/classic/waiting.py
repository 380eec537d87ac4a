"""Who waits for which nodes to change."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Waiting(Generic[K]):
    """By node, those who would like to know when it changes. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: dict[K, frozenset[str]] = {}
        self._by_node: defaultdict[str, set[K]] = defaultdict(set)

    def wait(self, who: K, nodes: Iterable[str]) -> None:
        """From now on ``who`` waits for just these nodes."""
        with self._lock:
            for node in self._nodes.pop(who, ()):
                self._by_node[node].discard(who)
                if not self._by_node[node]:
                    del self._by_node[node]
            wanted = frozenset(nodes)
            if wanted:
                self._nodes[who] = wanted
            for node in wanted:
                self._by_node[node].add(who)

    def on(self, node: str) -> tuple[K, ...]:
        """Who waits for a node."""
        with self._lock:
            return tuple(self._by_node.get(node, ()))
