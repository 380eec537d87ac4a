"""The guard that the other tests rely on sees what it is there for."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator

import pytest

from hack.lab.pods import Town
from tests.town.residents import QUARTER, Guard, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]


def test_a_device_is_taken_from_a_pod(town: Town) -> None:
    residents = Residents(town)
    residents.come("robbed", QUARTER)
    residents.until_running("robbed")
    with _on_guard(residents) as guard:
        assert guard.complaints == []
        town.lab.machines["a"].do("foreign-numvfs 0000:03:00.0 0")
        residents.until("noticed", lambda: guard.complaints)
    assert all("was taken from" in each for each in guard.complaints)
    residents.all_leave()


def test_a_device_has_two_users(town: Town) -> None:
    """Somebody writes the first pod's devices into the CDI file of the second."""
    residents = Residents(town)
    residents.come("first", QUARTER)
    residents.come("second", QUARTER)
    residents.until_running("first", "second")
    cdi = residents.place("a") / "cdi"
    files = [cdi / f"intel.com-gpu_claim-{residents.uid(claim)}.json" for claim in ("first", "second")]
    first, second = (json.loads(file.read_bytes()) for file in files)
    agent = town.nodes["a"].agent.process
    with _on_guard(residents) as guard:
        agent.send_signal(signal.SIGSTOP)
        second["devices"][0]["containerEdits"] = first["devices"][0]["containerEdits"]
        files[1].write_text(json.dumps(second))
        assert guard.complaints == []
        town.nodes["a"].kubelet.restart_containers("default", "second")
        residents.until("noticed", lambda: guard.complaints)
        agent.send_signal(signal.SIGCONT)
    assert all("is used by" in each for each in guard.complaints)
    residents.all_leave()


@contextlib.contextmanager
def _on_guard(residents: Residents) -> Iterator[Guard]:
    """A guard who has looked once."""
    guard = Guard(residents.town)
    watching = threading.Thread(target=guard.watch, name="guard")
    watching.start()
    try:
        residents.until("looked", lambda: guard.looks)
        yield guard
    finally:
        guard.end()
        watching.join()
