"""The API server is away, or its watches break. Nodes go on with what they know, and catch up afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import kubesim
from hack.lab.pods import Town
from kubesim import Fault, Rule
from tests.town.residents import GPU, QUARTER, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]


def test_away_while_a_claim_is_new(town: Town, residents: Residents) -> None:
    """Nobody has heard of the claim: Prepare waits rather than fails."""
    with town.lab.outage():
        residents.come("unheard", QUARTER)
        residents.until("marked", lambda: residents.mark("a", "unheard"))
    residents.until_running("unheard")
    assert residents.events("FailedPrepareDynamicResources", "unheard") == []


def test_away_while_a_known_claim_is_prepared(town: Town, residents: Residents) -> None:
    """The node has all it needs; only the slices that the kubelet wiped have to wait."""
    kubelet = town.nodes["a"].kubelet
    kubelet.stop()
    residents.come("known", QUARTER)
    residents.until_phase("a", "known", "Ready")
    with town.lab.outage():
        kubelet.start()
        residents.until_running("known")
        residents.until("wiped", lambda: not residents.slices())
    town.until_slices()


def test_away_while_a_pod_is_deleted(town: Town, residents: Residents) -> None:
    """The device is given back on the node; who gets it next is decided when the API server is back."""
    residents.come("leaving", GPU)
    residents.until_running("leaving")
    with town.lab.outage():
        residents.leave("leaving")
        town.until_phase("gone", "leaving")
        residents.come("next", GPU)
    residents.until_running("next")


def _dropped(cluster: kubesim.Cluster) -> None:
    cluster.drop_watches()


def _forgotten(cluster: kubesim.Cluster) -> None:
    """History is lost: positions are answered with 410."""
    cluster.compact()
    cluster.drop_watches()


def _expired(cluster: kubesim.Cluster) -> None:
    """Watches begin with 410, and lists fail with it, for a while."""
    cluster.add_fault(Rule(fault=Fault.EXPIRED, count=3))
    cluster.drop_watches()


def _overloaded(cluster: kubesim.Cluster) -> None:
    cluster.add_fault(Rule(fault=Fault.THROTTLED, probability=0.3, count=5))
    cluster.add_fault(Rule(fault=Fault.DROPPED, probability=0.3, count=5))
    cluster.add_fault(Rule(fault=Fault.CONFLICT, probability=0.3, count=5))


@pytest.mark.parametrize("happen", [_dropped, _forgotten, _expired, _overloaded])
def test_watches_break(happen: Callable[[kubesim.Cluster], None], town: Town, residents: Residents) -> None:
    """What happens between, and afterwards, arrives nevertheless."""
    cluster = town.lab.cluster
    residents.come("old", QUARTER)
    residents.until_running("old")
    had = residents.nodes("old")
    happen(cluster)
    residents.come("between", QUARTER)
    residents.until_running("between")
    happen(cluster)
    residents.leave("between")
    residents.come("afterwards", QUARTER)
    residents.until_running("afterwards")
    assert residents.nodes("old") == had
    cluster.clear_faults()
