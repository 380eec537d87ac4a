"""A town for the tests of a module; each test gets it without anybody's pods, and has to leave nothing behind."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town
from tests.uses.examples import Examples


@pytest.fixture(name="where", scope="module")
def fixture_where() -> Iterator[Path]:
    """A directory with a short name: sockets' paths are limited."""
    where = Path(tempfile.mkdtemp(prefix="uses-"))
    yield where
    shutil.rmtree(where)


@pytest.fixture(name="examples")
def fixture_examples(town: Town) -> Iterator[Examples]:
    examples = Examples(town)
    yield examples
    examples.tidy()
