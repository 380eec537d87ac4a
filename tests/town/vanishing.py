"""What happens to a GPU whose claim or pod is deleted by force, however GPUs are offered."""

from __future__ import annotations

from hack.lab.pods import Town
from tests.town.residents import GPU, JsonObject, Residents


def claim_vanishes(first: JsonObject, second: JsonObject, town: Town, residents: Residents) -> None:
    """The next claim is allocated the same GPU at once, and gets it when the container has stopped."""
    residents.come("holding", first)
    residents.until_running("holding")
    had = residents.nodes("holding")
    residents.claim_vanishes("holding")
    residents.come("next", second)
    residents.until_phase("a", "next", "Blocked")
    assert residents.nodes("holding") == had
    assert town.phase("next") == "Pending"
    residents.leave("holding")
    residents.until_running("next")


def pod_vanishes_while_the_kubelet_is_away(town: Town, residents: Residents) -> None:
    """Its container runs until the kubelet has noticed."""
    residents.come("holding", GPU)
    residents.until_running("holding")
    kubelet = town.nodes["a"].kubelet
    kubelet.stop()
    residents.pod_vanishes("holding")
    residents.leave("holding")
    residents.come("next", GPU)
    residents.until_phase("a", "next", "Blocked")
    kubelet.start()
    residents.until_running("next")
