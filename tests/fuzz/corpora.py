"""Inputs worth keeping: those that once did harm, and those that get fuzzers far into a format.

They are text files in `corpus/TARGET/`, so that people can read and compare them. One that begins with b' or b" is
a Python bytes literal; any other is what it is.
"""

import ast
from collections.abc import Mapping
from pathlib import Path

DIRECTORY = Path(__file__).parent / "corpus"


def corpus(target: str) -> Mapping[str, bytes]:
    """The inputs kept for a target, by file name."""
    return {path.name: _input(path.read_bytes()) for path in sorted((DIRECTORY / target).iterdir())}


def _input(content: bytes) -> bytes:
    if content[:2] not in (b"b'", b'b"'):
        return content
    value: object = ast.literal_eval(content.decode())
    assert isinstance(value, bytes)
    return value
