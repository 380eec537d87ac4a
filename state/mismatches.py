"""Where a parsed document differs from the type it should have: path, plain words, and what is allowed.

msgspec stops at the first difference and words it for programmers. Once it has refused a document, this walk
over the same types says everything that is wrong with it to the person who wrote it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from msgspec import inspect

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong at ``path`` (``spec.overrides[0].mode``; empty: the whole), and what is allowed there."""

    path: str
    why: str
    allowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        allowed = f" (allowed: {', '.join(self.allowed)})" if self.allowed else ""
        return f"{self.path or 'the document'}: {self.why}{allowed}"


def mismatches(raw: object, expected: type) -> Iterator[Problem]:
    """Everything in ``raw``, plain parsed YAML or JSON, that strict conversion to ``expected`` refuses."""
    yield from _walk(raw, inspect.type_info(expected), "")


def member(path: str, key: object) -> str:
    """The path of what ``path`` holds under ``key``, always on one line."""
    if isinstance(key, str) and _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f"{path}[{shown(key)}]"


def shown(value: object) -> str:
    """A value as an error message shows it: on one line and short."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
        case int() if value.bit_length() > 128:
            return "a number of more than 38 digits"
        case str() if len(value) > _LONGEST_SHOWN:
            return f"{value[:_LONGEST_SHOWN]!r}…"
    return repr(value)


def _walk(raw: object, kind: inspect.Type, path: str) -> Iterator[Problem]:
    match kind:
        case inspect.StructType():
            yield from _in_struct(raw, kind, path)
        case inspect.VarTupleType():
            yield from _in_list(raw, kind, path)
        case inspect.DictType():
            yield from _in_dict(raw, kind, path)
        case inspect.UnionType():
            if raw is not None or not kind.includes_none:
                # Optional fields are the only unions; what a choice of several refuses, msgspec itself says.
                first, *others = (one for one in kind.types if not isinstance(one, inspect.NoneType))
                yield from () if others else _walk(raw, first, path)
        case inspect.EnumType():
            yield from _in_choice(raw, tuple(str(one.value) for one in kind.cls), path)
        case inspect.LiteralType():
            yield from _in_choice(raw, tuple(str(one) for one in kind.values), path)
        case inspect.StrType():
            yield from _in_string(raw, kind, path)
        case inspect.IntType():
            yield from _in_integer(raw, kind, path)
        case inspect.BoolType() if not isinstance(raw, bool):
            yield Problem(path=path, why=f"must be true or false, not {shown(raw)}", allowed=("true", "false"))


def _in_struct(raw: object, kind: inspect.StructType, path: str) -> Iterator[Problem]:
    if not isinstance(raw, dict):
        yield Problem(path=path, why=f"must be an object, not {shown(raw)}")
        return
    fields = {field.encode_name: field for field in kind.fields}
    for key, value in raw.items():
        if not isinstance(key, str):
            yield Problem(path=member(path, key), why="must have a string as its name")
        elif key in fields:
            yield from _walk(value, fields[key].type, member(path, key))
        elif kind.forbid_unknown_fields:
            why = f"is not a known field{_did_you_mean(key, fields)}"
            yield Problem(path=member(path, key), why=why, allowed=tuple(fields))
    for name, field in fields.items():
        if field.required and name not in raw:
            yield Problem(path=member(path, name), why="is missing")


def _in_list(raw: object, kind: inspect.VarTupleType, path: str) -> Iterator[Problem]:
    if not isinstance(raw, list | tuple):
        yield Problem(path=path, why=f"must be a list, not {shown(raw)}")
        return
    if kind.min_length is not None and len(raw) < kind.min_length:
        yield Problem(path=path, why=f"must have at least {kind.min_length} element(s), not {len(raw)}")
    if kind.max_length is not None and len(raw) > kind.max_length:
        yield Problem(path=path, why=f"must have at most {kind.max_length} elements, not {len(raw)}")
    for index, value in enumerate(raw):
        yield from _walk(value, kind.item_type, f"{path}[{index}]")


def _in_dict(raw: object, kind: inspect.DictType, path: str) -> Iterator[Problem]:
    if not isinstance(raw, dict):
        yield Problem(path=path, why=f"must be an object, not {shown(raw)}")
        return
    for key, value in raw.items():
        if not isinstance(key, str):
            yield Problem(path=member(path, key), why="must have a string as its name")
        else:
            yield from _walk(value, kind.value_type, member(path, key))


def _in_choice(raw: object, choices: tuple[str, ...], path: str) -> Iterator[Problem]:
    if not isinstance(raw, str):
        yield Problem(path=path, why=f"must be a string, not {shown(raw)}", allowed=choices)
    elif raw not in choices:
        why = f"{shown(raw)} is not allowed{_did_you_mean(raw, choices)}"
        yield Problem(path=path, why=why, allowed=choices)


def _in_string(raw: object, kind: inspect.StrType, path: str) -> Iterator[Problem]:
    if not isinstance(raw, str):
        yield Problem(path=path, why=f"must be a string, not {shown(raw)}")
        return
    if kind.max_length is not None and len(raw) > kind.max_length:
        yield Problem(path=path, why=f"must have at most {kind.max_length} characters, not {len(raw)}")
    if kind.pattern is not None and not re.search(kind.pattern, raw):
        yield Problem(path=path, why=f"{shown(raw)} does not match {kind.pattern}")


def _in_integer(raw: object, kind: inspect.IntType, path: str) -> Iterator[Problem]:
    if not isinstance(raw, int) or isinstance(raw, bool):
        yield Problem(path=path, why=f"must be an integer, not {shown(raw)}")
    elif (kind.ge is not None and raw < kind.ge) or (kind.le is not None and raw > kind.le):
        allowed = f"{kind.ge} to {kind.le}" if kind.le is not None else f"{kind.ge} or more"
        yield Problem(path=path, why=f"{shown(raw)} is out of range", allowed=(allowed,))


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'mode'?`` when a known word is near, whatever its case; else nothing."""
    by_lowered = {one.lower(): one for one in known}
    # Long words are no typing errors, and comparing them costs time.
    near = difflib.get_close_matches(word.lower(), by_lowered, n=1) if len(word) <= _LONGEST_SHOWN else []
    return f"; did you mean {by_lowered[near[0]]!r}?" if near else ""
