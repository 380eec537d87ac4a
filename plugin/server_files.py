"""What the node agent found the API server to be, from the first of the files that say so."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from reconciler.runtime.files import FileRefused, read_bounded
from state.server_info import ServerInfo, ServerInfoError, decode_server_info

LARGEST_SERVER_INFO = 64 * 1024

_log = logging.getLogger(__name__)


class ServerFiles:
    """Reads the files each time; what can't be read is logged once and passed over."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._complaints: dict[Path, str] = {}

    def read(self) -> ServerInfo | None:
        """What the first good file says, None if there is none yet."""
        for path in self._paths:
            try:
                return decode_server_info(read_bounded(path, LARGEST_SERVER_INFO))
            except FileRefused as error:
                if not error.absent:
                    self._complain(path, error.why)
            except ServerInfoError as error:
                self._complain(path, str(error))
        return None

    def _complain(self, path: Path, why: str) -> None:
        if self._complaints.get(path) != why:
            self._complaints[path] = why
            _log.error("can't use %s: %s", path, why)
