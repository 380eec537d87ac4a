"""The controller dies at each of its requests: the next one goes on from what was decided."""

import pytest

from tests.model.controller.classic_judge import devices_of, handed
from tests.model.controller.classic_paper import NAMESPACE, Crash
from tests.model.controller.classic_scene import NODES, Scene

_MOST_REQUESTS = 100


def negotiate(scene: Scene) -> dict[str, list[str]]:
    """A pod of three claims comes, is allocated, runs and goes; returns what its claims got."""
    scene.make_pod("p0", ["vf", "whole", "any"])
    uids = {claim["metadata"]["uid"] for claim in scene.claims_of("p0").values()}
    decided: dict[str, list[str]] = {}

    def note(kind: str, key: object, raw: bytes | None) -> None:
        for node in NODES:
            for uid, entry in scene.ledger(node).items():
                decided.setdefault(uid, devices_of(entry))

    scene.server.watchers.append(note)
    scene.ask("p0", ["n0", "n1"], "")
    scene.settle(3)
    assert scene.answers("p0") == {"fpga": ["n1"]} | {name: ["n1"] for name in "012"}
    scene.ask("p0", ["n0"], "n0")
    scene.settle(3)
    claims = scene.claims_of("p0").values()
    assert {claim["metadata"]["uid"]: handed(claim) for claim in claims} == decided
    assert decided.keys() == uids
    assert scene.bind("p0")
    scene.settle(2)
    scene.end("p0")
    scene.settle(4)
    assert scene.server.claims == {}
    assert all(scene.ledger(node) == {} for node in NODES)
    return {str(number): devices for number, devices in enumerate(decided.values())}


@pytest.mark.parametrize("done", [True, False])
def test_a_restart_at_any_request_changes_no_decision(done: bool) -> None:
    undisturbed = Scene(leading=[True])
    expected = negotiate(undisturbed)
    for number in range(_MOST_REQUESTS):
        scene = Scene(leading=[True])
        scene.server.crash = Crash(after=number, done=done)
        assert negotiate(scene) == expected, f"after request {number}"
        if scene.server.crash is not None:
            break
    assert 15 < number < _MOST_REQUESTS - 1, f"{NAMESPACE}: {number} requests in all"
