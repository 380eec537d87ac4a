"""A set of topics somebody should look at. Sources put names in from any thread; one reader takes all of
them.
"""

import threading


class WakeSet:
    """Waking twice for one topic is waking once: a topic says where to look, never what happened.

    Nothing is lost: a topic woken while the reader works is there at its next wait.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._topics: set[str] = set()
        self._closed = False

    def wake(self, topic: str) -> None:
        """Add a topic and wake the reader. Never blocks for long; after close() it does nothing."""
        with self._changed:
            if not self._closed and topic not in self._topics:
                self._topics.add(topic)
                self._changed.notify_all()

    def wait(self, timeout: float | None = None, *, settle: float = 0.0) -> frozenset[str]:
        """Wait up to `timeout` seconds (None: for ever) and take the topics; empty on timeout and once
        closed.

        With `settle`, topics arriving in that many seconds after the first are taken along: changes come in
        bursts.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._topics, timeout)
            if settle > 0 and self._topics:
                self._changed.wait_for(lambda: self._closed, settle)
            if self._closed:
                return frozenset()
            taken = frozenset(self._topics)
            self._topics.clear()
            return taken

    def pause(self, seconds: float) -> None:
        """Let topics gather for so long; close() ends it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def close(self) -> None:
        """End all waiting, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """close() has been called."""
        with self._changed:
            return self._closed
