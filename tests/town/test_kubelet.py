"""The kubelet restarts, or loses its driver for a while. It doesn't ask again for claims of pods that run."""

from __future__ import annotations

import signal

import pytest

from hack.lab.pods import Town
from tests.town.residents import QUARTER, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]


def test_it_restarts_and_wipes_the_slices(town: Town, residents: Residents) -> None:
    """The slices come back, and the running pod's devices are kept right without another Prepare."""
    residents.come("running", QUARTER)
    residents.until_running("running")
    had, mark, offered = residents.nodes("running"), residents.mark("a", "running"), residents.slices()
    town.nodes["a"].kubelet.restart()
    residents.until("wiped", lambda: not residents.slices().keys() & offered.keys())
    residents.until("offered again", lambda: len(residents.slices()) == len(offered))
    residents.come("neighbour", QUARTER)
    residents.until_running("running", "neighbour")
    assert residents.nodes("running") == had
    assert residents.mark("a", "running") == mark


def test_containers_start_anew_after_it_restarted(town: Town, residents: Residents) -> None:
    residents.come("crashing", QUARTER)
    residents.until_running("crashing")
    had, kubelet = residents.nodes("crashing"), town.nodes["a"].kubelet
    kubelet.restart()
    residents.until("known", lambda: _restarted(town, "crashing"))
    residents.until_running("crashing")
    assert residents.nodes("crashing") == had


def test_a_pod_that_comes_while_it_is_away(town: Town, residents: Residents) -> None:
    kubelet = town.nodes["a"].kubelet
    kubelet.stop()
    residents.come("early", QUARTER)
    residents.until("Ready", lambda: residents.phase("a", "early") == "Ready")
    kubelet.start()
    residents.until_running("early")


def test_a_pod_that_goes_while_it_is_away(town: Town, residents: Residents) -> None:
    """The container runs until the kubelet is back: so long its VF stays, though nobody has the claim any more."""
    residents.come("leaving", QUARTER)
    residents.until_running("leaving")
    node, uid = town.nodes["a"], residents.uid("leaving")
    node.kubelet.stop()
    residents.pod_vanishes("leaving")
    residents.leave("leaving")
    residents.until("Releasing", lambda: town.lab.allocations("a").get(uid) == "Releasing")
    assert town.lab.machines["a"].num_vfs("0000:03:00.0") == 4
    node.kubelet.start()


def test_it_has_no_driver_for_so_long_that_it_wipes_the_slices(town: Town, residents: Residents) -> None:
    """Nothing is offered while nobody could prepare it; then everything is."""
    residents.come("running", QUARTER)
    residents.until_running("running")
    offered, node = residents.slices(), town.nodes["a"]
    node.plugin.end(signal.SIGKILL)
    residents.until("nothing offered", lambda: not residents.slices())
    residents.come("later", QUARTER)
    node.start_plugin()
    residents.until("offered again", lambda: len(residents.slices()) == len(offered))
    residents.until_running("running", "later")


def _restarted(town: Town, pod: str) -> bool:
    try:
        town.nodes["a"].kubelet.restart_containers("default", pod)
    except LookupError:  # it doesn't know the pod yet
        return False
    return True
