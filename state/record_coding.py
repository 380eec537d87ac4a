"""The node's records as JSON bytes and back, also those that another release wrote.

A release may add fields without a new format version: an older one ignores them, and writes them back as they came
(see ``encode_record``). A higher version says that an older release would get it wrong: it must not go by such a
record nor write over it.
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


class NewerRecord(RecordError):
    """A sound record that only a newer release understands: it is to be left as it is."""


class _Version(msgspec.Struct, rename="camel"):
    format_version: int = FORMAT_VERSION


def encode_record(record: Record, before: bytes | None = None) -> bytes:
    """The same record gives the same bytes, whatever the order in which it was put together.

    Of the record that it replaces, ``before``, fields that this release doesn't know are kept: those of the record
    itself always, those of an entry (a layout, a claim, …) with the entry, until that is changed or goes. Raises
    NewerRecord if ``before`` is not to be replaced at all.
    """
    fresh = _encode(record)
    if before is None:
        return fresh
    try:
        known, came = _encode(decode_record(before, type(record))), _fields(before)
    except NewerRecord:
        raise
    except (RecordError, ValueError, RecursionError):
        return fresh  # nobody could make sense of it
    return fresh if known == before else _as_bytes(_carried(_fields(fresh), _fields(known), came))


def decode_record(data: bytes, kind: type[Record]) -> Record:
    """The record in ``data``. Fields that ``kind`` lacks are ignored. Raises RecordError, also as NewerRecord."""
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
        _require_ours(version)
        return msgspec.json.decode(data, type=kind)
    # RecursionError: nesting without end; UnicodeDecodeError (a ValueError, as msgspec's own are): not UTF-8.
    except (ValueError, RecursionError) as error:
        raise RecordError(f"is not a valid {kind.__name__} record: {error}") from error


def _require_ours(version: int) -> None:
    if version < 1:
        raise RecordError(f"has formatVersion {version}, which never existed")
    if version > FORMAT_VERSION:
        newer = f"formatVersion {version} is of a newer release (this one knows up to {FORMAT_VERSION})"
        raise NewerRecord(f"{newer}; it is left as it is: go on with that release")


def _encode(record: Ownership | Held | Mark) -> bytes:
    if isinstance(record, Mark):  # few and small, and only their files need to know
        return _as_bytes({"formatVersion": FORMAT_VERSION, **msgspec.to_builtins(record)})
    if record.format_version != FORMAT_VERSION:
        record = msgspec.structs.replace(record, format_version=FORMAT_VERSION)
    return _as_bytes(record)


def _as_bytes(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted") + b"\n"


def _fields(data: bytes) -> dict[str, object]:
    return msgspec.json.decode(data, type=dict[str, object])


def _carried(fresh: dict[str, object], known: dict[str, object], before: dict[str, object]) -> dict[str, object]:
    """``fresh`` with what ``before`` has beyond ``known``, which is all of it that this release understands."""
    unknown = {name: value for name, value in before.items() if name not in known}
    return unknown | {name: _entries(value, known.get(name), before.get(name)) for name, value in fresh.items()}


def _entries(fresh: object, known: object, before: object) -> object:
    """A field; if it has entries by name, those that have not changed with what they had beyond."""
    if not (isinstance(fresh, dict) and isinstance(known, dict) and isinstance(before, dict)):
        return fresh
    return {
        key: _with_more(entry, before[key]) if key in known and known[key] == entry else entry
        for key, entry in fresh.items()
    }


def _with_more(entry: object, before: object) -> object:
    """``entry`` with what ``before``, the same as far as it is known, has beyond it."""
    match entry, before:
        case dict(), dict():
            mine = {name: _with_more(value, before.get(name)) for name, value in entry.items()}
            return {**before, **mine}
        case list(), list() if len(entry) == len(before):
            return [_with_more(one, other) for one, other in zip(entry, before, strict=True)]
        case _:
            return entry
