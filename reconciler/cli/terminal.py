"""Where a command writes: results to one stream, and words to the person to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

from reconciler.cli.problems import one_line

PROGRAM = "gpu-reconciler"


class Colour(Enum):
    """What a colour means here; the values are what a terminal needs to hear."""

    GOOD = "\x1b[32m"
    WAITING = "\x1b[33m"
    BAD = "\x1b[31m"
    HEADING = "\x1b[1m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Results go to ``out``, notes and errors to ``err``. ``coloured`` says whether ``out`` takes colours."""

    out: TextIO
    err: TextIO
    coloured: bool

    def say(self, text: str = "") -> None:
        """One or more lines of a result."""
        self.out.write(f"{text}\n")

    def note(self, text: str) -> None:
        """One line to the person, beside the result."""
        self.err.write(f"{PROGRAM}: {one_line(text)}\n")

    def paint(self, text: str, colour: Colour | None) -> str:
        """``text`` for ``out``, coloured if it takes colours."""
        return f"{colour.value}{text}\x1b[0m" if colour is not None and self.coloured else text


def terminal(out: TextIO, err: TextIO, environment: Mapping[str, str]) -> Terminal:
    """Colours only for a terminal that can show them, and never with NO_COLOR (no-color.org)."""
    coloured = out.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    return Terminal(out=out, err=err, coloured=coloured)
