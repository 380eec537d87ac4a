"""The controller with all its threads, on a simulated API server in memory: what it does, and that it ends."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import kubesim
from kubesim import Fault, Rule
from reconciler.controller.controller import Controller, ControllerSettings
from reconciler.controller.controller_metrics import DECLARED
from reconciler.controller.front_ends import GROUP
from reconciler.controller.node_states import NODE_STATES
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import error_of
from reconciler.runtime.kube.transport import Request, Response, Stream
from reconciler.runtime.metrics import NoMetrics
from tests.contract_files import REPOSITORY
from tests.kube_in_memory import InMemory
from tests.unit.state.dra.objects import PF, table

CLAIMS = "/apis/resource.k8s.io/{version}/namespaces/default/resourceclaims"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/gpu-controller"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


NOT_SERVED = Response(status=404, headers={"content-type": "text/plain"}, body=b"404 page not found")


class World:
    """A cluster with one node that has reported."""

    def __init__(self, release: str = "1.36", version: str = "v1") -> None:
        self.version = version
        self.cluster = kubesim.Cluster(release, seed=1)
        self.cluster.load((REPOSITORY / "deploy/crd/gpunodestates.gpu.dra.intel.com.yaml").read_text())
        self.crashes: list[BaseException] = []

    def make_node(self, name: str = "node-1") -> None:
        made = {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "metadata": {"name": name}}
        self.cluster.create(NODE_STATES, made)
        self.report(name)

    def report(self, name: str = "node-1", **status: Any) -> None:
        reported = {"observedGeneration": 1, "bootID": "b", "version": "1", **status}
        self.cluster.merge(f"{NODE_STATES}/{name}/status", {"status": reported})

    def claims(self) -> str:
        return CLAIMS.format(version=self.version)

    def allocate(self, name: str, device: str = f"{PF}-m4", **more: Any) -> str:
        """Make a claim and allocate it; returns its UID."""
        request: dict[str, Any] = {"name": "gpu", "deviceClassName": "vf.gpu.intel.com"}
        if self.version in ("v1", "v1beta2"):
            request = {"name": "gpu", "exactly": {"deviceClassName": "vf.gpu.intel.com"}}
        claim = self.cluster.create(
            self.claims(),
            {
                "apiVersion": f"resource.k8s.io/{self.version}",
                "kind": "ResourceClaim",
                "metadata": {"name": name},
                "spec": {"devices": {"requests": [request]}},
            },
        )
        result = {"request": "gpu", "driver": "gpu.intel.com", "pool": "node-1", "device": device, **more}
        allocation = {"devices": {"results": [result]}}
        self.cluster.merge(f"{self.claims()}/{name}/status", {"status": {"allocation": allocation}})
        return str(claim["metadata"]["uid"])

    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.cluster.get(f"{NODE_STATES}/node-1").get("spec", {})
        return spec

    def entries(self) -> dict[str, Any]:
        return {entry["claimName"]: entry for entry in self.spec().get("allocations", ())}

    @contextmanager
    def controller(self, identity: str = "one", over: InMemory | None = None) -> Iterator[Controller]:
        controller = Controller(
            KubeClient(over or InMemory(self.cluster)),
            table(),
            ControllerSettings(lease_namespace="default", identity=identity, workers=2),
            metrics=NoMetrics(DECLARED),
            on_crash=self.crashes.append,
            clock=time.monotonic,
            rng=random.Random(1),
        )
        controller.start()
        try:
            yield controller
        finally:
            controller.stop()
            assert self.crashes == []


class Upgraded(InMemory):
    """The cluster as seen through a server that serves one version of resource.k8s.io only, and then another."""

    def __init__(self, cluster: kubesim.Cluster, version: str) -> None:
        super().__init__(cluster)
        self.version = version

    def send(self, request: Request) -> Response:
        if request.path == f"/apis/{GROUP}":
            return Response(status=200, body=json.dumps({"versions": [{"version": self.version}]}).encode())
        return NOT_SERVED if self._hidden(request) else super().send(request)

    @contextmanager
    def stream(self, request: Request) -> Iterator[Stream]:
        if self._hidden(request):
            raise error_of(NOT_SERVED, request)
        with super().stream(request) as stream:
            yield stream

    def _hidden(self, request: Request) -> bool:
        return request.path.startswith(f"/apis/{GROUP}/") and self.version not in request.path.split("/")


def eventually(holds: Callable[[], object]) -> None:
    """Wait until it holds, or fail: the time-out is far beyond anything expected."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        threading.Event().wait(0.01)


@pytest.mark.parametrize(
    ("release", "version"), [("1.36", "v1"), ("1.34", "v1"), ("1.33", "v1beta2"), ("1.32", "v1beta1")]
)
def test_claims_come_and_go_in_every_version(release: str, version: str) -> None:
    world = World(release, version)
    world.make_node()
    world.allocate("before")
    with world.controller():
        eventually(lambda: world.entries().keys() == {"before"})
        world.allocate("later")
        eventually(lambda: world.entries().keys() == {"before", "later"})
        world.cluster.delete(f"{world.claims()}/before")
        eventually(lambda: world.entries().keys() == {"later"})
        assert world.entries()["later"]["source"] == f"resource.k8s.io/{version}"
        assert world.entries()["later"]["devices"][0]["virtualFunction"] == {"profile": "flex170_m4", "index": 1}


def test_nothing_is_ready_before_all_has_been_listed() -> None:
    world = World()
    world.cluster.add_fault(Rule(fault=Fault.INTERNAL, method="GET", path="resourceclaims"))
    with world.controller() as controller:
        eventually(lambda: "claims have not been listed yet" in controller.not_ready())
        world.cluster.clear_faults()
        eventually(lambda: controller.not_ready() == "")


def test_a_cluster_without_claims_is_waited_for() -> None:
    world = World()
    with world.controller(over=Upgraded(world.cluster, "v9")) as controller:
        eventually(lambda: "claims can't be watched" in controller.not_ready())


def test_a_refusal_is_told_to_the_claims_owner() -> None:
    world = World()
    world.make_node()
    with world.controller():
        uid = world.allocate("odd", "gpu-0")
        eventually(lambda: world.cluster.get(EVENTS)["items"])
        (event,) = world.cluster.get(EVENTS)["items"]
    assert (event["regarding"]["uid"], event["reason"], event["type"]) == (uid, "AllocationRefused", "Warning")
    assert "'gpu-0'" in event["note"]


def test_a_withdrawal_is_confirmed_after_a_list() -> None:
    world = World()
    world.make_node()
    world.allocate("a")
    with world.controller():
        world.report(withdrawn={f"{PF}-m4": "t1", f"{PF}-m2": "t2"})
        eventually(lambda: world.spec().get("withdrawalsConfirmed") == {f"{PF}-m2": "t2"})
    lists = [logged for logged in world.cluster.requests if logged.request.path.endswith("/v1/resourceclaims")]
    assert any("resourceVersion" not in dict(logged.request.query) for logged in lists)


def test_a_lost_object_is_adopted_with_the_indexes_on_the_node() -> None:
    world = World()
    world.make_node()
    with world.controller():
        uids = [world.allocate(name) for name in ("a", "b", "c")]
        eventually(lambda: len(world.entries()) == 3)
        world.cluster.delete(f"{NODE_STATES}/node-1")
        made = {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "metadata": {"name": "node-1"}}
        world.cluster.create(NODE_STATES, made)
        device = {"device": f"{PF}-m4-vf3", "profile": "flex170_m4", "request": "gpu"}
        since = "2026-11-23T12:00:00Z"
        held = {"name": uids[0], "origin": "claim", "claim": "default/a", "phase": "Ready", "since": since}
        world.report(allocations=[{**held, "devices": [device]}])
        eventually(lambda: len(world.entries()) == 3)
        indexes = {
            name: entry["devices"][0]["virtualFunction"]["index"] for name, entry in world.entries().items()
        }
    assert indexes["a"] == 3
    assert sorted(indexes.values()) == [0, 1, 3]


def test_a_standby_does_what_the_leader_leaves_undone() -> None:
    world = World()
    world.make_node()
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "gpu-controller"}}
    spec = {"holderIdentity": "somebody", "leaseDurationSeconds": 3600, "renewTime": "2026-11-23T12:00:00.000000Z"}
    world.cluster.create(LEASE.rsplit("/", 1)[0], {**lease, "spec": spec})
    with world.controller():
        world.allocate("a")
        eventually(lambda: world.entries().keys() == {"a"})
    looks = [logged for logged in world.cluster.requests if logged.request.path.endswith("/resourceclaims/a")]
    assert looks, "a standby trusts no cache"


def test_two_replicas_through_faults_leave_nothing_behind() -> None:
    world = World()
    world.make_node()
    with world.controller("one"), world.controller("two"):
        for fault in (Fault.CONFLICT, Fault.INTERNAL, Fault.DROPPED, Fault.UNAVAILABLE):
            world.cluster.add_fault(Rule(fault=fault, probability=0.2, count=10))
        for number in range(4):
            world.allocate(f"c{number}")
            world.cluster.drop_watches()
        eventually(lambda: len(world.entries()) == 4)
        for number in range(3):
            world.cluster.delete(f"{world.claims()}/c{number}")
            world.cluster.drop_watches()
        eventually(lambda: world.entries().keys() == {"c3"})
        numbers = [entry["devices"][0]["virtualFunction"]["index"] for entry in world.entries().values()]
    assert len(numbers) == 1


def test_the_lease_is_given_back_at_the_end() -> None:
    world = World()
    with world.controller():
        eventually(lambda: world.cluster.get(LEASE.rsplit("/", 1)[0])["items"])
    assert world.cluster.get(LEASE)["spec"]["holderIdentity"] == ""


def test_a_version_that_is_served_no_more_gives_way_to_another() -> None:
    world = World()
    world.make_node()
    server = Upgraded(world.cluster, "v1beta1")
    with world.controller(over=server):
        kept = world.allocate("kept")
        world.allocate("dropped")
        eventually(lambda: world.entries().keys() == {"kept", "dropped"})
        assert world.entries()["kept"]["source"] == "resource.k8s.io/v1beta1"
        server.version = "v1"
        world.cluster.drop_watches("resourceclaims")
        world.cluster.delete(f"{world.claims()}/dropped")
        eventually(lambda: world.entries().keys() == {"kept"})
        world.allocate("new")
        eventually(lambda: world.entries().keys() == {"kept", "new"})
        assert world.entries()["new"]["source"] == "resource.k8s.io/v1"
        assert world.entries()["kept"]["name"] == kept
        assert world.entries()["kept"]["source"] == "resource.k8s.io/v1beta1"
