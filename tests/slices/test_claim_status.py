"""What claims are told of their devices, on a simulated API server."""

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

import kubesim
from kubesim import Fault, Rule
from reconciler.node.claim_status_writer import LACKING_RIGHT, MOST_OFTEN, ClaimStatusWriter
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from state.manifest import AllocatedDevice, ClaimAllocation, ClaimRefusal, VirtualFunction
from state.slices.claim_status import claim_statuses
from state.status import AllocationStatus, NodeStatus
from tests.kube_in_memory import InMemory

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
GPU = "0000-03-00-0-0x56c0"
SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SHARE = "b1c0ffee-0000-4000-8000-000000000001"


class Desk:
    """A claim that has one VF, and a writer."""

    def __init__(self) -> None:
        self.cluster = kubesim.Cluster("1.36", seed=1)
        self.now = 0.0
        self.writer = ClaimStatusWriter(
            KubeClient(InMemory(self.cluster), retries=NO_RETRIES), clock=lambda: self.now, rng=random.Random(1)
        )
        self.uid = self.make()

    def make(self) -> str:
        request = {"name": "r", "exactly": {"deviceClassName": "vf.gpu.intel.com"}}
        kind = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim"}
        spec = {"devices": {"requests": [request]}}
        made = self.cluster.create(CLAIMS, {**kind, "metadata": {"name": "c"}, "spec": spec})
        result = {
            "request": "r",
            "driver": "gpu.intel.com",
            "pool": "node-a",
            "device": f"{GPU}-m4",
            "shareID": SHARE,
        }
        made["status"] = {"allocation": {"devices": {"results": [result]}}}
        self.cluster.replace(f"{CLAIMS}/c/status", made)
        uid = made["metadata"]["uid"]
        assert isinstance(uid, str)
        return uid

    def entry(self, **changes: Any) -> ClaimAllocation:
        device = AllocatedDevice(
            request="r",
            pool="node-a",
            device=f"{GPU}-m4",
            physical_function=GPU,
            share_id=SHARE,
            virtual_function=VirtualFunction(profile="flex170_m4", index=1),
        )
        whole = ClaimAllocation(
            name=self.uid, claim_namespace="default", claim_name="c", source="v1", devices=(device,)
        )
        return replace(whole, **changes)

    def tell(
        self, phase: str, message: str = "", *, binding: bool = False, avoided: frozenset[str] = frozenset()
    ) -> float | None:
        one = AllocationStatus(name=self.uid, origin="claim", phase=phase, message=message, since=SINCE)
        self.writer.offer(
            claim_statuses(
                NodeStatus(boot_id="b", version="1", allocations=(one,)),
                (self.entry(),),
                row="v1",
                driver="gpu.intel.com",
                binding=binding,
                avoided=avoided,
            )
        )
        return self.writer.step()

    def conditions(self) -> dict[str, tuple[str, str]]:
        (device,) = self.cluster.get(f"{CLAIMS}/c")["status"]["devices"]
        assert (device["device"], device["shareID"], device["pool"]) == (f"{GPU}-m4", SHARE, "node-a")
        return {each["type"]: (each["status"], each["reason"]) for each in device["conditions"]}

    def writes(self) -> int:
        return sum(each.request.method == "PATCH" for each in self.cluster.requests)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_claim_is_told_once_how_its_device_stands(desk: Desk) -> None:
    assert desk.tell("Converging", "turning on 4 VFs") is None
    assert desk.conditions() == {"Ready": ("False", "Converging")}
    assert desk.tell("Converging", "turning on 4 VFs") is None
    assert desk.writes() == 1
    assert desk.tell("Ready") is None
    assert desk.conditions() == {"Ready": ("True", "Ready")}
    assert desk.writes() == 2


def test_words_alone_are_not_worth_more_than_a_write_a_second(desk: Desk) -> None:
    desk.tell("Blocked", "waits for a")
    wait = desk.tell("Blocked", "waits for b")
    assert wait == MOST_OFTEN
    desk.now += wait
    assert desk.writer.step() is None
    assert desk.writes() == 2


def test_schedulers_are_sent_elsewhere_only_when_they_know_what_to_avoid(desk: Desk) -> None:
    desk.tell("Failed", "no VFs", binding=True)
    assert desk.conditions()["gpu.intel.com/vf-failed"] == ("False", "Failed")
    desk.tell("Failed", "no VFs", binding=True, avoided=frozenset({GPU}))
    assert desk.conditions() == {
        "Ready": ("False", "Failed"),
        "gpu.intel.com/vf-ready": ("False", "Failed"),
        "gpu.intel.com/vf-failed": ("True", "Failed"),
    }
    desk.tell("Ready", binding=True)
    assert desk.conditions()["gpu.intel.com/vf-ready"] == ("True", "Ready")


def test_another_claim_of_the_name_is_not_told(desk: Desk) -> None:
    desk.cluster.delete(f"{CLAIMS}/c")
    old, desk.uid = desk.uid, desk.make()
    desk.uid = old
    assert desk.tell("Ready") is None
    assert "devices" not in desk.cluster.get(f"{CLAIMS}/c")["status"]


def test_a_claim_that_is_gone_is_left_alone(desk: Desk) -> None:
    desk.cluster.delete(f"{CLAIMS}/c")
    assert desk.tell("Ready") is None
    assert desk.tell("Ready") is None
    assert desk.writes() == 1


def test_a_claim_given_something_else_is_asked_again_much_later(desk: Desk) -> None:
    taken = desk.cluster.get(f"{CLAIMS}/c")
    taken["status"]["allocation"]["devices"]["results"][0]["device"] = GPU
    desk.cluster.replace(f"{CLAIMS}/c/status", taken)
    assert desk.tell("Ready") == LACKING_RIGHT
    assert desk.writer.step() == LACKING_RIGHT
    assert desk.writes() == 1


def test_an_outage_is_sat_out(desk: Desk) -> None:
    desk.cluster.add_fault(Rule(fault=Fault.UNAVAILABLE, count=1))
    wait = desk.tell("Ready")
    assert wait is not None
    assert 0 < wait < 1
    desk.now += wait
    assert desk.writer.step() is None
    assert desk.conditions() == {"Ready": ("True", "Ready")}


def test_of_refused_claims_and_those_not_looked_at_nothing_is_said(desk: Desk) -> None:
    refused = desk.entry(devices=(), refused=ClaimRefusal(path="p", reason="r"))
    one = AllocationStatus(name=desk.uid, origin="claim", phase="Refused", since=SINCE)
    seen, unseen = (NodeStatus(boot_id="b", version="1", allocations=them) for them in ((one,), ()))
    for status, entry in ((seen, refused), (unseen, desk.entry())):
        told = claim_statuses(
            status, (entry,), row="v1", driver="gpu.intel.com", binding=False, avoided=frozenset()
        )
        assert told == {}
