"""The directory of CDI specs, of which only some files are ours.

Runtimes read every ``*.json`` and ``*.yaml`` there, at any moment, so files appear whole and disappear whole.
Nothing is synced to disk: the directory is in memory on most systems and is rebuilt after each boot.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reconciler.runtime import files
from state.cdi import KIND, is_our_file
from state.observed import CdiFileSeen, Unreadable

SIZE_LIMIT = 1024 * 1024
"""Bytes; a spec of ours takes a few thousand."""


class _Kind(msgspec.Struct):
    kind: str


def observe_cdi(directory: str) -> tuple[CdiFileSeen, ...] | Unreadable:
    """The spec files of ours, sorted by name; empty if there is no such directory.

    A file of our name that names another kind is somebody else's and left out; one that can't be made sense
    of is ours, so that it gets mended. What is no readable file of reasonable size is ``Unreadable``.
    """
    return CdiDirectory(directory).observe()


class CdiDirectory:
    """The directory, observed again and again: files that were not touched in between are not read again.

    A file is told by inode, size and both times. One written twice within a tick of the kernel's clock may look
    untouched, so now and then everything should be read ``anew``.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._known: dict[str, _Known] = {}

    def observe(self, *, anew: bool = False) -> tuple[CdiFileSeen, ...] | Unreadable:
        """What ``observe_cdi`` answers."""
        before = {} if anew else self._known
        self._known = {}
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if entry.name in before or is_our_file(entry.name):
                        self._observe(entry, before.get(entry.name))
        except FileNotFoundError:
            return ()
        except OSError as error:
            return Unreadable(path=self._directory, why=os.strerror(error.errno or errno.EIO))
        seen = (self._known[name].seen for name in sorted(self._known))
        return tuple(file for file in seen if file is not None)

    def _observe(self, entry: os.DirEntry[str], before: _Known | None) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # removed since the directory was listed
            return
        # Taken before reading: if the file changes meanwhile, the next look tells.
        identity = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if before is None or before.identity != identity or before.unreadable:
            before = _Known(identity=identity, seen=_observe_file(self._directory, entry.name))
        self._known[entry.name] = before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A file as last read; ``seen`` is None for one that is somebody else's, or gone."""

    identity: tuple[int, int, int, int]
    seen: CdiFileSeen | None

    @property
    def unreadable(self) -> bool:
        return self.seen is not None and isinstance(self.seen.content, Unreadable)


def write_spec(directory: str, name: str, content: bytes) -> None:
    """Put a spec file in place of the one of that name, if any; makes the directory.

    Raises OSError; ValueError for a name that is none of ours.
    """
    path = _path(directory, name)
    _make_directory(path.parent)
    files.write_atomic(path, content, durable=False)


def remove_spec(directory: str, name: str) -> None:
    """Remove a spec file, which may be gone already. Raises OSError; ValueError for a name none of ours."""
    files.remove_durable(_path(directory, name), durable=False)


def sweep(directory: str) -> tuple[str, ...]:
    """Remove what a killed agent left half written; returns the names. Only before anything is written."""
    return files.sweep_temporaries(Path(directory))


def _observe_file(directory: str, name: str) -> CdiFileSeen | None:
    path = Path(directory, name)
    try:
        content = files.read_bounded(path, SIZE_LIMIT)
    except files.FileRefused as refused:
        if refused.absent:  # removed since the directory was listed
            return None
        return CdiFileSeen(name=name, content=Unreadable(path=str(path), why=refused.why))
    return CdiFileSeen(name=name, content=content) if _may_be_ours(content) else None


def _may_be_ours(content: bytes) -> bool:
    try:
        return msgspec.json.decode(content, type=_Kind).kind == KIND
    except (ValueError, RecursionError):  # no JSON, another shape, not UTF-8; or nested without end
        return True


def _make_directory(directory: Path) -> None:
    with contextlib.suppress(FileExistsError):
        directory.mkdir(parents=True)
        directory.chmod(0o755)  # runtimes of other users read it, whatever our umask


def _path(directory: str, name: str) -> Path:
    if not is_our_file(name):
        forms = "intel.com-gpu_claim-….json, intel.com-gpu_alloc-….json"
        raise ValueError(f"{name!r} is no name of a CDI spec of ours ({forms})")
    return Path(directory, name)
