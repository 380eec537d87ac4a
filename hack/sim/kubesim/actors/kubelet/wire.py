"""As much of the protobuf wire format as the kubelet's messages need: varints, text and nested messages.

Written out here rather than generated, so that a kubelet simulator and a driver with generated code can share a
process (and its descriptor pool), and so that each checks the other.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeAlias

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
Fields: TypeAlias = Mapping[int, list[int | bytes]]


class Malformed(ValueError):
    """Bytes that are no protobuf message, or not this one."""


def varint(number: int) -> bytes:
    """A number that is not negative."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def nested(number: int, content: bytes) -> bytes:
    """A field with a message, or bytes."""
    return varint(number << 3 | LENGTH) + varint(len(content)) + content


def text(number: int, content: str) -> bytes:
    """A field with text; proto3 leaves out what is empty."""
    return nested(number, content.encode()) if content else b""


def flag(number: int, value: bool) -> bytes:
    """A bool field."""
    return varint(number << 3 | VARINT) + b"\x01" if value else b""


def fields(data: bytes) -> Fields:
    """The values of each field, in their order. Raises Malformed."""
    found: dict[int, list[int | bytes]] = defaultdict(list)
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        match key & 7:
            case 0:
                value, place = _varint(data, place)
                found[key >> 3].append(value)
                continue
            case 1:
                size = 8
            case 2:
                size, place = _varint(data, place)
            case 5:
                size = 4
            case other:
                raise Malformed(f"wire type {other} at byte {place}")
        if place + size > len(data):
            raise Malformed(f"field {key >> 3} ends after the message")
        found[key >> 3].append(data[place : place + size])
        place += size
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise Malformed("a varint ends after the message")
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise Malformed("a varint of more than ten bytes")


def strings(values: Iterable[int | bytes]) -> tuple[str, ...]:
    """Text fields. Raises Malformed."""
    try:
        return tuple(each.decode() for each in messages(values))
    except UnicodeDecodeError as error:
        raise Malformed(f"text that is not UTF-8: {error}") from error


def string(values: list[int | bytes]) -> str:
    """The last value counts, as proto3 has it. Raises Malformed."""
    return strings(values[-1:])[0] if values else ""


def number(values: list[int | bytes]) -> int:
    """Raises Malformed."""
    if not values:
        return 0
    last = values[-1]
    if isinstance(last, bytes):
        raise Malformed("a number was expected")
    return last


def messages(values: Iterable[int | bytes]) -> tuple[bytes, ...]:
    """Raises Malformed."""
    found = []
    for each in values:
        if isinstance(each, int):
            raise Malformed("text or a message was expected")
        found.append(each)
    return tuple(found)
