"""Whole files, written at once or not at all, and read without trust.

Every store of this project is a small file with one writer. Readers may look at any moment and the writer may
be killed at any line, so a file is replaced by rename(2) and never changed in place.
"""

import contextlib
import errno
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_TEMPORARY = re.compile(r"\.tmp-\d+-\d+-\d+")


class FileRefused(OSError):
    """A file that will not be read. `errno` is the kernel's, or the nearest one where the refusal is ours."""

    def __init__(self, path: Path, why: str, number: int) -> None:
        super().__init__(number, why, str(path))
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"

    @property
    def absent(self) -> bool:
        """Nothing is there, which is often not an error at all."""
        return self.errno in (errno.ENOENT, errno.ENOTDIR)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, durable: bool) -> None:
    """Replace `path` by a file holding `data` with exactly the permissions `mode`, whatever the umask.

    The new content appears in one step: a temporary file in the same directory is renamed over `path` (a
    symbolic link there is replaced, not followed). With `durable`, file and directory are synced first and
    after, so that the content survives a power cut. On failure the old file stays and the temporary is
    removed; the OSError names `path`.
    """
    with _naming(path):
        descriptor, temporary = _open_temporary(path.parent)
        try:
            with open(descriptor, "wb", buffering=0):
                os.fchmod(descriptor, mode)
                _write_all(descriptor, data)
                if durable:
                    os.fsync(descriptor)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        if durable:
            _sync_directory(path.parent)


def remove_durable(path: Path, *, durable: bool) -> bool:
    """Remove a file; False if there was none. With `durable` its absence survives a power cut either way."""
    with _naming(path):
        removed = False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            removed = True
        if durable:
            # Also if it was gone: whoever removed it may have been killed before this.
            with contextlib.suppress(FileNotFoundError):
                _sync_directory(path.parent)
        return removed


def read_bounded(path: Path, limit: int, *, follow: bool = False) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Anything else raises FileRefused: a directory, device, FIFO or socket (which is not even opened, as
    opening may block or act), a symbolic link unless `follow`, a longer file, one that cannot be read.
    """
    try:
        # Looked at before opening: opening some devices does things, opening a FIFO waits for its writer.
        _require_regular(path, os.stat(path, follow_symlinks=follow), limit)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
        with open(os.open(path, flags), "rb", buffering=0) as stream:
            # And again once open: the name may have come to mean something else in between.
            _require_regular(path, os.fstat(stream.fileno()), limit)
            return _read_up_to(path, stream.fileno(), limit)
    except FileRefused:
        raise
    except OSError as error:
        raise FileRefused(path, os.strerror(error.errno or 0), error.errno or 0) from error


def sweep_temporaries(directory: Path) -> tuple[str, ...]:
    """Remove what killed writers left in `directory`; returns the names removed, sorted.

    Only for the one writer of that directory, before it writes: a writer's temporaries cannot be told from a
    dead one's, since process ids mean nothing across containers. An absent directory holds no leftovers.
    """
    try:
        names = sorted(name for name in os.listdir(directory) if _TEMPORARY.fullmatch(name))
    except FileNotFoundError:
        return ()
    return tuple(name for name in names if remove_durable(directory / name, durable=False))


def _open_temporary(directory: Path) -> tuple[int, Path]:
    # Unique per process, thread and moment; O_EXCL settles what is left, including a link laid in wait.
    owner = f"{os.getpid()}-{threading.get_native_id()}"
    while True:
        temporary = directory / f".tmp-{owner}-{time.monotonic_ns()}"
        with contextlib.suppress(FileExistsError):
            return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), temporary


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_regular(path: Path, status: os.stat_result, limit: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise FileRefused(path, "is a symbolic link", errno.ELOOP)
    if stat.S_ISDIR(status.st_mode):
        raise FileRefused(path, "is a directory", errno.EISDIR)
    if not stat.S_ISREG(status.st_mode):
        raise FileRefused(path, "is not a regular file", errno.EINVAL)
    if status.st_size > limit:
        raise _too_long(path, limit)


def _read_up_to(path: Path, descriptor: int, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit + 1
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    if not left:
        raise _too_long(path, limit)
    return b"".join(parts)


def _too_long(path: Path, limit: int) -> FileRefused:
    return FileRefused(path, f"is longer than {limit} bytes", errno.EFBIG)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give an OSError of a descriptor or temporary the name the caller knows."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
