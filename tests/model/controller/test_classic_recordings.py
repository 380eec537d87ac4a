"""Our controller writes what a recorded classic controller wrote on Kubernetes 1.26, in the same order per object.

Where it doesn't on purpose: it sends merge patches that name the version they were made from, not whole objects;
it says nothing of a node that it allocates on at once; it speaks of all the claims of a pod together; it allocates
a delayed claim only for a pod, and frees a claim only when somebody wants that.
"""

from typing import Any

import pytest

from tests.contract_files import copied_paths
from tests.model.controller.classic_replay import Replay
from tests.model.controller.classic_world import GROUP, ClassicWorld, flex170, never
from tests.model.controller.test_controller import eventually

ONLY_NODE_OLD = {
    "suitableNodes": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-old"]}]}
        ]
    }
}
SETTINGS: dict[str, dict[str, Any]] = {
    "b-immediate-allocation": {"of_class": ONLY_NODE_OLD},  # although node-fake is the first that has room
    "e-deallocation-requested": {"bare": frozenset()},
    "f-shared-claim": {"shareable": frozenset({"f-claim"})},
}
SCENARIOS = sorted(
    path.removeprefix("recordings/old/").removesuffix(".jsonl")
    for path in copied_paths()
    if path.startswith("recordings/old/") and not path.endswith(".grpc.jsonl")
)


def test_there_are_recordings() -> None:
    assert len(SCENARIOS) == 10
    assert set(SETTINGS) < set(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_recording(scenario: str) -> None:
    replay = Replay(scenario, **SETTINGS.get(scenario, {"bare": frozenset({"node-fake"})}))
    replay.play()
    assert replay.ours() == replay.expected()


def make_other_drivers_claim(world: ClassicWorld, name: str) -> None:
    """A claim that is none of our business."""
    made = {"apiVersion": "resource.k8s.io/v1alpha1", "kind": "ResourceClass", "metadata": {"name": "nic"}}
    world.cluster.create(f"{GROUP}/v1alpha1/resourceclasses", {**made, "driverName": "nic.example.com"})
    world.make_claim(name, of="nic")


def test_what_another_driver_says_stays() -> None:
    world = ClassicWorld()
    world.make_gpus(count=1)
    world.make_gpus("node-2", count=0)
    with world.controller():
        make_other_drivers_claim(world, "n")
        world.make_claim("c")
        world.make_pod("p", "n", "c")
        world.ask("p", "node-1", "node-2")
        eventually(lambda: world.answers("p") == {"gpu-c": ["node-2"]})
        both = [
            {"name": "gpu-n", "unsuitableNodes": ["node-1"]},
            {"name": "gpu-c", "unsuitableNodes": ["node-2"]},
        ]
        path = world.path("podschedulings", "p")
        world.cluster.merge(f"{path}/status", {"status": {"resourceClaims": both}})
        world.node_reports("node-2", devices=[flex170(3)])
        eventually(lambda: world.answers("p") == {"gpu-n": ["node-1"], "gpu-c": []})
        world.select("p", "node-2")
        eventually(lambda: world.node_of("c") == "node-2")
        assert world.status("n") == {}
        assert "finalizers" not in world.claim("n")["metadata"]
        assert world.answers("p")["gpu-n"] == ["node-1"]


def test_a_selected_node_that_is_no_candidate_any_more() -> None:
    world = ClassicWorld()
    world.make_gpus()
    with world.controller():
        world.make_claim("c")
        world.make_pod("p", "c")
        world.ask("p", "node-1", selected="node-gone")
        eventually(lambda: world.answers("p") == {"gpu-c": ["node-gone"]})
        never(lambda: world.node_of("c") or world.claim("c")["metadata"].get("finalizers"))
        world.select("p", "node-1")
        eventually(lambda: world.node_of("c") == "node-1")
