"""Attribute files, links and directories of sysfs, with few system calls and no exceptions on reading.

Every read answers with the value, None (there is no such thing here) or ``Unreadable`` (it is there, but...).
"""

from __future__ import annotations

import errno
import os
import re
from typing import TypeAlias

from state.observed import Unreadable

ATTRIBUTE_BYTES = 4096
"""The most that one sysfs attribute can hold: a page."""

Text: TypeAlias = str | Unreadable | None
Number: TypeAlias = int | Unreadable | None

_ABSENT = frozenset((errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.ENXIO))
_NUMBERS = {
    10: (re.compile(r"-?[0-9]{1,20}"), "a decimal number"),
    16: (re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,16}"), "a hexadecimal number"),
}
_SHOWN_CHARACTERS = 80


def read(path: str) -> Text:
    """An attribute's text, at most 4096 bytes of it, without the newline at its end."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            content = os.read(descriptor, ATTRIBUTE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        return unreadable(path, error)
    return content.decode("utf-8", "backslashreplace").rstrip("\n")


def read_int(path: str, base: int = 10) -> Number:
    """An attribute that holds one number in base 10 or 16 (with or without ``0x``)."""
    text = read(path)
    if not isinstance(text, str):
        return text
    pattern, kind = _NUMBERS[base]
    if not pattern.fullmatch(text):
        return malformed(path, kind, text)
    return int(text, base)


def read_link(path: str) -> Text:
    """A link's text as written."""
    try:
        return os.readlink(path)
    except OSError as error:
        return unreadable(path, error)


def link_name(path: str) -> Text:
    """The last component of a link's target: how sysfs says which driver or group something belongs to."""
    target = read_link(path)
    return target.rpartition("/")[2] if isinstance(target, str) else target


def list_directory(path: str) -> tuple[str, ...] | Unreadable | None:
    """The names in a directory, in no order."""
    try:
        return tuple(os.listdir(path))
    except OSError as error:
        return unreadable(path, error)


def write(path: str, value: str) -> None:
    """Store ``value`` in an attribute with a single system call, as the kernel wants it.

    Blocks as long as the kernel works on it. Raises OSError with the kernel's errno and the file's name.
    """
    # sysfs ignores O_TRUNC; plain files, as in a directory made for tests, need it.
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    data = value.encode()
    try:
        written = os.write(descriptor, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)
    if written != len(data):
        raise OSError(errno.EIO, f"only {written} of {len(data)} bytes were taken", path)


def unreadable(path: str, error: OSError) -> Unreadable | None:
    """None for an error that says nothing is there, ``Unreadable`` with errno and words for all others."""
    if error.errno in _ABSENT:
        return None
    name = errno.errorcode.get(error.errno or 0, f"errno {error.errno}")
    return Unreadable(path=path, why=f"{name}: {error.strerror}")


def malformed(path: str, expected: str, found: str) -> Unreadable:
    """A value that makes no sense: what was expected and what is there."""
    shown = repr(found if len(found) <= _SHOWN_CHARACTERS else found[:_SHOWN_CHARACTERS] + "…")
    return Unreadable(path=path, why=f"expected {expected}, found {shown}")
