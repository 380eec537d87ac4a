"""One at a time: an advisory lock on a file, gone with the process that held it (flock(2))."""

import contextlib
import errno
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from reconciler.runtime.files import FileRefused, read_bounded

_HOLDER_LIMIT = 4096  # bytes of a lock file anyone needs to read


class LockBusy(OSError):
    """Somebody else holds the lock."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(errno.EWOULDBLOCK, f"held by {holder or 'an unknown process'}", str(path))
        self.path = path
        self.holder = holder


class FileLock:
    """An exclusive lock on `path`, whose directory must exist. The file stays, only its lock comes and goes.

    The holder writes who it is into the file, for people and error messages; the text decides nothing.
    Process ids differ between containers, so the host name (in a pod: the pod's name) stands beside it.
    """

    def __init__(self, path: Path, *, owner: str | None = None) -> None:
        self._path = path
        self._owner = owner or f"pid {os.getpid()} on {socket.gethostname()}"
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """This object holds the lock."""
        return self._descriptor is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free. OSError if it can't be opened, ValueError if held here already."""
        if self.held:
            raise ValueError(f"{self._path}: already held by this lock object")
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{self._owner}\n".encode(), 0)
                    self._descriptor, descriptor = descriptor, -1
                    return True
            except BlockingIOError:
                return False
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def acquire(self, stop: threading.Event, *, every: float = 0.1) -> bool:
        """Wait for the lock, looking `every` seconds; False if `stop` was set first."""
        while not stop.is_set():
            if self.try_acquire():
                return True
            stop.wait(every)
        return False

    def release(self) -> None:
        """Let go; nothing happens if not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> str:
        """What the last holder wrote about itself; empty if nothing readable is there."""
        with contextlib.suppress(FileRefused):
            return read_bounded(self._path, _HOLDER_LIMIT).decode(errors="replace").strip()
        return ""

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock for a `with` block, or raise LockBusy at once."""
        if not self.try_acquire():
            raise LockBusy(self._path, self.holder())
        try:
            yield
        finally:
            self.release()

    def _is_current(self, descriptor: int) -> bool:
        # The file may have been removed and made anew between open and flock: that lock would guard nothing.
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False
