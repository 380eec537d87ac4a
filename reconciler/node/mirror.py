"""The mirror: keeps the desired-state file as the node's GpuNodeState says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from reconciler.node.manifest_file import LARGEST_FILE
from reconciler.runtime.files import FileRefused, read_bounded, write_atomic
from state.mirroring import OwnObject, mirrored

_log = logging.getLogger(__name__)


class Mirror:
    """Writes the desired-state file; ``latest`` is the object as last heard of, None if there is none.

    No object is no order to give anything up: the file stays. Edits of the file by hand are overwritten; what it
    was before them is remembered, as an object that the controller has yet to adopt doesn't say it all.
    """

    def __init__(self, file: Path, latest: Callable[[], OwnObject | None]) -> None:
        self._file = file
        self._latest = latest
        self._lock = threading.Lock()
        self._right: bytes | None = None
        self._trouble = ""

    def check(self) -> bool:
        """Write the file if it isn't as it should be; from any thread. False if that failed: call again."""
        with self._lock:
            current = self._current()
            if self._right is None:
                self._right = current
            own = self._latest()
            if own is None:
                return True
            self._right = wanted = mirrored(own, self._right)
            if wanted == current:
                self._trouble = ""
                return True
            return self._write(wanted, own)

    def _current(self) -> bytes | None:
        try:
            return read_bounded(self._file, LARGEST_FILE)
        except FileRefused:
            return None  # absent, or nothing that was ours: it is written anew

    def _write(self, wanted: bytes, own: OwnObject) -> bool:
        try:
            write_atomic(self._file, wanted, durable=True)
        except OSError as error:
            if str(error) != self._trouble:  # said once, not at every attempt
                _log.error("can't write the desired state, the last one stays in force: %s", error)
            self._trouble = str(error)
            return False
        self._trouble = ""
        _log.info("mirrored generation %d", own.metadata.generation)
        return True
