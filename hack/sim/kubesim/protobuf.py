"""Just enough protobuf for what kubectl sends, or wants to hear, in no other form.

A body is the four bytes "k8s\\0" and a runtime.Unknown: 1 TypeMeta{1 apiVersion, 2 kind}, 2 the object's bytes.
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from kubesim.refusals import bad_request
from kubesim.values import Object

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
ENVELOPE = b"k8s\0"

Message: TypeAlias = "Mapping[int, tuple[str, type[str] | type[dict[str, str]] | Message]]"
"""Field numbers with names and types: text, a map of texts, or a message."""

_META: tuple[str, Message] = (
    "metadata",
    {
        1: ("name", str),
        2: ("generateName", str),
        3: ("namespace", str),
        11: ("labels", dict),
        12: ("annotations", dict),
    },
)
MESSAGES: Mapping[str, Message] = {
    "ConfigMap": {1: _META, 2: ("data", dict)},
    "Namespace": {1: _META},
    "ServiceAccount": {1: _META},
}
"""The kinds that `kubectl create KIND` sends as protobuf, and that can be read here."""

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
_TYPE: Message = {1: ("apiVersion", str), 2: ("kind", str)}


def decode_object(body: bytes, message: Message) -> Object:
    """An object with its kind and apiVersion. Raises Refusal (400)."""
    if not body.startswith(ENVELOPE):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        envelope = dict(_fields(body[len(ENVELOPE) :]))
        meta = _decoded(envelope[1], _TYPE)
        return {**meta, **_decoded(envelope.get(2, b""), message)}
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise bad_request(f"unable to decode protobuf: {error!r}") from error


Written: TypeAlias = "Mapping[int, str | Written]"
"""Texts and messages by field number."""


def message(fields: Written) -> bytes:
    """A message as bytes."""
    parts = []
    for number, value in fields.items():
        content = value.encode() if isinstance(value, str) else message(value)
        parts.append(_number(number << 3 | _BYTES) + _number(len(content)) + content)
    return b"".join(parts)


def _number(value: int) -> bytes:
    low = b""
    while value >= 0x80:
        low += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return low + bytes((value,))


def _decoded(data: bytes, fields: Message) -> Object:
    result: Object = {}
    for number, value in _fields(data):
        name, kind = fields.get(number, ("", None))
        if isinstance(kind, Mapping):
            result[name] = _decoded(value, kind)
        elif kind is dict:
            entry = {key: part.decode() for key, part in _fields(value)}
            result.setdefault(name, {})[entry.get(1, "")] = entry.get(2, "")
        elif kind is str and value:
            result[name] = value.decode()
    return result


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Field numbers and contents of texts and messages; numbers are passed over."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            _, position = _varint(data, position)
            continue
        if wire != _BYTES and wire not in _FIXED:
            raise KeyError(f"wire type {wire}")
        length, position = (_FIXED[wire], position) if wire in _FIXED else _varint(data, position)
        if position + length > len(data):
            raise IndexError(f"field {number} is cut off")
        if wire == _BYTES:
            yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
