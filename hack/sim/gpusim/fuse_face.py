"""The FUSE face: a machine's sysfs as a real file system with real errnos and blocking stores.

Needs root (or a usable /dev/fuse) and Debian's fuse3. Options and behaviour follow real sysfs: every attribute is
4096 bytes long, O_TRUNC and O_APPEND mean nothing, read-only attributes cannot be opened for writing even by root.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mfusepy

from gpusim.model import kstrto
from gpusim.model.tree import PAGE, Attribute, Directory, Link, Node, Tree

_log = logging.getLogger(__name__)
_THREADS = 64
"""Each hanging store or read keeps one of libfuse's threads; its own default is ten."""


class SysfsOperations(mfusepy.Operations):  # type: ignore[misc]
    """Answers libfuse's calls from a tree. The kernel resolves links, so all paths here are physical."""

    use_ns = True

    def __init__(self, tree: Tree) -> None:
        self.serving = threading.Event()
        self._tree = tree
        self._born = time.time_ns()
        self._handles = itertools.count(1)
        self._contents: dict[int, bytes] = {}

    def init(self, path: str) -> None:
        self.serving.set()

    def _find(self, path: str) -> Node:
        node = self._tree.find(path)
        if node is None:
            kstrto.fail(errno.ENOENT, path)
        return node

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        node = self._find(path)
        if isinstance(node, Directory):
            mode, links, size = stat.S_IFDIR | 0o755, 2, 0
        elif isinstance(node, Link):
            mode, links, size = stat.S_IFLNK | 0o777, 1, 0
        else:
            mode, links, size = stat.S_IFREG | node.mode, 1, PAGE
        times = {"st_atime": self._born, "st_mtime": self._born, "st_ctime": self._born}
        return {"st_mode": mode, "st_nlink": links, "st_size": size, "st_uid": 0, "st_gid": 0, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *self._tree.listdir(path)]

    def readlink(self, path: str) -> str:
        return self._tree.readlink(path)

    def open(self, path: str, flags: int) -> int:
        node = self._find(path)
        if not isinstance(node, Attribute):
            kstrto.fail(errno.EISDIR, path)
        access = flags & os.O_ACCMODE
        unwritable = access != os.O_RDONLY and not node.mode & 0o222
        unreadable = access != os.O_WRONLY and not node.mode & 0o444
        if unwritable or unreadable:
            kstrto.fail(errno.EACCES, path)
        return next(self._handles)

    def release(self, path: str, fh: int) -> int:
        self._contents.pop(fh, None)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """As seq_file: shown anew at offset 0, then read on from what was shown."""
        if offset == 0 or fh not in self._contents:
            with _gone_is_enodev():
                self._contents[fh] = self._tree.read(path)
        return self._contents[fh][offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with _gone_is_enodev():
            return self._tree.write(path, data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self._find(path)
        return 0

    def create(self, path: str, mode: int, fi: object = None) -> int:
        kstrto.fail(errno.EACCES, path)

    def _not_permitted(self, *arguments: object) -> int:
        kstrto.fail(errno.EPERM)

    mkdir = rmdir = unlink = rename = symlink = link = mknod = _not_permitted


@contextlib.contextmanager
def _gone_is_enodev() -> Iterator[None]:
    """An attribute removed while open gives ENODEV, not ENOENT."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error
        raise


def unavailable() -> str | None:
    """Why this process cannot mount, in words; None if it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not there or not usable (root is needed)"
    try:
        subprocess.run(["fusermount3", "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"fusermount3 does not run: {error}"
    return None


@contextlib.contextmanager
def mounted(tree: Tree, where: Path, *, timeout: float = 10.0) -> Iterator[Path]:
    """Mount a tree at an existing directory for the time of the context.

    A stale mount from a run that crashed is cleaned first. Raises RuntimeError if mounting fails, TimeoutError if
    it takes longer than `timeout` seconds.
    """
    clean_stale(where)
    failure: list[BaseException] = []
    operations = SysfsOperations(tree)

    def serve() -> None:
        try:
            mfusepy.FUSE(operations, str(where), **_options())
        except Exception as error:  # noqa: BLE001  whatever it is, the waiting thread raises it
            failure.append(error)

    thread = threading.Thread(target=serve, name=f"sysfs at {where}", daemon=True)
    try:
        with _same_directory():
            thread.start()
            _wait_until_serving(operations, where, thread, failure, timeout)
        yield where
    finally:
        _unmount(where)
        thread.join(timeout)
        if thread.is_alive():
            _log.warning("the file system at %s still has calls under way", where)


@contextlib.contextmanager
def _same_directory() -> Iterator[None]:
    """libfuse changes the working directory of the whole process to / before it serves: change it back."""
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def clean_stale(where: Path) -> None:
    """Unmount what is left at a directory; no-op if nothing is, or no directory."""
    try:
        stale = os.path.ismount(where)
        os.stat(where)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        stale = True
    if stale:
        _unmount(where)


def _options() -> dict[str, object]:
    options: dict[str, object] = {
        "foreground": True,
        "nothreads": False,
        "allow_other": True,
        "direct_io": True,
        "attr_timeout": 0,
        "entry_timeout": 0,
        "negative_timeout": 0,
        "fsname": "gpu-simulator",
    }
    if (mfusepy.fuse_version_major, mfusepy.fuse_version_minor) >= (3, 12):
        options |= {"max_threads": _THREADS, "max_idle_threads": _THREADS}
    return options


def _wait_until_serving(
    operations: SysfsOperations,
    where: Path,
    thread: threading.Thread,
    failure: list[BaseException],
    timeout: float,
) -> None:
    deadline = time.monotonic() + timeout
    while not operations.serving.wait(0.005):
        if not thread.is_alive():
            cause = failure[0] if failure else None
            raise RuntimeError(f"cannot mount at {where}: {cause or 'libfuse gave up'}") from cause
        if time.monotonic() > deadline:
            raise TimeoutError(f"{where} is not mounted after {timeout} s")


def _unmount(where: Path) -> None:
    subprocess.run(["fusermount3", "-u", "-z", str(where)], check=False, capture_output=True)
