"""The sign that the kubelet has a driver registered: a shared lock, gone with its process (flock(2))."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from pathlib import Path

PATIENCE = 2.0
"""Seconds to wait for the lock. Whoever looks whether it is held has it for an instant only."""

_EVERY = 0.01


class RegisteredSign:
    """The lock of one driver. Any number of plugins may hold it.

    Its file is rewritten in place whenever the lock is taken or let go, to wake the node agent, which watches it;
    closing it does the same, so that even the end of a killed process is noticed.
    """

    def __init__(self, path: Path, *, owner: str) -> None:
        self._path = path
        self._owner = owner
        self._changing = threading.Lock()
        self._descriptor: int | None = None

    @property
    def shown(self) -> bool:
        """This object holds the lock of the file that is there now; it may have been removed and made anew."""
        descriptor = self._descriptor
        try:
            return descriptor is not None and os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except OSError:
            return False

    def show(self) -> None:
        """Hold the lock. Raises OSError naming the file."""
        with self._changing:
            if not self.shown:
                stale, self._descriptor = self._descriptor, self._locked()
                if stale is not None:
                    os.close(stale)
            self._wake(f"registered: {self._owner}")

    def hide(self) -> None:
        """Let go of the lock, if it is held."""
        with self._changing:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)
                with contextlib.suppress(FileNotFoundError):
                    self._wake(f"no longer registered: {self._owner}")

    def _locked(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        deadline = time.monotonic() + PATIENCE
        waiting = threading.Event()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    why = f"somebody else has it locked for more than {PATIENCE:g} s"
                    raise OSError(errno.EWOULDBLOCK, why, str(self._path)) from None
                waiting.wait(_EVERY)
            except BaseException:
                os.close(descriptor)
                raise

    def _wake(self, text: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{text}\n".encode(), 0)
        finally:
            os.close(descriptor)
