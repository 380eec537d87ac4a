"""A node loses power. VFs, bindings and everything below /run and in the CDI directory are gone; pods are not."""

from __future__ import annotations

import contextlib
import shutil
import signal

import pytest

from hack.lab.pods import Town
from tests.town.residents import FLAGS, HALF, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]


@pytest.mark.parametrize("api", ["there", "away"])
def test_pods_get_their_devices_again(api: str, town: Town, residents: Residents) -> None:
    """Also if the node comes up while the API server is away: what is wanted is in a file."""
    residents.come("one", HALF)
    residents.come("two", HALF)
    residents.until_running("one", "two")
    marks = [residents.mark("a", claim) for claim in ("one", "two")]
    with town.lab.outage() if api == "away" else contextlib.nullcontext():
        _power_cycle(town, residents)
        kubelet = town.nodes["a"].kubelet
        for pod in ("one", "two"):
            residents.until("prepared again", lambda pod=pod: kubelet.containers("default", pod))
    again = [residents.mark("a", claim) for claim in ("one", "two")]
    assert not any(old is None or new is None or old.boot_id == new.boot_id for old, new in zip(marks, again))
    assert not set(residents.nodes("one")) & set(residents.nodes("two"))
    assert town.lab.machines["a"].num_vfs("0000:03:00.0") == 2
    for claim in ("one", "two"):
        residents.until_phase("a", claim, "Ready")


def test_a_pod_goes_while_the_node_is_off(town: Town, residents: Residents) -> None:
    residents.come("leaving", HALF)
    residents.until_running("leaving")
    _power_off(town, residents)
    residents.pod_vanishes("leaving")
    residents.leave("leaving")
    _power_on(town)


def _power_cycle(town: Town, residents: Residents) -> None:
    _power_off(town, residents)
    _power_on(town)


def _power_off(town: Town, residents: Residents) -> None:
    node = town.nodes["a"]
    node.agent.process.send_signal(signal.SIGKILL)
    node.plugin.process.send_signal(signal.SIGKILL)
    node.agent.process.wait()
    node.plugin.process.wait()
    node.kubelet.power_off()
    town.lab.machines["a"].do("reboot")
    for left in (residents.place("a") / "run").iterdir():
        shutil.rmtree(left)


def _power_on(town: Town) -> None:
    node = town.nodes["a"]
    node.start_agent(*FLAGS)
    node.start_plugin()
    node.kubelet.start()
