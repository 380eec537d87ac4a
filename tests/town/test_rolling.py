"""The node's pod is replaced: for a while two agents, or two plugins, are there. Pods come and go all the time."""

from __future__ import annotations

import signal

import pytest

from hack.lab.pods import Town
from hack.lab.processes import Daemon
from tests.town.residents import FLAGS, HALF, QUARTER, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

SLOW_VFS = "fault on: write, path: '*/sriov_numvfs', delay: 0.8, count: 1"


def test_another_agent_takes_over(town: Town, residents: Residents) -> None:
    """It stands by until the first one ends."""
    residents.come("running", QUARTER)
    residents.until_running("running")
    had, node = residents.nodes("running"), town.nodes["a"]
    first = node.agent
    second = node.start_agent(*FLAGS)
    second.until_logged("standing by")
    residents.come("before", QUARTER)
    residents.until_running("before")
    assert first.end() == 0
    residents.leave("before")
    residents.come("after", QUARTER)
    residents.until_running("after")
    residents.until("gone", lambda: town.phase("before") == "gone")
    assert residents.nodes("running") == had


def test_another_agent_takes_over_amid_a_change(town: Town, residents: Residents) -> None:
    node = town.nodes["a"]
    first = node.agent
    town.lab.machines["a"].do(SLOW_VFS)
    residents.come("waiting", HALF)
    residents.until("marked", lambda: residents.mark("a", "waiting"))
    node.start_agent(*FLAGS)
    assert first.end() == 0
    residents.until_running("waiting")
    assert residents.events("FailedPrepareDynamicResources", "waiting") == []


@pytest.mark.parametrize("ends", ["old", "new"])
def test_two_plugins_overlap(ends: str, town: Town, residents: Residents) -> None:
    """Whichever ends, the other goes on: slices stay, and no Prepare fails."""
    residents.come("running", QUARTER)
    residents.until_running("running")
    had, offered, node = residents.nodes("running"), residents.slices(), town.nodes["a"]
    old = node.plugin
    new = _rolling(town, f"pod-{ends}")
    residents.come("both", QUARTER)
    residents.until_running("both")
    going, staying = (old, new) if ends == "old" else (new, old)
    assert going.end() == 0
    node.plugin = staying
    residents.leave("both")
    residents.come("after", QUARTER)
    residents.until_running("after")
    town.until_phase("gone", "both")
    assert residents.nodes("running") == had
    assert residents.slices().keys() == offered.keys()
    assert residents.events("FailedPrepareDynamicResources", "after") == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_plugin_ends_with_a_call_under_way(how: signal.Signals, town: Town, residents: Residents) -> None:
    """Told to end it finishes the call; killed it leaves the pod to its successor."""
    node = town.nodes["a"]
    old = node.plugin
    _rolling(town, f"call-{how}")
    town.lab.machines["a"].do(SLOW_VFS)
    residents.come("waiting", HALF)
    residents.until("marked", lambda: residents.mark("a", "waiting"))
    old.end(how)
    residents.until_running("waiting")


def _rolling(town: Town, uid: str) -> Daemon:
    """Another plugin beside the one there is, registered."""
    node = town.nodes["a"]
    said = node.plugin.log.count("registered with the kubelet")
    plugin = node.start_plugin("--rolling", POD_UID=uid)
    Residents(town).until("registered", lambda: plugin.log.count("registered with the kubelet") > said)
    return plugin
