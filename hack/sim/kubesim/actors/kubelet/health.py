"""Health streams: one per registered driver instance, opened again and again for as long as it is registered."""

import threading
from collections.abc import Callable

import grpc

from kubesim.actors.kubelet import messages
from kubesim.actors.kubelet.plugins import CallFailed, Messages, Plugin
from kubesim.actors.kubelet.wire import Malformed

Heard = Callable[[str, tuple[messages.DeviceHealth, ...] | None], None]
"""Called with a driver's name and its list; None when its stream has ended."""


class HealthStream:
    """A thread that listens to one driver instance."""

    def __init__(self, plugin: Plugin, heard: Heard, reopen: float) -> None:
        self._plugin = plugin
        self._heard = heard
        self._reopen = reopen
        self._closed = threading.Event()
        self._stream: Messages | None = None
        self._thread = threading.Thread(target=self._run, name=f"health of {plugin.driver}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End it; does not wait."""
        self._closed.set()
        if self._stream is not None:
            self._stream.cancel()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._stream = self._plugin.connection.stream(messages.HEALTH, b"")
                for data in self._stream:
                    self._heard(self._plugin.driver, messages.health_list(data))
            except (grpc.RpcError, CallFailed, Malformed):
                pass  # a driver may serve no health at all; what it said before no longer counts
            self._heard(self._plugin.driver, None)
            self._closed.wait(self._reopen)
