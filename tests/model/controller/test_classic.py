"""The negotiation of classic DRA, with all the controller's threads, on a simulated API server in memory."""

import json

import pytest

from tests.model.controller.classic_world import LATER_PARAMETERS, ClassicWorld, never
from tests.model.controller.test_controller import eventually

GPU, OTHER = "0000-03-00-0-0x56c0", "0000-04-00-0-0x56c0"


@pytest.mark.parametrize("release", ["1.26", "1.27", "1.30"])
def test_delayed_allocation_and_back(release: str) -> None:
    world = ClassicWorld(release)
    world.make_gpus()
    world.make_parameters("vf", count=2, type="vf", memory=1024)
    with world.controller():
        world.make_claim("c", "vf")
        pod = world.make_pod("p", "c")
        world.ask("p", "node-1", selected="node-1")
        eventually(lambda: world.node_of("c") == "node-1")
        status = world.status("c")
        assert status["driverName"] == "gpu.dra.intel.com"
        assert status["reservedFor"] == [{"resource": "pods", "name": "p", "uid": pod}]
        assert status["allocation"]["shareable"] is True
        assert world.claim("c")["metadata"]["finalizers"] == ["gpu.dra.intel.com/deletion-protection"]
        assert len(world.ledger()["c"]) == 2
        handle = status["allocation"].get("resourceHandle") or status["allocation"]["resourceHandles"][0]["data"]
        assert json.loads(handle)["node"] == "node-1"
        world.node_reports()
        world.cluster.delete(world.path(world.schedulings, "p"))
        world.cluster.merge(f"{world.path('resourceclaims', 'c')}/status", {"status": {"reservedFor": None}})
        world.cluster.delete(world.path("resourceclaims", "c"))
        eventually(lambda: world.ledger() == {})
        never(lambda: not world.node_of("c"))  # the node has it still
        world.node_reports()
        eventually(lambda: world.is_gone("c"))


def test_several_claims_are_answered_together() -> None:
    world = ClassicWorld()
    world.make_gpus(count=2)
    world.make_gpus("node-2")
    with world.controller():
        for name in ("a", "b"):
            world.make_claim(name)
        world.make_pod("p", "a", "b")
        world.ask("p", "node-1", "node-2")
        eventually(lambda: world.answers("p") == {"gpu-a": ["node-2"], "gpu-b": ["node-2"]})
        world.select("p", "node-2")
        never(lambda: world.node_of("a") or world.node_of("b"))
        world.select("p", "node-1")
        eventually(lambda: world.node_of("a") == world.node_of("b") == "node-1")
        assert sorted(world.ledger().values()) == [[GPU], [OTHER]]
        assert world.ledger("node-2") == {}


def test_a_node_that_gets_room_is_suitable_again() -> None:
    world = ClassicWorld()
    world.make_gpus()
    with world.controller():
        world.make_claim("first", mode="Immediate")
        eventually(lambda: world.node_of("first"))
        world.node_reports()
        world.make_claim("second")
        world.make_pod("p", "second")
        world.ask("p", "node-1", selected="node-1")
        eventually(lambda: world.answers("p") == {"gpu-second": ["node-1"]})
        world.cluster.delete(world.path("resourceclaims", "first"))
        eventually(lambda: world.ledger() == {} or "second" in world.ledger())
        eventually(lambda: world.node_of("second") == "node-1")


def test_deallocation_is_asked_for() -> None:
    world = ClassicWorld()
    world.make_gpus()
    with world.controller():
        world.make_claim("c", mode="WaitForFirstConsumer")
        world.make_pod("p", "c")
        world.ask("p", "node-1", selected="node-1")
        eventually(lambda: world.node_of("c"))
        world.node_reports()
        world.cluster.delete(world.path("podschedulings", "p"))
        body = {"status": {"reservedFor": None, "deallocationRequested": True}}
        world.cluster.merge(f"{world.path('resourceclaims', 'c')}/status", body)
        eventually(lambda: world.ledger() == {})
        world.node_reports()
        eventually(lambda: not world.node_of("c"))
        eventually(lambda: not world.claim("c")["metadata"].get("finalizers"))
        assert world.status("c") == {}


def test_a_restart_changes_no_decision() -> None:
    world = ClassicWorld()
    world.make_gpus(count=3)
    world.make_claim("c")
    world.make_pod("p", "c")
    entry = {
        "name": world.claim("c")["metadata"]["uid"],
        "claimNamespace": "default",
        "claimName": "c",
        "source": "resource.k8s.io/v1alpha1",
        "devices": [{"request": "", "pool": "node-1", "device": OTHER, "physicalFunction": OTHER}],
    }
    found = world.cluster.get("/apis/gpu.dra.intel.com/v1alpha1/gpunodestates/node-1")
    spec = {"adoptedUID": found["metadata"]["uid"], "allocations": [entry]}
    world.cluster.merge("/apis/gpu.dra.intel.com/v1alpha1/gpunodestates/node-1", {"spec": spec})
    finalizers = {"metadata": {"finalizers": ["gpu.dra.intel.com/deletion-protection"]}}
    world.cluster.merge(world.path("resourceclaims", "c"), finalizers)
    world.node_reports()
    world.ask("p", "node-1", selected="node-1")
    with world.controller():
        eventually(lambda: world.node_of("c"))
        assert world.ledger() == {"c": [OTHER]}


def test_a_decision_nobody_waits_for_is_given_up() -> None:
    world = ClassicWorld()
    world.make_gpus()
    with world.controller():
        world.make_claim("c")
        finalizers = {"metadata": {"finalizers": ["gpu.dra.intel.com/deletion-protection"]}}
        world.cluster.merge(world.path("resourceclaims", "c"), finalizers)
        eventually(lambda: not world.claim("c")["metadata"].get("finalizers"))


def test_wrong_parameters_are_told_to_the_pod() -> None:
    world = ClassicWorld()
    world.make_gpus()
    with world.controller():
        world.make_claim("c", "missing")
        world.make_pod("p", "c")
        world.ask("p", "node-1", selected="node-1")
        events = "/apis/events.k8s.io/v1/namespaces/default/events"
        eventually(lambda: world.cluster.get(events)["items"])
        (event,) = world.cluster.get(events)["items"]
        assert (event["regarding"]["kind"], event["reason"]) == ("Pod", "AllocationFailed")
        assert "GpuClaimParameters default/missing" in event["note"]
        world.make_parameters("missing", count=1)
        eventually(lambda: world.node_of("c"))


def test_shares_of_the_later_driver() -> None:
    world = ClassicWorld(later=True)
    world.make_gpus()
    world.make_parameters("share", LATER_PARAMETERS, count=1, type="gpu", memory=6144, millicores=300)
    with world.controller():
        for name in ("a", "b", "c"):
            world.make_claim(
                name, "share", mode="Immediate", of="intel-gpu-shared", group="gpu.resource.intel.com"
            )
        eventually(lambda: len(world.ledger()) == 2)
        allocated = [name for name in ("a", "b", "c") if world.node_of(name)]
        eventually(lambda: len(allocated) == 2 or len([n for n in ("a", "b", "c") if world.node_of(n)]) == 2)
        assert {tuple(devices) for devices in world.ledger().values()} == {(f"{GPU}-shared",)}


def test_a_monitor_waits_for_its_pod() -> None:
    world = ClassicWorld(later=True)
    world.make_gpus(count=2)
    with world.controller():
        world.make_claim("at-once", mode="Immediate", of="intel-gpu-monitor")
        world.make_claim("m", of="intel-gpu-monitor")
        world.make_pod("p", "m")
        world.ask("p", "node-1", selected="node-1")
        eventually(lambda: world.ledger() == {"m": [f"{GPU}-monitor", f"{OTHER}-monitor"]})
        events = "/apis/events.k8s.io/v1/namespaces/default/events"
        eventually(lambda: "is Immediate" in json.dumps(world.cluster.get(events)["items"]))
        notes = [event["note"] for event in world.cluster.get(events)["items"]]
        assert any("spec.allocationMode: is Immediate" in note for note in notes)
        assert not world.node_of("at-once")


def test_a_pod_with_a_claim_on_one_node_gets_the_others_there() -> None:
    world = ClassicWorld()
    for node in ("node-1", "node-2"):
        world.make_gpus(node, count=2)
    with world.controller():
        world.make_claim("a")
        world.make_pod("first", "a")
        world.ask("first", "node-1", selected="node-1")
        eventually(lambda: world.node_of("a"))
        world.make_claim("b")
        world.make_pod("p", "a", "b")
        world.ask("p", "node-1", "node-2", selected="node-2")
        eventually(lambda: world.answers("p") == {"gpu-b": ["node-2"]})
        world.select("p", "node-1")
        eventually(lambda: world.node_of("b") == "node-1")
