"""What ends a command early, and how it is said: on one line, with the field or file it is about."""

from __future__ import annotations


class CommandError(Exception):
    """A command can't do its work; the message says what about, why, and what would be allowed."""


class UsageError(CommandError):
    """The words on the command line, or the environment, make no sense."""


def allowing(what: str, why: str, allowed: tuple[str, ...]) -> str:
    """``what: why (allowed: …)``."""
    return f"{what}: {why} (allowed: {', '.join(allowed)})"


def in_words(error: OSError) -> str:
    """An error of the operating system, beginning with the file it is about."""
    why = error.strerror or str(error)
    return f"{error.filename}: {why}" if error.filename is not None else why


def one_line(text: str) -> str:
    """Control characters made visible, so that no file's content can fake a line or paint the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
