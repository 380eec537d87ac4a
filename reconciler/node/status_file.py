"""The status file: rewritten when something changed, and now and then to show that somebody is alive."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from reconciler.node.clock import Clock
from reconciler.runtime.files import FileRefused, read_bounded, write_atomic
from state.planning import Plan
from state.status import NodeStatus, StatusError, StatusFile, decode_status, encode_status

LARGEST_STATUS = 16 * 1024 * 1024
REWRITE_SECONDS = 10.0
"""Readers take an agent for dead whose status is older than three times this."""

_log = logging.getLogger(__name__)


def read_status(path: Path) -> StatusFile:
    """The status file. Raises FileRefused (nothing there, or nothing to be read) and StatusError."""
    return decode_status(read_bounded(path, LARGEST_STATUS))


def recall_status(path: Path) -> StatusFile | None:
    """The status file as an earlier run left it, None where there is none to go by."""
    try:
        return read_status(path)
    except FileRefused as error:
        if not error.absent:
            _log.warning("the last status can't be read, starting a new one: %s", error)
    except StatusError as error:
        _log.warning("the last status makes no sense, starting a new one: %s: %s", path, error)
    return None


class StatusWriter:
    """Writes the status file, and remembers the last status, also across restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written_at: float | None = None
        self._content: tuple[NodeStatus, dict[str, str], dict[str, str]] | None = None
        recalled = recall_status(path)
        self.last: NodeStatus | None = None if recalled is None else recalled.status
        self.released: Mapping[str, str] = {} if recalled is None else recalled.released_marks

    def publish(self, status: NodeStatus, plan: Plan, clock: Clock) -> None:
        """Write the status unless the file says the same already and is fresh. A failure is only logged."""
        self.last, self.released = status, plan.released
        content = (status, dict(plan.nonces), dict(plan.released))
        if content != self._content or self.refresh_in(clock) <= 0:
            self._content = content
            self._write(content, clock)

    def refresh(self, clock: Clock) -> None:
        """Write the same status again if the file is getting old."""
        if self._content is not None and self.refresh_in(clock) <= 0:
            self._write(self._content, clock)

    def _write(self, content: tuple[NodeStatus, dict[str, str], dict[str, str]], clock: Clock) -> None:
        status, nonces, released = content
        file = StatusFile(
            written_at=clock.wall(),
            boot_id=status.boot_id,
            status=status,
            nonces=nonces,
            released_marks=released,
        )
        try:
            write_atomic(self._path, encode_status(file), durable=False)
        except OSError as error:
            self._content = None
            _log.error("can't write the status file: %s", error)
        self._written_at = clock.monotonic()

    def refresh_in(self, clock: Clock) -> float:
        """Seconds until the file is due to be rewritten although nothing has changed."""
        if self._written_at is None:
            return 0.0
        return max(0.0, self._written_at + REWRITE_SECONDS - clock.monotonic())
