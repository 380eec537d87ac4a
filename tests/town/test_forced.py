"""Claims and pods deleted by force, while the scheduler already gives their devices to others.

The invariant: as long as a container runs, whatever the API server knows of it, nobody else gets its device.
"""

from __future__ import annotations

import signal

import pytest

from hack.lab.pods import Town
from tests.town import vanishing
from tests.town.residents import FLAGS, GPU, HALF, QUARTER, JsonObject, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]


@pytest.mark.parametrize(("first", "second"), [(GPU, GPU), (GPU, QUARTER), (HALF, GPU), (HALF, QUARTER)])
def test_a_claim_vanishes(first: JsonObject, second: JsonObject, town: Town, residents: Residents) -> None:
    vanishing.claim_vanishes(first, second, town, residents)


def test_a_claim_vanishes_and_another_takes_its_place_among_vfs(town: Town, residents: Residents) -> None:
    """Both VFs of the layout have a user; a third claim is allocated one of them."""
    residents.come("holding", HALF)
    residents.come("beside", HALF)
    residents.until_running("holding", "beside")
    beside = residents.nodes("beside")
    residents.claim_vanishes("holding")
    residents.come("next", HALF)
    residents.until_phase("a", "next", "Blocked")
    had = residents.nodes("holding")
    residents.leave("holding")
    residents.until_running("next")
    assert residents.nodes("next") == had
    assert residents.nodes("beside") == beside


@pytest.mark.parametrize("second", [GPU, HALF])
def test_a_pod_vanishes(second: JsonObject, town: Town, residents: Residents) -> None:
    """Its containers stop some time after its object has gone."""
    residents.come("holding", HALF)
    residents.until_running("holding")
    residents.pod_vanishes("holding")
    residents.leave("holding")
    residents.come("next", second)
    residents.until_running("next")


def test_a_pod_vanishes_while_the_kubelet_is_away(town: Town, residents: Residents) -> None:
    vanishing.pod_vanishes_while_the_kubelet_is_away(town, residents)


def test_everything_of_ours_is_killed_while_a_claim_vanishes(town: Town, residents: Residents) -> None:
    """The mark of the container that still runs is all that is left to tell of it."""
    residents.come("holding", GPU)
    residents.until_running("holding")
    node = town.nodes["a"]
    for daemon in (town.controller, node.agent, node.plugin):
        daemon.end(signal.SIGKILL)
    residents.claim_vanishes("holding")
    residents.come("next", QUARTER)
    town.controller = town.lab.start_controller()
    node.start_agent(*FLAGS)
    node.start_plugin()
    residents.until_phase("a", "next", "Blocked")
    assert town.phase("next") == "Pending"
    residents.leave("holding")
    residents.until_running("next")
