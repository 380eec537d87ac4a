"""What the node agent found the API server to be."""

from __future__ import annotations

import logging
from pathlib import Path

from reconciler.runtime.files import FileRefused, read_bounded
from state.server_info import ServerInfo, ServerInfoError, decode_server_info

LARGEST_SERVER_INFO = 64 * 1024

_log = logging.getLogger(__name__)


class ServerFile:
    """Reads the file each time; what is wrong with it is logged once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._complaint = ""

    def read(self) -> ServerInfo | None:
        """What the file says, None where nothing good is there yet."""
        try:
            info = decode_server_info(read_bounded(self._path, LARGEST_SERVER_INFO))
        except FileRefused as error:
            if not error.absent:
                self._complain(error.why)
            return None
        except ServerInfoError as error:
            self._complain(str(error))
            return None
        self._complaint = ""
        return info

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            self._complaint = why
            _log.error("can't use %s: %s", self._path, why)
