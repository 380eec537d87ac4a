"""The documentation as tests read it: headings, links, blocks of code, words in code, rows of tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from tests.contract_files import REPOSITORY

OURS = (
    "README.md",
    "doc/USAGE.md",
    "doc/OPERATIONS.md",
    "doc/SECURITY.md",
    "doc/ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
"""What users and contributors read; doc/BENCHMARKS.md is about a program of its own."""

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_IN_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Document:
    """One file; ``path`` is from the repository's root."""

    path: str

    @cached_property
    def text(self) -> str:
        return (REPOSITORY / self.path).read_text()

    @cached_property
    def prose(self) -> str:
        """Without fenced blocks."""
        return _FENCED.sub("", self.text)

    def anchors(self) -> set[str]:
        """What links may end in: headings as web pages make anchors of them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def links(self) -> Iterator[str]:
        """Targets within the repository."""
        yield from (target for target in _LINK.findall(self.prose) if not target.startswith("https://"))

    def yaml_blocks(self) -> Iterator[str]:
        yield from (body for language, body in _FENCED.findall(self.text) if language == "yaml")

    def command_lines(self) -> Iterator[str]:
        """Lines of indented blocks, those that are continued as one, without what is explained beside them."""
        for block in _INDENTED.findall(self.prose):
            for line in block.replace("\\\n", " ").splitlines():
                yield re.sub(r"\s+#.*", "", line).strip()

    def code(self) -> Iterator[str]:
        """What stands in backquotes, and command lines."""
        yield from (" ".join(words.split()) for words in _IN_CODE.findall(self.prose))
        yield from self.command_lines()

    def section(self, heading: str) -> str:
        """The text below a heading, to the next of its rank."""
        found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", self.prose, re.MULTILINE | re.DOTALL)
        if found is None:
            raise KeyError(f"{self.path} has no section {heading}")
        return found[1]


@cache
def document(path: str) -> Document:
    """The same for all tests."""
    return Document(path)


def rows(text: str) -> Iterator[tuple[str, ...]]:
    """Rows of the tables in a text, heads left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if not line.startswith("|--") and not after.startswith("|--"):
            yield tuple(cell.strip() for cell in re.split(r"(?<!`)\|(?!`)", line.strip("|")))


def in_code(cell: str) -> list[str]:
    """What stands in backquotes in a cell."""
    return _IN_CODE.findall(cell)
