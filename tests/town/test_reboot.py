"""A node loses power. VFs, bindings and everything below /run and in the CDI directory are gone; pods are not."""

from __future__ import annotations

import contextlib
import shutil
import signal

import pytest

from hack.lab.pods import Town
from tests.town.residents import FLAGS, GPU, HALF, Residents

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
        residents.until(
            "prepared again", lambda: all(kubelet.containers("default", pod) for pod in ("one", "two"))
        )
    again = [residents.mark("a", claim) for claim in ("one", "two")]
    boots = [{None if mark is None else mark.boot_id for mark in each} for each in (marks, again)]
    assert [len(each) for each in boots] == [1, 1]
    assert boots[0] != boots[1]
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


def test_a_claim_vanishes_before_the_node_is_switched_off(town: Town, residents: Residents) -> None:
    """What it held is held no more, as nothing runs: who was allocated it since gets it."""
    residents.come("holding", HALF)
    residents.until_running("holding")
    residents.claim_vanishes("holding")
    residents.come("next", GPU)
    residents.until_phase("a", "next", "Blocked")
    _power_off(town, residents)
    residents.pod_vanishes("holding")
    _power_on(town)
    residents.until_running("next")


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
