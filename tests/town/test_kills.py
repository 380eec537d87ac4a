"""Controller, agent or plugin killed at some moment of a pod's life: the pod's life goes on once they are back.

What always holds: a pod that runs keeps its devices, one that waits gets some, and nobody else has them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from hack.lab.pods import Town
from hack.lab.processes import Daemon
from tests.town.residents import FLAGS, HALF, QUARTER, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

SLOW_VFS = "fault on: write, path: '*/sriov_numvfs', delay: 0.8, count: 1"


def _controller(town: Town) -> tuple[Daemon, Callable[[], object]]:
    def start() -> None:
        town.controller = town.lab.start_controller()

    return town.controller, start


def _agent(town: Town) -> tuple[Daemon, Callable[[], object]]:
    return town.nodes["a"].agent, lambda: town.nodes["a"].start_agent(*FLAGS)


def _plugin(town: Town) -> tuple[Daemon, Callable[[], object]]:
    return town.nodes["a"].plugin, town.nodes["a"].start_plugin


everyone = pytest.mark.parametrize("victim", [_controller, _agent, _plugin])
Victim = Callable[[Town], tuple[Daemon, Callable[[], object]]]


def _kill(town: Town, victim: Victim) -> Callable[[], object]:
    """Kill it; what is returned starts it again."""
    daemon, start = victim(town)
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    return start


@everyone
def test_before_there_is_a_claim(victim: Victim, residents: Residents) -> None:
    start = _kill(residents.town, victim)
    residents.come("early", QUARTER)
    start()
    residents.until_running("early")


@everyone
def test_while_the_claim_is_made_ready(victim: Victim, residents: Residents) -> None:
    residents.town.lab.machines["a"].do(SLOW_VFS)
    residents.come("waiting", HALF)
    residents.until("marked", lambda: residents.mark("a", "waiting"))
    start = _kill(residents.town, victim)
    start()
    residents.until_running("waiting")
    assert residents.town.lab.machines["a"].num_vfs("0000:03:00.0") == 2


@everyone
def test_while_the_pod_runs(victim: Victim, residents: Residents) -> None:
    residents.come("running", QUARTER)
    residents.until_running("running")
    had, mark = residents.nodes("running"), residents.mark("a", "running")
    start = _kill(residents.town, victim)
    start()
    residents.come("neighbour", QUARTER)
    residents.until_running("neighbour")
    assert residents.nodes("running") == had
    assert residents.mark("a", "running") == mark


@everyone
def test_while_the_pod_is_deleted(victim: Victim, residents: Residents) -> None:
    residents.come("leaving", QUARTER)
    residents.until_running("leaving")
    start = _kill(residents.town, victim)
    residents.leave("leaving")
    residents.until("stopped", lambda: residents.town.nodes["a"].kubelet.containers("default", "leaving") is None)
    start()
    residents.all_leave()
