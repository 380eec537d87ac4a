"""The node's records as JSON bytes and back.

A record of a newer release is read as far as it is understood, so that a downgrade keeps what is ours. What
is written is always of this release's version: fields it does not know are gone by then.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from state.records import FORMAT_VERSION, Held, Mark, Ownership

Record = TypeVar("Record", Ownership, Held, Mark)


class RecordError(Exception):
    """Bytes that are no such record; ``why`` in words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def encode_record(record: Ownership | Held | Mark) -> bytes:
    """The same record gives the same bytes, whatever the order in which it was put together."""
    if not isinstance(record, Mark) and record.format_version != FORMAT_VERSION:
        record = msgspec.structs.replace(record, format_version=FORMAT_VERSION)
    return msgspec.json.encode(record, order="sorted") + b"\n"


def decode_record(data: bytes, kind: type[Record]) -> Record:
    """The record in ``data``. Fields that ``kind`` lacks are ignored. Raises RecordError."""
    try:
        record = msgspec.json.decode(data, type=kind)
    # RecursionError: nesting without end; UnicodeDecodeError (a ValueError, as msgspec's own are): not UTF-8.
    except (ValueError, RecursionError) as error:
        raise RecordError(f"is not a valid {kind.__name__} record: {error}") from error
    if not isinstance(record, Mark) and record.format_version < 1:
        raise RecordError(f"has formatVersion {record.format_version}, which never existed")
    return record
