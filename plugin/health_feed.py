"""The stream in which the kubelet hears of the health of devices."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc

from plugin.agent_status import AgentStatus
from plugin.clock import Clock
from plugin.confirming import STALE, Node
from plugin.health import DeviceHealth, device_healths

RESEND_SECONDS = 9.0
"""A complete list goes out this often although nothing has changed: kubelets take it for outdated after 30 s."""

TIMEOUT_SECONDS = int(STALE.total_seconds())
"""After how long the kubelet is to take what it heard for outdated."""

MOST_STREAMS = 8
"""A kubelet opens one; each takes a thread."""


class HealthFeed:
    """Lists of devices with their health, as long as somebody listens."""

    def __init__(self, status: AgentStatus, node: Node, clock: Clock) -> None:
        self._status = status
        self._node = node
        self._clock = clock
        self._places = threading.Semaphore(MOST_STREAMS)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all streams."""
        self._stopped.set()
        self._status.nudge()

    def lists(self, context: grpc.ServicerContext) -> Iterator[tuple[tuple[DeviceHealth, ...], int]]:
        """Lists for one listener, each with the time of its status in seconds since 1970."""
        if not self._places.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {MOST_STREAMS} such streams already")
        try:
            context.add_callback(self._status.nudge)
            yield from self._lists(context)
        finally:
            self._places.release()

    def _lists(self, context: grpc.ServicerContext) -> Iterator[tuple[tuple[DeviceHealth, ...], int]]:
        sent: tuple[DeviceHealth, ...] | None = None
        due = 0.0

        def over() -> bool:
            return self._stopped.is_set() or not context.is_active()

        while not over():
            seen = self._status.seen
            healths = device_healths(seen, self._node, self._clock.wall())
            now = self._clock.monotonic()
            if seen is not None and (healths != sent or now >= due):
                yield healths, int(seen.file.written_at.timestamp())
                sent, due = healths, now + RESEND_SECONDS
            # An agent that falls silent is noticed when the next list is due at the latest.
            left = max(0.0, due - now) if sent is not None else RESEND_SECONDS
            self._status.wait(0 if seen is None else seen.number, left, over)
