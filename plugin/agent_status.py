"""The node agent's status file, read anew whenever it was replaced."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.runtime.files import FileRefused, read_bounded
from state.status import AllocationStatus, StatusError, StatusFile, decode_status

LARGEST_STATUS = 16 * 1024 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One content of the file, with the claims in it by UID. ``number`` grows with each."""

    number: int
    file: StatusFile
    claims: Mapping[str, AllocationStatus]


class AgentStatus:
    """The last status that could be read. Methods may be called from any thread.

    A file that is gone or makes no sense changes nothing: what it said before is still all that is known.
    ``on_change`` is called, outside of any lock, in the thread that found a new content.
    """

    def __init__(self, path: Path, on_change: Callable[[Seen], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._reading = threading.Lock()
        self._changed = threading.Condition()
        self._signature: tuple[int, int, int] | None = None
        self._seen: Seen | None = None
        self._complaint = ""

    @property
    def seen(self) -> Seen | None:
        """What was read last, None before there was anything."""
        return self._seen

    def refresh(self) -> Seen | None:
        """Look whether the file was replaced, and read it then."""
        with self._reading:
            fresh = self._read_if_new()
        if fresh is not None:
            with self._changed:
                self._changed.notify_all()
            self._on_change(fresh)
        return self._seen

    def wait(self, after: int, timeout: float, stop: Callable[[], bool]) -> None:
        """Wait until there is something newer than ``after``, or ``stop`` says so at a nudge, or time is up."""
        with self._changed:
            self._changed.wait_for(
                lambda: stop() or (self._seen is not None and self._seen.number > after), timeout
            )

    def nudge(self) -> None:
        """Have those who wait ask their ``stop``."""
        with self._changed:
            self._changed.notify_all()

    def _read_if_new(self) -> Seen | None:
        try:
            status = os.stat(self._path)
            signature = (status.st_ino, status.st_mtime_ns, status.st_size)
            if signature == self._signature:
                return None
            file = decode_status(read_bounded(self._path, LARGEST_STATUS))
        except FileNotFoundError:
            return None
        except (OSError, StatusError) as error:
            self._complain(error)
            return None
        # Should the file have been replaced in between, its signature differs at the next look.
        self._signature, self._complaint = signature, ""
        claims = {one.name: one for one in file.status.allocations if one.origin == "claim"}
        self._seen = Seen(number=self._seen.number + 1 if self._seen else 1, file=file, claims=claims)
        return self._seen

    def _complain(self, error: FileRefused | OSError | StatusError) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            _log.error("can't read the node agent's status: %s: %s", self._path, error)
