"""The file that says what is wanted of a node: read whatever it may be, and written for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import yaml

from reconciler.node.yaml_values import MAX_DEPTH, YamlRefused, parse_yaml, reads_as_string
from reconciler.runtime.files import read_bounded
from state.manifest import NodeState
from state.manifest_decoding import encode

LARGEST_FILE = 2 * 1024 * 1024
"""Bytes; an object in a Kubernetes API server has at most about 1.5 MiB."""

PEOPLE_WRITE = 64 * 1024
"""Bytes up to which JSON is searched for repeated keys. Machines write more than that, and repeat none."""

_KEY_END = re.compile(r'"[ \t\r\n]*:')


class ManifestFileError(Exception):
    """A file that is neither YAML nor JSON as we accept it: which, why, and where, counted from 1."""

    def __init__(self, path: str, why: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(f"{path}:{line}:{column}: {why}")
        self.path = path
        self.why = why
        self.line = line
        self.column = column


def read_manifest(path: Path) -> object:
    """Plain values from the YAML or JSON file ``path``, which may be a symbolic link (as ConfigMaps are).

    Takes bounded time and memory for any file. Raises FileRefused where there is no such file, none that can
    be read or one of another type or too long, and ManifestFileError for its content.
    """
    return parse_manifest(read_bounded(path, LARGEST_FILE, follow=True), str(path))


def parse_manifest(data: bytes, name: str) -> object:
    """Plain values from YAML or JSON; ``name`` says in errors where it came from. Raises ManifestFileError."""
    text = _text(data, name)
    if text.lstrip(" \t\r\n").startswith("{"):
        found = _sound_json(text)
        if found is not None:
            return found
    try:
        return parse_yaml(text)
    except YamlRefused as error:
        raise ManifestFileError(name, error.why, line=error.line, column=error.column) from error


def dump_manifest(state: NodeState) -> str:
    """``state`` as YAML for people; reading and decoding it gives ``state`` again."""
    return yaml.dump(
        encode(state),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=110,
    )


def _text(data: bytes, name: str) -> str:
    nul = data.find(0)
    if nul >= 0:
        line, column = _place(data, nul)
        raise ManifestFileError(name, f"is no text: byte {nul} is NUL", line=line, column=column)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _place(data, error.start)
        why = f"is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        raise ManifestFileError(name, why, line=line, column=column) from error


def _place(data: bytes, offset: int) -> tuple[int, int]:
    before = data[:offset]
    return before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1


def _sound_json(text: str) -> object | None:
    """The value of JSON text. None when it is something else, or has what the YAML parser will complain of.

    JSON is tried first as its parser is ten times as fast, YAML after it as its parser knows lines and columns.
    """
    try:
        value: object = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None
    if _nested_too_deep(value) or (len(text) <= PEOPLE_WRITE and _repeats_a_key(text, value)):
        return None
    return value


def _nested_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for holder in level for child in _children(holder) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(holder: object) -> Iterable[object]:
    match holder:
        case dict():
            return holder.values()
        case list():
            return holder
        case _:
            return ()


def _repeats_a_key(text: str, value: object) -> bool:
    """Whether sound JSON ``text``, whose value is ``value``, has a key twice in one object.

    A quote and a colon end each key; elsewhere they meet only within strings. So where they meet as often as there
    are keys in ``value``, none was lost, and the slower search by Python's own parser is not needed.
    """
    if len(_KEY_END.findall(text)) == _count_keys(value):
        return False
    repeated = False

    def looked_at(pairs: list[tuple[str, object]]) -> None:
        nonlocal repeated
        repeated = repeated or len(dict(pairs)) < len(pairs)

    json.loads(text, object_pairs_hook=looked_at)
    return repeated


def _count_keys(value: object) -> int:
    count = 0
    level = [value]
    while level:
        count += sum(len(holder) for holder in level if isinstance(holder, dict))
        level = [child for holder in level for child in _children(holder) if isinstance(child, dict | list)]
    return count


class _Dumper(yaml.CSafeDumper):
    """Quotes what any reader, of YAML 1.1 or 1.2, would take for something else than a string."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None if reads_as_string(text) else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
