"""The containers of a node. They outlive the kubelet, and end when the node is switched off."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from kubesim.actors.kubelet.cdi import Edits


@dataclass(slots=True, kw_only=True)
class Runtime:
    """Sandboxes by pod UID, each with its containers and what CDI gave them. From any thread."""

    _sandboxes: dict[str, dict[str, Edits]] = field(default_factory=dict)
    _restarts: dict[str, int] = field(default_factory=dict)
    _exit_codes: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, uid: str, containers: Mapping[str, Edits]) -> None:
        """Start a pod's containers; those that run are replaced."""
        with self._lock:
            self._restarts[uid] = self._restarts.get(uid, -1) + 1
            self._sandboxes[uid] = dict(containers)

    def stop(self, uid: str, exit_code: int | None = None) -> None:
        """Stop a pod's containers; if they ended by themselves, remember how."""
        with self._lock:
            self._sandboxes.pop(uid, None)
            if exit_code is not None:
                self._exit_codes[uid] = exit_code

    def exit_code(self, uid: str) -> int | None:
        """How a pod's containers ended by themselves, None if they did not."""
        with self._lock:
            return self._exit_codes.get(uid)

    def containers(self, uid: str) -> Mapping[str, Edits] | None:
        """What runs in a pod, None if nothing does."""
        with self._lock:
            return self._sandboxes.get(uid)

    def restarts(self, uid: str) -> int:
        with self._lock:
            return max(0, self._restarts.get(uid, 0))

    def pods(self) -> frozenset[str]:
        """UIDs of the pods that run."""
        with self._lock:
            return frozenset(self._sandboxes)

    def power_off(self) -> None:
        with self._lock:
            self._sandboxes.clear()
