"""Marks: the files that say which claims are prepared. The plugin is their only writer.

Only the file system knows them, so that nothing is lost when the plugin is killed, and two instances of it may be
at work during an update.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from plugin.claims import BadRequest
from reconciler.runtime.files import FileRefused, read_bounded, remove_durable, write_atomic
from state.manifest import ClaimUid
from state.record_coding import RecordError, decode_record, encode_record
from state.records import Mark

LARGEST_MARK = 64 * 1024


def check_uid(uid: str) -> None:
    """Raises BadRequest unless ``uid`` is one: it becomes a file's name."""
    try:
        msgspec.convert(uid, ClaimUid)
    except msgspec.ValidationError as error:
        raise BadRequest(f"claim UID {uid[:80]!r}: {error}") from error


class Marks:
    """The directory of marks. UIDs must have passed check_uid()."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, uid: str) -> Mark | None:
        """The claim's mark; None if it has none, or one that can't be made sense of. OSError: it can't be read."""
        try:
            mark = decode_record(read_bounded(self._path(uid), LARGEST_MARK), Mark)
        except FileRefused as error:
            if error.absent:
                return None
            raise
        except RecordError:
            return None
        return mark if mark.uid == uid else None

    def write(self, mark: Mark) -> None:
        """Put a mark there, which wakes the node agent. OSError names the file."""
        write_atomic(self._path(mark.uid), encode_record(mark), durable=False)

    def remove(self, uid: str) -> bool:
        """Take the claim's mark away; False if there was none. OSError names the file."""
        return remove_durable(self._path(uid), durable=False)

    def _path(self, uid: str) -> Path:
        return self._directory / f"{uid}.json"
