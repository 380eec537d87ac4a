"""How the kernel reads numbers and switches that are written to attributes (lib/kstrtox.c)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NoReturn


def fail(code: int, what: str | None = None) -> NoReturn:
    """Raise OSError with this errno; `what` is the path or value at fault."""
    if what is None:
        raise OSError(code, os.strerror(code))
    raise OSError(code, os.strerror(code), what)


def unsigned(data: bytes, bits: int) -> int:
    """kstrtou<bits> with base 0: decimal, 0x or octal, one leading "+" and one trailing newline allowed.

    Raises OSError: EINVAL for anything else, ERANGE above 2**bits - 1.
    """
    text = data.removesuffix(b"\n").decode("ascii", "replace").removeprefix("+").lower()
    if text.startswith("0x"):
        digits, base, allowed = text[2:], 16, "0123456789abcdef"
    elif text.startswith("0") and len(text) > 1:
        digits, base, allowed = text[1:], 8, "01234567"
    else:
        digits, base, allowed = text, 10, "0123456789"
    if not digits or any(character not in allowed for character in digits):
        fail(errno.EINVAL)
    value = int(digits, base)
    if value >> bits:
        fail(errno.ERANGE)
    return value


def switch(data: bytes) -> bool:
    """kstrtobool: y, Y, t, T, 1, on; n, N, f, F, 0, off. Only the deciding characters are looked at."""
    text = data.decode("ascii", "replace").lower()
    if text[:1] in ("y", "t", "1") or text[:2] == "on":
        return True
    if text[:1] in ("n", "f", "0") or text[:2] == "of":
        return False
    fail(errno.EINVAL)


def choice(data: bytes, allowed: Sequence[str]) -> str:
    """One word of `allowed`, with an optional trailing newline; else EINVAL."""
    word = data.removesuffix(b"\n").decode("ascii", "replace")
    if word not in allowed:
        fail(errno.EINVAL)
    return word
