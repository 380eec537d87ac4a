"""The classic mode of 1.31 (gate DRAControlPlaneController): negotiating over claims that name their driver."""

import json
from typing import Any

import kubesim
from reconciler.controller.front_ends import discover
from reconciler.runtime.kube.client import KubeClient
from tests.contract_files import REPOSITORY
from tests.kube_in_memory import InMemory
from tests.model.controller.classic_world import GROUP, ClassicWorld, never
from tests.model.controller.test_controller import World, eventually

DRIVER = "gpu.resource.intel.com"
GPU = "0000-03-00-0-0x56c0"
CLASSES = f"{GROUP}/v1alpha3/deviceclasses"


def parameters(kind: str, **spec: Any) -> dict[str, Any]:
    whole = {"apiVersion": f"{DRIVER}/v1alpha2", "kind": kind, "spec": spec}
    return {"opaque": {"driver": DRIVER, "parameters": whole}}


class AlphaWorld(ClassicWorld):
    """1.31 with its gate on, and one class."""

    def __init__(self, **of_class: Any) -> None:
        World.__init__(self, "1.31", "v1alpha3")
        self.cluster = kubesim.Cluster("1.31", classic=True, seed=1)
        self.cluster.load((REPOSITORY / "deploy/crd/gpunodestates.gpu.dra.intel.com.yaml").read_text())
        self.schedulings = "podschedulingcontexts"
        self.make("DeviceClass", CLASSES, "gpu", of_class)

    def make(self, kind: str, path: str, name: str, spec: dict[str, Any]) -> str:
        made = {"apiVersion": "resource.k8s.io/v1alpha3", "kind": kind, "metadata": {"name": name}, "spec": spec}
        return str(self.cluster.create(path, made)["metadata"]["uid"])

    def make_asking(self, name: str, *configs: dict[str, Any], driver: str = DRIVER, count: int = 1) -> str:
        """A claim; returns its UID."""
        request = {"name": "gpus", "deviceClassName": "gpu", "count": count}
        spec: dict[str, Any] = {"devices": {"requests": [request], "config": list(configs)}}
        return self.make(
            "ResourceClaim",
            self.path("resourceclaims"),
            name,
            {**spec, "controller": driver} if driver else spec,
        )

    def make_pod(self, name: str, *claims: str) -> str:
        spec = {
            "containers": [{"name": "main", "image": "i"}],
            "resourceClaims": [{"name": f"gpu-{one}", "resourceClaimName": one} for one in claims],
        }
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        return str(self.cluster.create("/api/v1/namespaces/default/pods", made)["metadata"]["uid"])


def test_the_gate_decides_on_the_front_end() -> None:
    gated = discover(KubeClient(InMemory(kubesim.Cluster("1.31", classic=True))))
    assert (gated.version, gated.allocates) == ("v1alpha3", True)
    usual = discover(KubeClient(InMemory(kubesim.Cluster("1.31"))))
    assert (usual.version, usual.allocates) == ("v1alpha3", False)


def test_from_the_first_question_to_the_last_finalizer() -> None:
    world = AlphaWorld()
    world.make_gpus()
    with world.controller():
        uid = world.make_asking("c", parameters("GpuClaimParameters", count=2, type="vf", memory=1024), count=2)
        pod = world.make_pod("p", "c")
        world.ask("p", "node-1", "node-gone")
        eventually(lambda: world.answers("p") == {"gpu-c": ["node-gone"]})
        world.select("p", "node-1")
        eventually(lambda: world.status("c").get("allocation"))
        status, claim = world.status("c"), world.claim("c")
        assert status["reservedFor"] == [{"resource": "pods", "name": "p", "uid": pod}]
        assert claim["metadata"]["finalizers"] == [f"{DRIVER}/deletion-protection"]
        allocation = status["allocation"]
        assert allocation["controller"] == DRIVER
        (term,) = allocation["nodeSelector"]["nodeSelectorTerms"]
        assert term["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]
        results = allocation["devices"]["results"]
        assert {(one["request"], one["driver"], one["pool"]) for one in results} == {("gpus", DRIVER, "node-1")}
        assert [one["device"] for one in results] == world.ledger()["c"]
        (config,) = allocation["devices"]["config"]
        assert config["opaque"]["parameters"]["node"] == "node-1"

        world.node_reports()
        world.cluster.delete(world.path("podschedulingcontexts", "p"))
        body = {"status": {"reservedFor": None, "deallocationRequested": True}}
        world.cluster.merge(f"{world.path('resourceclaims', 'c')}/status", body)
        eventually(lambda: world.ledger() == {})
        never(lambda: not world.status("c"))  # the node has it still
        world.node_reports()
        eventually(lambda: world.status("c") == {} and not world.claim("c")["metadata"].get("finalizers"))
        assert world.claim("c")["metadata"]["uid"] == uid


def test_a_restart_puts_a_lost_ledger_together_again() -> None:
    world = AlphaWorld(config=[parameters("GpuClassParameters", shared=True)])
    world.make_gpus()
    world.make_asking("c", parameters("GpuClaimParameters", count=1, memory=6144, millicores=300))
    world.make_pod("p", "c")
    with world.controller():
        world.ask("p", "node-1", selected="node-1")
        eventually(lambda: world.status("c").get("allocation"))
        world.node_reports()
    path = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates/node-1"
    before = world.cluster.get(path)["spec"]["allocations"]
    world.cluster.merge(path, {"spec": {"allocations": []}})
    with world.controller("two"):
        eventually(lambda: world.cluster.get(path)["spec"]["allocations"] == before)
    assert (before[0]["devices"][0]["device"], before[0]["devices"][0]["millicores"]) == (f"{GPU}-shared", 300)


def test_claims_without_a_controller_are_for_the_scheduler() -> None:
    world = AlphaWorld()
    world.make_gpus(count=2)
    with world.controller():
        for name, driver in (("theirs", ""), ("others", "nic.example.com"), ("ours", DRIVER)):
            world.make_asking(name, driver=driver)
        world.make_pod("p", "theirs", "others", "ours")
        world.ask("p", "node-1", selected="node-1")
        eventually(lambda: world.status("ours").get("allocation"))
        assert world.status("theirs") == {} == world.status("others")
        assert list(world.ledger()) == ["ours"]


def test_what_only_the_scheduler_could_evaluate_is_told_to_the_pod() -> None:
    world = AlphaWorld(selectors=[{"cel": {"expression": "true"}}])
    world.make_gpus()
    with world.controller():
        world.make_asking("c")
        world.make_pod("p", "c")
        world.ask("p", "node-1", selected="node-1")
        events = "/apis/events.k8s.io/v1/namespaces/default/events"
        eventually(lambda: world.cluster.get(events)["items"])
        (event,) = world.cluster.get(events)["items"]
        assert "DeviceClass gpu: spec.selectors" in event["note"], json.dumps(event)
        world.cluster.replace(f"{CLASSES}/gpu", {**world.cluster.get(f"{CLASSES}/gpu"), "spec": {"selectors": []}})
        eventually(lambda: world.status("c").get("allocation"))
