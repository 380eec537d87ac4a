"""Scheduler, claim controller and eviction against recordings of Kubernetes 1.36.3: same writes, same order.

What can't be the same, and is left out: the moment in which a server of its own accord removes an object after its
last write, claims deleted together with their pod (the simulated server does that before any controller sees it),
the interleaving of writes for several claims at once (b-4, m-pod: compared claim by claim), other nodes' part in
messages, and a status that says that another pod's claim is just being written (b-4).
"""

from typing import Any

import pytest

from tests.kubesim.actors.replay import DRIVER, Replay, recorded_moments, recording, stage, story

CLASSES = {
    "n-extended-resource": {
        "extendedResourceName": f"{DRIVER}/gpu",
        "config": [{"opaque": {"driver": DRIVER, "parameters": {"kind": "ClassDefaults"}}}],
    }
}
SCENARIOS = (
    "a-claim-template-lifecycle",
    "b-shared-claim",
    "c-prepare-errors",
    "d1-kubelet-restart",
    "d2-driver-restart",
    "d3-sandbox-recreated",
    "e-force-delete",
    "f-admin-access",
    "g-consumable-capacity",
    "g2-shares-per-claim",
    "h-binding-conditions",
    "i-device-taints",
    "k-device-health",
    "l-completed-pod",
    "m-two-claims-subrequests",
    "n-extended-resource",
    "o-partitionable",
)
COLLECTED = ("e-pod", "h-gone")
APART = ("m-pod",)
LEFT_OUT = ("b-4",)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_is_written_in_the_same_order(name: str) -> None:
    there = recorded_moments(recording(f"{name}.jsonl"))
    scene = stage(class_spec=CLASSES.get(name))
    Replay(name, scene).play()
    pods = dict.fromkeys(each.name for each in there if each.kind == "Pod")
    assert pods
    for pod in pods:
        if pod in LEFT_OUT:
            continue
        expected = story(there, pod, collected=pod in COLLECTED)
        told = story(scene.moments, pod, collected=pod in COLLECTED)
        if pod in APART:
            expected, told = _apart(expected), _apart(told)
        assert told == expected


def _apart(told: list[Any]) -> list[Any]:
    """Each object's entries by themselves."""
    return sorted(told, key=lambda entry: entry[:2])
