"""Files of ours that somebody destroys are repaired, and no pod is disturbed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.lab.pods import Town
from tests.town.residents import FLAGS, QUARTER, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

DESIRED = "lib/desired/node.json"
OWNERSHIP = "lib/ownership.json"
STATUS = "run/status/status.json"
HELD = "run/status/held.json"
SERVER = "run/status/server.json"
REMEMBERED_SERVER = "lib/server.json"
RECORDS = (DESIRED, HELD, SERVER, REMEMBERED_SERVER)


def _spoil(file: Path) -> None:
    file.write_text('{"spec": [')


def _remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [_spoil, _remove])
@pytest.mark.parametrize("name", [DESIRED, STATUS, HELD])
def test_a_file_while_the_agent_runs(
    name: str, damage: Callable[[Path], None], town: Town, residents: Residents
) -> None:
    """It is written again, at the latest when something happens."""
    residents.come("running", QUARTER)
    residents.until_running("running")
    had, file = residents.nodes("running"), residents.place("a") / name
    damage(file)
    residents.come("neighbour", QUARTER)
    residents.until_running("neighbour")
    residents.until(f"repaired: {name}", lambda: _is_whole(file))
    assert residents.nodes("running") == had


@pytest.mark.parametrize("damage", [_spoil, _remove])
@pytest.mark.parametrize("witness", [OWNERSHIP, STATUS])
def test_files_while_the_agent_is_away(
    witness: str, damage: Callable[[Path], None], town: Town, residents: Residents
) -> None:
    """Which VFs are ours is in two files, of which one is enough; all else is found out again."""
    residents.come("running", QUARTER)
    residents.until_running("running")
    had, node = residents.nodes("running"), town.nodes["a"]
    node.agent.end(signal.SIGKILL)
    damaged = [residents.place("a") / name for name in {*RECORDS, OWNERSHIP, STATUS} - {witness}]
    for file in damaged:
        damage(file)
    node.start_agent(*FLAGS)
    residents.until("repaired", lambda: all(_is_whole(file) for file in damaged))
    residents.come("neighbour", QUARTER)
    residents.until_running("neighbour")
    assert residents.nodes("running") == had


def test_the_cdi_directory_is_emptied(town: Town, residents: Residents) -> None:
    """A container that is started again finds its devices."""
    residents.come("running", QUARTER)
    residents.until_running("running")
    had, directory = residents.nodes("running"), residents.place("a") / "cdi"
    for file in directory.iterdir():
        file.unlink()
    residents.until("written again", lambda: list(directory.glob("intel.com-gpu_*.json")))
    town.nodes["a"].kubelet.restart_containers("default", "running")
    residents.until("started again", lambda: _restarts(residents, "running") == 1)
    assert residents.nodes("running") == had


def _is_whole(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True


def _restarts(residents: Residents, pod: str) -> int:
    found = residents.town.lab.cluster.get(f"/api/v1/namespaces/default/pods/{pod}")
    return int(found["status"]["containerStatuses"][0]["restartCount"])
