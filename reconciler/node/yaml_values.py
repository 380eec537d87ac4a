"""YAML text into plain values, for files that people write: nothing executed, expanded, guessed or repeated.

The values are those of YAML's core schema (YAML 1.2.2, section 10.3), so ``on``, ``n`` and dates are strings.
What readers of YAML 1.1 and 1.2 silently take for different numbers (``010``) and what lets little text stand
for much (aliases) is refused. Values are put together from the events of the C parser: depth is checked
before anything is built, and nothing here recurses.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import yaml

MAX_DEPTH = 32
"""Lists and mappings within each other."""

MOST_DIGITS = 40
"""Of an integer; more than any field holds, and few enough to convert at once."""

Scalar: TypeAlias = str | int | float | bool | None

_CORE_TAG = "tag:yaml.org,2002:"
_WORDS = ("", "~", "null", "Null", "NULL"), ("true", "True", "TRUE"), ("false", "False", "FALSE")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
_OCTAL = re.compile(r"[-+]?0[0-9_]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
# libyaml compares every %TAG line with all earlier ones, so many of them take for ever.
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)


class _Mark(Protocol):
    """A place in the text, counted from 0: the C parser's marks and those of its Python twin."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


class YamlRefused(Exception):
    """Text that is no YAML, or none we accept: ``why``, and where, both counted from 1."""

    def __init__(self, why: str, *, line: int, column: int) -> None:
        super().__init__(f"{line}:{column}: {why}")
        self.why = why
        self.line = line
        self.column = column


def parse_yaml(text: str) -> object:
    """The one document in ``text``: dicts with string keys, lists, and scalars. Raises YamlRefused."""
    directive = _DIRECTIVE.search(text)
    if directive is not None:
        line = text.count("\n", 0, directive.start()) + 1
        raise YamlRefused("directives (lines that begin with %) are not allowed", line=line, column=1)
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        why = ", ".join(part for part in (error.context, error.problem) if part)
        raise _refused(why, error.problem_mark or error.context_mark) from error
    except yaml.reader.ReaderError as error:
        raise _unreadable(text, error) from error
    return builder.document()


def plain_value(text: str) -> Scalar:
    """What an unquoted scalar means in the core schema. Raises ValueError for what is refused."""
    nulls, trues, falses = _WORDS
    if text in nulls:
        return None
    if text in trues or text in falses:
        return text in trues
    if _INTEGER.fullmatch(text):
        if len(text) > MOST_DIGITS:
            raise ValueError(f"a number of more than {MOST_DIGITS} digits is not allowed")
        return int(text, 16 if text.startswith("0x") else 10)
    if _OCTAL.fullmatch(text):
        raise ValueError(f"{text[:MOST_DIGITS]} is octal to some and decimal to others; quote it or drop the 0")
    if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        value = float(text.replace(".", "") if _NOT_FINITE.fullmatch(text) else text)
        if not math.isfinite(value):
            raise ValueError(f"{text[:MOST_DIGITS]} is not a finite number")
        return value
    return text


def reads_as_string(text: str) -> bool:
    """Whether ``text`` stays a string when it is not quoted."""
    try:
        return isinstance(plain_value(text), str)
    except ValueError:
        return False


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet; ``key`` is the mapping's key that waits for its value."""

    value: list[object] | dict[str, object]
    key: str | None = None


class _Builder:
    """Takes the events of one document and holds the value they make."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._documents: list[object] = []

    def document(self) -> object:
        if not self._documents or self._documents[0] is None:
            raise YamlRefused("there is nothing in it", line=1, column=1)
        return self._documents[0]

    def take(self, event: yaml.Event) -> None:
        """The next event of the document."""
        match event:
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.MappingStartEvent():
                self._begin(event, {}, "map")
            case yaml.SequenceStartEvent():
                self._begin(event, [], "seq")
            case yaml.CollectionEndEvent():
                self._open.pop()
            case yaml.AliasEvent():
                raise _refused("aliases (*name) are not allowed; write the value out", event.start_mark)
            case yaml.DocumentStartEvent() if self._documents:
                raise _refused("a second document begins here; only one is allowed", event.start_mark)
            case _:
                pass

    def _begin(self, event: yaml.CollectionStartEvent, value: list[object] | dict[str, object], tag: str) -> None:
        if len(self._open) == MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        _require_core_tag(event, tag)
        self._put(event, value)
        self._open.append(_Open(value))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        value = _scalar_value(event)
        if self._open and isinstance(holder := self._open[-1].value, dict) and self._open[-1].key is None:
            if not isinstance(value, str):
                raise _refused(f"a key must be a string, not {event.value!r:.80}; quote it", event.start_mark)
            if value == "<<" and not event.style:
                raise _refused("merge keys (<<) are not allowed; write the fields out", event.start_mark)
            if value in holder:
                raise _refused(f"the key {value!r:.80} is there already", event.start_mark)
            self._open[-1].key = value
        else:
            self._put(event, value)

    def _put(self, event: yaml.NodeEvent, value: object) -> None:
        if not self._open:
            self._documents.append(value)
            return
        holder = self._open[-1]
        if isinstance(holder.value, list):
            holder.value.append(value)
        elif holder.key is None:
            raise _refused("a key must be a string", event.start_mark)
        else:
            holder.value[holder.key] = value
            holder.key = None


def _scalar_value(event: yaml.ScalarEvent) -> Scalar:
    """The event's value: an unquoted one, or one with a tag, by the core schema; any other is a string."""
    tag = event.tag
    if tag in ("!", f"{_CORE_TAG}str") or (tag is None and event.style):
        _require_no_anchor(event)
        return str(event.value)
    try:
        value = plain_value(event.value)
    except ValueError as error:
        raise _refused(str(error), event.start_mark) from error
    _require_core_tag(event, "null" if value is None else type(value).__name__)
    return value


def _require_core_tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent, expected: str) -> None:
    _require_no_anchor(event)
    if event.tag is not None and event.tag != f"{_CORE_TAG}{expected}":
        shown = event.tag.replace(_CORE_TAG, "!!")
        raise _refused(f"the tag {shown!r:.80} is not allowed here", event.start_mark)


def _require_no_anchor(event: yaml.NodeEvent) -> None:
    if event.anchor is not None:
        raise _refused(f"anchors (&{event.anchor:.80}) are not allowed", event.start_mark)


def _refused(why: str, mark: _Mark | None) -> YamlRefused:
    return YamlRefused(why, line=mark.line + 1 if mark else 1, column=mark.column + 1 if mark else 1)


def _unreadable(text: str, error: yaml.reader.ReaderError) -> YamlRefused:
    # The C parser counts bytes here, while all its marks count characters.
    before = text.encode()[: error.position].decode(errors="ignore")
    line, start = before.count("\n") + 1, before.rfind("\n") + 1
    character = error.character if isinstance(error.character, int) else ord(error.character)
    return YamlRefused(f"{error.reason} (U+{character:04X})", line=line, column=len(before) - start + 1)
