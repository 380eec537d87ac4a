"""Strict decoding of YAML documents into dataclasses: unknown keys, missing keys and wrong types are errors."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import TypeVar

T = TypeVar("T")


class FormatError(ValueError):
    """A document that is not as it should be; the message starts with the path of the field."""


def decode(kind: type[T], value: object, path: str) -> T:
    """`value` (from YAML) as a dataclass. Raises FormatError."""
    if not isinstance(value, dict):
        raise FormatError(f"{path}: a mapping is needed, not {_name(value)}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in value if key not in fields)
    if unknown:
        raise FormatError(f"{path}.{unknown[0]}: unknown field; known are {', '.join(sorted(fields))}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise FormatError(f"{path}.{name}: missing")
    arguments = {key: _convert(hints[key], below, f"{path}.{key}") for key, below in value.items()}
    try:
        return kind(**arguments)
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from error


def _convert(kind: object, value: object, path: str) -> object:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _union(typing.get_args(kind), value, path)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise FormatError(f"{path}: {value!r}; allowed are {', '.join(typing.get_args(kind))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise FormatError(f"{path}: a list is needed, not {_name(value)}")
        element = typing.get_args(kind)[0]
        return tuple(_convert(element, item, f"{path}[{index}]") for index, item in enumerate(value))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            allowed = ", ".join(str(member.value) for member in kind)
            raise FormatError(f"{path}: {value!r}; allowed are {allowed}") from None
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return decode(kind, value, path)
    return _scalar(kind, value, path)


def _union(kinds: tuple[object, ...], value: object, path: str) -> object:
    if value is None and type(None) in kinds:
        return None
    literals = tuple(word for kind in kinds for word in typing.get_args(kind) if isinstance(word, str))
    if literals:
        if value not in literals:
            raise FormatError(f"{path}: {value!r}; allowed are {', '.join(dict.fromkeys(literals))}")
        return value
    (kind,) = (kind for kind in kinds if kind is not type(None))
    return _convert(kind, value, path)


def _scalar(kind: object, value: object, path: str) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    hint = " (PCI addresses need quotes)" if kind is str else ""
    wanted = getattr(kind, "__name__", str(kind))
    raise FormatError(f"{path}: a value of type {wanted} is needed, not {_name(value)} {value!r}{hint}")


def _name(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
