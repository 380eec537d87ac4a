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
ALL = (DESIRED, OWNERSHIP, STATUS, HELD, SERVER, REMEMBERED_SERVER)


def _spoil(file: Path) -> None:
    file.write_text('{"spec": [')


def _remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [_spoil, _remove])
@pytest.mark.parametrize("name", [DESIRED, STATUS])
def test_files_that_are_looked_after(
    name: str, damage: Callable[[Path], None], town: Town, residents: Residents
) -> None:
    """These are written again without delay while the agent runs."""
    residents.come("running", QUARTER)
    residents.until_running("running")
    had, file = residents.nodes("running"), residents.place("a") / name
    damage(file)
    residents.until(f"repaired: {name}", lambda: _is_whole(file))
    residents.come("neighbour", QUARTER)
    residents.until_running("neighbour")
    assert residents.nodes("running") == had


@pytest.mark.parametrize("damage", [_spoil, _remove])
def test_all_files_while_the_agent_is_away(
    damage: Callable[[Path], None], town: Town, residents: Residents
) -> None:
    """What can't be remembered is found out again: from the machine, the marks and the API server."""
    residents.come("running", QUARTER)
    residents.until_running("running")
    had, node = residents.nodes("running"), town.nodes["a"]
    node.agent.end(signal.SIGKILL)
    for name in ALL:
        damage(residents.place("a") / name)
    node.start_agent(*FLAGS)
    for name in ALL:
        residents.until(f"repaired: {name}", lambda name=name: _is_whole(residents.place("a") / name))
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
