"""A town for the tests of a module, and for each test its residents and a guard."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.left_running import running, started_since
from tests.town.residents import FLAGS, Guard, Residents


@pytest.fixture(scope="module", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Daemons are killed and started anew: what was there before a test ends before the module's end does."""
    before = running()
    yield
    assert started_since(before, patience_seconds=2) == []


@pytest.fixture(name="where", scope="module")
def fixture_where() -> Iterator[Path]:
    """A directory with a short name: sockets' paths are limited."""
    where = Path(tempfile.mkdtemp(prefix="town-"))
    yield where
    shutil.rmtree(where)


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path) -> Iterator[Town]:
    """One node with one GPU."""
    with running_town(where, {"a": "flex170"}, flags=FLAGS) as town:
        yield town


@pytest.fixture(name="residents")
def fixture_residents(town: Town) -> Iterator[Residents]:
    """Nobody lives there yet. Whatever happens: no device has two users, nobody loses one, and nothing is left."""
    residents, guard = Residents(town), Guard(town)
    watching = threading.Thread(target=guard.watch, name="guard")
    watching.start()
    try:
        yield residents
        residents.all_leave()
    finally:
        guard.end()
        watching.join()
    assert guard.complaints == []
    assert guard.looks
