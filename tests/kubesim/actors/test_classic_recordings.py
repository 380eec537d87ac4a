"""Classic scheduler and claim controller against recordings of Kubernetes 1.26.5: same writes, same order.

What can't be the same, and is left out: times (whoever was waiting then waits here for the same thing), when a
claim of a deleted pod is marked for deletion (the simulated server does that together with the pod), and whether a
pod's first message is written before or after the claim is made that it says is missing.
"""

import pytest

from tests.kubesim.actors.classic_replay import ClassicReplay, order, recorded_moments, stage, told

SCENARIOS = (
    "a-delayed-allocation",
    "b-immediate-allocation",
    "c-two-claims",
    "d-unsuitable-then-suitable",
    "e-deallocation-requested",
    "f-shared-claim",
    "h-prepare-errors",
    "i-restarts",
    "j-container-and-sandbox-restart",
)
TWO_NODES = ("d-unsuitable-then-suitable", "e-deallocation-requested")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_is_written_in_the_same_order(name: str) -> None:
    scene = stage(both_nodes=name in TWO_NODES)
    replay = ClassicReplay(name, scene)
    replay.play()
    there = recorded_moments(replay.lines)
    assert there
    assert told(scene.moments) == told(there)
    assert order(scene.moments) == order(there)
