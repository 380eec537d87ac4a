"""Whether the kubelet plugin is registered, and what it is told of the API server."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from reconciler.runtime.files import write_atomic
from state.server_info import ServerInfo, encode_server_info

_log = logging.getLogger(__name__)


def is_registered(directory: Path, driver: str) -> bool:
    """Whether a plugin holds its shared lock for this driver; not known to be, where that can't be found out."""
    try:
        descriptor = os.open(directory / f"registered-{driver}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        _log.warning("can't tell whether the kubelet plugin is registered: %s", error)
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class ServerInfoFiles:
    """``server.json``: one for this boot, which the plugin reads, and a ``lasting`` one for the next."""

    def __init__(self, current: Path, lasting: Path) -> None:
        self._current, self._lasting = current, lasting

    def recall(self) -> None:
        """After a boot: what was known before, until the API server has been asked. Raises OSError."""
        if self._current.exists() or not self._lasting.exists():
            return
        write_atomic(self._current, self._lasting.read_bytes(), durable=False)

    def store(self, info: ServerInfo) -> None:
        """Write both files where they differ. What can't be written is said, and tried again next time."""
        content = encode_server_info(info)
        for path, durable in ((self._lasting, True), (self._current, False)):
            try:
                if not path.exists() or path.read_bytes() != content:
                    write_atomic(path, content, durable=durable)
            except OSError as error:
                _log.error("the kubelet plugin can't be told of the API server: %s", error)
