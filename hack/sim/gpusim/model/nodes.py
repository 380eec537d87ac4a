"""Device nodes of the simulated machine (what devtmpfs and udevd make), as data."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CharacterDevice:
    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class NodeLink:
    """A link, its text relative to its own directory."""

    target: str


DeviceNode = CharacterDevice | NodeLink
NodeListener = Callable[[str, DeviceNode | None], None]
"""Called with the path below the devfs root and what is there now; None = removed."""


class DeviceNodes:
    """Paths below /dev with what is there, for anyone who wants to follow along."""

    def __init__(self) -> None:
        self._nodes: dict[str, DeviceNode] = {}
        self._listeners: list[NodeListener] = []
        self._lock = threading.RLock()

    def add(self, path: str, node: DeviceNode) -> None:
        with self._lock:
            self._nodes[path] = node
            self._tell(path, node)

    def remove(self, path: str) -> None:
        """No-op if it is not there."""
        with self._lock:
            if self._nodes.pop(path, None) is not None:
                self._tell(path, None)

    def snapshot(self) -> dict[str, DeviceNode]:
        with self._lock:
            return dict(self._nodes)

    def follow(self, listener: NodeListener) -> Callable[[], None]:
        """Call with all that is there, then on every change. Returns the function that ends it."""
        with self._lock:
            for path, node in self._nodes.items():
                listener(path, node)
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell(self, path: str, node: DeviceNode | None) -> None:
        for listener in self._listeners:
            listener(path, node)
