"""Messages that the manual quotes are messages that the programs write."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
import yaml

from tests.contract_files import REPOSITORY
from tests.docs.documents import document, in_code, rows

_GAP = re.compile(
    r"…|process [0-9]+ \(\w+\)|allocation NAME|/lock/agent:"
    r"|\b(?:N|NAME|UID|NODE|[0-9]+)\b|\bvfio-pci\b|\bvfio\b|resource\.k8s\.io"
)
"""What differs from one message to the next."""


def _strings(tree: ast.AST) -> Iterator[str]:
    """Texts of a module, with … for what is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def _messages() -> str:
    """All that the programs and the admission policies may say."""
    found: list[str] = []
    for folder in ("state", "reconciler", "plugin"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            found += _strings(ast.parse(file.read_text()))
    for file in (REPOSITORY / "deploy/policies").glob("*.yaml"):
        for policy in yaml.safe_load_all(file.read_text()):
            found += (one.get("message", "") for one in policy.get("spec", {}).get("validations", ()))
    return "\n".join(found)


def _pieces(message: str) -> list[str]:
    """The fixed pieces of a message, without those of a word only: they prove nothing."""
    pieces = (piece.strip(" :,;.…()") for piece in _GAP.split(message))
    return [piece for piece in pieces if " " in piece]


def _quoted() -> list[str]:
    manual = document("doc/USAGE.md")
    sections = manual.section("Troubleshooting"), manual.section("Asking for GPUs on Kubernetes 1.26")
    cells = (row[0] for section in sections for row in rows(section))
    return [quote for cell in cells for quote in in_code(cell) if " " in quote and not quote.startswith("kubectl")]


def test_there_are_quotes() -> None:
    assert len(_quoted()) > 35
    assert all(_pieces(quote) or quote in ("refused: …", "Blocked: …", "Failed: …") for quote in _quoted())


@pytest.mark.parametrize("quote", _quoted())
def test_a_quote_is_a_message(quote: str) -> None:
    assert [piece for piece in _pieces(quote) if piece not in _messages()] == []


@pytest.mark.parametrize("path", ["doc/OPERATIONS.md", "doc/USAGE.md"])
def test_the_word_about_newer_formats(path: str) -> None:
    quotes = [quote for quote in document(path).code() if quote.startswith("formatVersion ")]
    assert quotes
    for piece in (piece for quote in quotes for piece in _pieces(quote)):
        assert piece in _messages()


def test_other_words_are_no_messages() -> None:
    assert _pieces("3 VFs of … were made by a little bird") == ["VFs of", "were made by a little bird"]
    assert "were made by a little bird" not in _messages()
