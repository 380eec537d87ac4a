"""The node's records in files: what is ours, what claims hold, and the kubelet plugin's marks.

Nothing here raises for what a file holds: it comes back as Unreadable, and plans touch nothing that depends
on it. Only the loop writes the first two; marks are the plugin's and only read here.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from reconciler.runtime.files import FileRefused, read_bounded, write_atomic
from state.mismatches import shown
from state.observed import Unreadable
from state.record_coding import NewerRecord, Record, RecordError, decode_record, encode_record
from state.records import Held, Mark, Ownership

LARGEST_RECORD = 16 * 1024 * 1024
LARGEST_MARK = 64 * 1024
QUARANTINED_KEPT = 3
"""Corrupt ownership records that are kept to be looked at; older ones go."""

_log = logging.getLogger(__name__)

_CORRUPT = re.compile(r"\.corrupt-([1-9][0-9]{0,8})")


def read_ownership(path: Path) -> Ownership | Unreadable:
    """The ownership record, changing nothing; an empty one where there is none yet."""
    try:
        return _read(path, LARGEST_RECORD, Ownership) or Ownership()
    except (FileRefused, RecordError) as error:
        return Unreadable(path=str(path), why=error.why)


class OwnershipFile:
    """The ownership record, for its one writer.

    It is read once: nobody else writes it. A corrupt file is moved aside to ``<name>.corrupt-<n>``; like an
    absent one it is rebuilt by ``rebuild``, since an empty record would say that nothing is ours. One of a newer
    release is left alone: whoever runs the older one is told, and nothing is done.
    """

    def __init__(self, path: Path, rebuild: Callable[[], Ownership]) -> None:
        self._path = path
        self._rebuild = rebuild
        self._known: Ownership | None = None
        self._bytes: bytes | None = None

    def load(self) -> Ownership | Unreadable:
        """The record, or why it can't be read now."""
        if self._known is None:
            try:
                self._bytes = _bytes(self._path, LARGEST_RECORD)
                self._known = None if self._bytes is None else decode_record(self._bytes, Ownership)
            except (FileRefused, NewerRecord) as error:
                return Unreadable(path=str(self._path), why=error.why)
            except RecordError as error:
                _log.error("the ownership record is corrupt: %s; %s", error.why, self._move_aside())
        if self._known is None:
            self._known = self._rebuild()
            self._keep(self._known)
        return self._known

    def _keep(self, rebuilt: Ownership) -> None:
        """Write what was rebuilt at once: later there may be nothing to rebuild it from."""
        if rebuilt == Ownership():
            return
        try:
            self.store(rebuilt)
        except OSError as error:
            _log.error("can't write the rebuilt ownership record: %s", error)

    def store(self, ownership: Ownership) -> None:
        """Write the record so that it survives a power cut. Raises OSError naming the file."""
        data = encode_record(ownership, self._bytes)
        write_atomic(self._path, data, durable=True)
        self._known, self._bytes = ownership, data

    def _move_aside(self) -> str:
        """Keep the corrupt file under another name; says in words how that went."""
        try:
            numbers = self._quarantined()
            target = self._quarantine((numbers[-1] if numbers else 0) + 1)
            os.rename(self._path, target)
            for number in numbers[: 1 - QUARANTINED_KEPT]:
                self._quarantine(number).unlink(missing_ok=True)
        except OSError as error:
            return f"moving it aside failed: {error}"
        return f"moved to {target.name}"

    def _quarantine(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.corrupt-{number}")

    def _quarantined(self) -> list[int]:
        name = self._path.name
        rests = (one.removeprefix(name) for one in os.listdir(self._path.parent) if one.startswith(name))
        return sorted(int(match[1]) for rest in rests if (match := _CORRUPT.fullmatch(rest)))


def read_held(path: Path) -> Held | Unreadable | None:
    """What claims hold, None where nothing was written since boot."""
    try:
        return _read(path, LARGEST_RECORD, Held)
    except (FileRefused, RecordError) as error:
        return Unreadable(path=str(path), why=error.why)


def write_held(path: Path, held: Held) -> None:
    """Write what claims hold; it need not survive a boot. Raises OSError naming the file.

    A record of a newer release is not written over, and what an unreadable one said is lost anyway.
    """
    try:
        data = encode_record(held, _bytes(path, LARGEST_RECORD))
    except NewerRecord as error:
        raise FileRefused(path, error.why, errno.EPROTO) from error
    except FileRefused:
        data = encode_record(held)
    write_atomic(path, data, durable=False)


def read_marks(directory: Path) -> Mapping[str, Mark] | Unreadable:
    """The marks by claim UID, in order; Unreadable if any of them is, since it could hold anything.

    An absent directory holds none. Temporaries and what is not named ``<uid>.json`` are no marks.
    """
    try:
        names = sorted(name for name in os.listdir(directory) if _is_mark_name(name))
    except FileNotFoundError:
        return {}
    except OSError as error:
        return Unreadable(path=str(directory), why=os.strerror(error.errno or errno.EIO))
    marks: dict[str, Mark] = {}
    for name in names:
        mark = _read_mark(directory / name)
        if isinstance(mark, Unreadable):
            return mark
        if mark is not None:
            marks[mark.uid] = mark
    return marks


def _read_mark(path: Path) -> Mark | Unreadable | None:
    """A mark, None if it was removed since the directory was listed."""
    try:
        mark = _read(path, LARGEST_MARK, Mark)
    except (FileRefused, RecordError) as error:
        return Unreadable(path=str(path), why=error.why)
    if mark is not None and f"{mark.uid}.json" != path.name:
        return Unreadable(path=str(path), why=f"is the mark of another claim, {shown(mark.uid)}")
    return mark


def _is_mark_name(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _read(path: Path, limit: int, kind: type[Record]) -> Record | None:
    data = _bytes(path, limit)
    return None if data is None else decode_record(data, kind)


def _bytes(path: Path, limit: int) -> bytes | None:
    """What a file holds, None where there is none."""
    try:
        return read_bounded(path, limit)
    except FileRefused as error:
        if error.absent:
            return None
        raise
