"""Counts the calls by which a process changes the world, and ends it right before or after one of them.

Meant for a process that was forked for this: the functions of `os` are replaced for good.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

KILLED = 137
"""Exit status of a process that ended at its crash point, as if by SIGKILL."""
UNCOUNTED = 99
"""Exit status of a process that changed the world by a call that is not counted here: mend this module."""

_BY_DESCRIPTOR = ("write", "pwrite", "ftruncate", "fsync", "fdatasync", "fchmod", "fchown")
_BY_PATH = (
    "rename",
    "replace",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
    "chmod",
    "symlink",
    "link",
    "truncate",
    "mknod",
)
_AUDITED = frozenset(
    ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashPoint:
    """The call to end at, counted from 1; before it is made, or right after it returned."""

    number: int
    after: bool

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} call {self.number}"


class Mutations:
    """The calls made since ``install``, in words; `at` is where to end, `dying` gets them right before."""

    def __init__(self, at: CrashPoint | None, dying: Callable[[list[str]], None]) -> None:
        self.calls: list[str] = []
        self._at = at
        self._dying = dying
        self._inside = False
        self._exit = os._exit

    def install(self) -> None:
        """Replace the functions of `os`, and listen for changes made past them."""
        for name in _BY_DESCRIPTOR:
            self._wrap(name, _describe_descriptor)
        for name in _BY_PATH:
            self._wrap(name, lambda name, arguments: f"{name} {arguments[0]}")
        self._wrap_open()
        sys.addaudithook(self._audit)

    def _wrap(self, name: str, describe: Callable[[str, tuple[Any, ...]], str]) -> None:
        original = getattr(os, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            return self._counted(describe(name, arguments), lambda: original(*arguments, **more))

        setattr(os, name, counted)

    def _wrap_open(self) -> None:
        """Opening changes something where it may create a file; the flags of ours for sysfs do not."""
        original = os.open

        def opened(path: Any, flags: int, *arguments: Any, **more: Any) -> int:
            def call() -> int:
                return original(path, flags, *arguments, **more)

            if flags & os.O_CREAT:
                return int(self._counted(f"create {path}", call))
            before, self._inside = self._inside, True
            try:
                return call()
            finally:
                self._inside = before

        os.open = opened

    def _counted(self, words: str, call: Callable[[], Any]) -> Any:
        if self._inside:  # os.replace and the like may be made of each other
            return call()
        self.calls.append(words)
        here = self._at is not None and self._at.number == len(self.calls)
        if here and self._at is not None and not self._at.after:
            self._die()
        self._inside = True
        try:
            result = call()
        finally:
            self._inside = False
            # A call that failed was made all the same.
            if here:
                self._die()
        return result

    def _die(self) -> NoReturn:
        self._inside = True
        self._dying(self.calls)
        self._exit(KILLED)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._inside:
            return
        # Giving a descriptor a stream changes nothing.
        opened = event == "open" and not isinstance(arguments[0], int)
        writing = opened and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if event in _AUDITED or writing:
            sys.stderr.write(f"not counted: {event} {arguments}\n")
            sys.stderr.flush()
            self._exit(UNCOUNTED)


def _describe_descriptor(name: str, arguments: tuple[Any, ...]) -> str:
    target = os.readlink(f"/proc/self/fd/{arguments[0]}")
    value = f" {bytes(arguments[1])[:24]!r}" if name == "write" and "/sys/" in target else ""
    return f"{name}{value} {target}"
