"""JSON as the simulated server holds it.

An API server stores objects whose shape it learns at run time, so `Any` is the honest type of a value here; every
other module takes and gives the names below.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

Value: TypeAlias = Any
"""Anything JSON can say. Values in the store are never changed in place: copy first."""
Object: TypeAlias = dict[str, Any]


def encode(value: Value) -> bytes:
    return msgspec.json.encode(value)


def decode(text: bytes) -> Value:
    """Raises msgspec.DecodeError."""
    return msgspec.json.decode(text)


def copy(value: Value) -> Value:
    """A deep copy that shares nothing."""
    if isinstance(value, dict):
        return {key: copy(each) for key, each in value.items()}
    if isinstance(value, list):
        return [copy(each) for each in value]
    return value


def at(value: Value, *path: str) -> Value:
    """The value below nested keys, None where there is none."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def objects(value: Value) -> Iterator[Object]:
    """The objects of a list; nothing if it is no list."""
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))


def quoted(value: Value) -> str:
    """A value as JSON text, keys in their own order, as messages show it."""
    return encode(value).decode()


def sorted_text(value: Value) -> str:
    """A value as JSON text, keys sorted."""
    return msgspec.json.encode(value, order="sorted").decode()
