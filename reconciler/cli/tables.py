"""Tables for people: no borders, two spaces between columns, headings in upper case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reconciler.cli.problems import one_line
from reconciler.cli.terminal import Colour, Terminal

GAP = "  "
NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell; its colour says what it means."""

    text: str
    colour: Colour | None = None


def table(
    screen: Terminal, headings: Sequence[str], rows: Iterable[Sequence[str | Cell]], *, indent: str = ""
) -> str:
    """A table of text, one line a row, without an end of line after the last. An empty cell shows as ``-``."""
    cells = [[_cell(value) for value in row] for row in rows]
    lines = [[Cell(text=heading.upper()) for heading in headings], *cells]
    widths = [max(len(line[column].text) for line in lines) for column in range(len(headings))]
    return "\n".join(indent + _line(screen, line, widths) for line in lines)


def fields(rows: Iterable[tuple[str, str | Cell]], screen: Terminal) -> str:
    """One thing told in lines ``Name:  value``; those with nothing to tell are left out."""
    told = [(f"{name}:", _cell(value)) for name, value in rows if value != ""]
    width = max((len(name) for name, _ in told), default=0)
    return "\n".join(f"{name:<{width}}{GAP}{screen.paint(cell.text, cell.colour)}" for name, cell in told)


def _cell(value: str | Cell) -> Cell:
    cell = Cell(text=value) if isinstance(value, str) else value
    return Cell(text=one_line(cell.text) or NOTHING, colour=cell.colour)


def _line(screen: Terminal, cells: Sequence[Cell], widths: Sequence[int]) -> str:
    last = len(cells) - 1
    parts = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        # Padding stands outside of the colour, and none stands at the end of a line.
        padding = "" if column == last else " " * (width - len(cell.text))
        parts.append(screen.paint(cell.text, cell.colour) + padding)
    return GAP.join(parts)
