"""A classic simulated cluster at work: actors, kubelet and a driver's controller in threads, 50 times faster."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubesim import Cluster, Refusal
from kubesim.actors import Timing, acting, control_plane
from kubesim.actors.api import Api, deleting
from kubesim.actors.kubelet import Kubelet
from tests.kubesim.actors.bench import FAST, NAMESPACE, NODE, Bench, Object
from tests.kubesim.actors.driver import NAME, Driver

FINALIZER = f"{NAME}/deletion-protection"
GENERIC = ("1.0.0",)


class Controller:
    """The drivers' controller. It has devices for everybody on every node, but for those named in `unsuitable`."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = Api(cluster, "controller of the drivers")
        self._minor = cluster.release.minor
        self._schedulings = "podschedulings" if self._minor == 26 else "podschedulingcontexts"
        self.unsuitable: set[str] = set()

    def step(self) -> float | None:
        """Answer, allocate and deallocate; only a change gives more."""
        with contextlib.suppress(Refusal):  # what changed meanwhile is looked at in the next step
            for claim in self._api.all("resourceclaims"):
                self._see_to(claim)
            for scheduling in self._api.all(self._schedulings):
                self._answer(scheduling)
        return None

    def _see_to(self, claim: Object) -> None:
        status, spec = claim.get("status") or {}, claim["spec"]
        unwanted = deleting(claim) or status.get("deallocationRequested")
        if unwanted and not status.get("reservedFor"):
            gone = {"allocation": None, "driverName": None, "deallocationRequested": None}
            claim = self._api.patch("resourceclaims", claim, {"status": gone}, "status") if status else claim
            if claim["metadata"].get("finalizers"):
                self._api.patch("resourceclaims", claim, {"metadata": {"finalizers": None}})
        elif "allocation" not in status and spec.get("allocationMode") == "Immediate":
            self._allocate(claim, NODE, [])

    def _answer(self, scheduling: Object) -> None:
        """Say what is unsuitable, then allocate for the selected node."""
        meta, spec = scheduling["metadata"], scheduling["spec"]
        pod = self._api.find("pods", meta["namespace"], meta["name"])
        if pod is None:
            return
        names = {each["name"]: self._claim_name(pod, each) for each in pod["spec"]["resourceClaims"]}
        nodes = sorted(self.unsuitable & set(spec["potentialNodes"]))
        said = [{"name": name, **({"unsuitableNodes": nodes} if nodes else {})} for name in names]
        if (scheduling.get("status") or {}).get("resourceClaims") != said:
            self._api.patch(self._schedulings, scheduling, {"status": {"resourceClaims": said}}, "status")
        elif spec.get("selectedNode", *nodes[:1]) not in self.unsuitable and "selectedNode" in spec:
            user = {"resource": "pods", "name": meta["name"], "uid": pod["metadata"]["uid"]}
            for name in names.values():
                claim = self._api.find("resourceclaims", meta["namespace"], name)
                if claim is not None and "allocation" not in claim["status"]:
                    self._allocate(claim, spec["selectedNode"], [user])

    def _claim_name(self, pod: Object, entry: Object) -> str:
        source = entry.get("source") or entry
        made = {each["name"]: each["resourceClaimName"] for each in pod["status"].get("resourceClaimStatuses", ())}
        generated = made.get(entry["name"]) or f"{pod['metadata']['name']}-{entry['name']}"
        name: str = source.get("resourceClaimName") or generated
        return name

    def _driver(self, claim: Object) -> str:
        """The driver of a claim's class."""
        resource_class = self._api.find("resourceclasses", "", claim["spec"].get("resourceClassName", ""))
        driver: str = NAME if resource_class is None else resource_class["driverName"]
        return driver

    def _allocate(self, claim: Object, node: str, users: list[Object]) -> None:
        claim = self._api.patch("resourceclaims", claim, {"metadata": {"finalizers": [FINALIZER]}})
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        selector = {"nodeSelectorTerms": [term]}
        handle = f"handle of {claim['metadata']['name']}"
        driver = self._driver(claim)
        status: Object = {"driverName": driver, "reservedFor": users}
        if self._minor == 26:
            status["allocation"] = {"resourceHandle": handle, "availableOnNodes": selector, "shareable": True}
        elif self._minor <= 30:
            handles = [{"driverName": driver, "data": handle}]
            status["allocation"] = {"resourceHandles": handles, "availableOnNodes": selector, "shareable": True}
        else:
            result = {"request": "gpu", "driver": NAME, "pool": node, "device": "gpu-0"}
            status = {"reservedFor": users}
            status["allocation"] = {"controller": NAME, "devices": {"results": [result]}, "nodeSelector": selector}
        self._api.patch("resourceclaims", claim, {"status": status}, "status")


class ClassicBench(Bench):
    """A bench with the objects of classic releases."""

    __slots__ = ()

    def add_claim(self, name: str, **asked: Any) -> None:
        self.api.create(
            "resourceclaims", "rec", {"metadata": {"name": name}, "spec": claim_spec(self.minor, **asked)}
        )

    def add_pod(
        self, name: str, *, claim: str | None = None, entries: tuple[str, ...] = ("gpu",), **spec: Any
    ) -> None:
        """A pod of two containers that use a named claim each entry, or one of its own."""
        source = {"resourceClaimTemplateName": "one-gpu"} if claim is None else {"resourceClaimName": claim}
        named = {"source": source} if self.minor <= 30 else source
        uses = {"claims": [{"name": each} for each in entries]}
        body = {
            "resourceClaims": [{"name": each, **named} for each in entries],
            "containers": [{"name": each, "image": "busybox:1", "resources": uses} for each in ("c0", "c1")],
            **spec,
        }
        self.cluster.create(f"{NAMESPACE}/pods", {"metadata": {"name": name}, "spec": body})

    @property
    def minor(self) -> int:
        return self.cluster.release.minor


def claim_spec(minor: int, mode: str = "WaitForFirstConsumer") -> Object:
    """A claim for one device of the driver."""
    if minor <= 30:
        return {"resourceClassName": "rec", "allocationMode": mode}
    request = {"name": "gpu", "exactly": {"deviceClassName": "rec"}}
    return {"controller": NAME, "devices": {"requests": [request]}}


@contextlib.contextmanager
def classic_bench(release: str = "1.26", *, timing: Timing = FAST) -> Iterator[ClassicBench]:
    """A node whose driver is not started yet; its controller is at work."""
    cluster = Cluster(release, classic=True, seed=11)
    api = Api(cluster, "somebody")
    minor = cluster.release.minor
    for name, labels in ((NODE, {"spare": "no"}), ("node-a", {"spare": "yes"})):
        cluster.create("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    cluster.create("/api/v1/namespaces", {"metadata": {"name": "rec"}})
    if minor <= 30:
        api.create("resourceclasses", "", {"metadata": {"name": "rec"}, "driverName": NAME})
    else:
        api.create("deviceclasses", "", {"metadata": {"name": "rec"}, "spec": {}})
    template = {"metadata": {"name": "one-gpu"}, "spec": {"spec": claim_spec(minor)}}
    api.create("resourceclaimtemplates", "rec", template)
    controller = Controller(cluster)
    controller.unsuitable.add("node-a")
    with contextlib.ExitStack() as closing:
        where = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="k-")))  # socket paths must be short
        root, cdi = where / "kubelet", where / "cdi"
        cdi.mkdir()
        kubelet = Kubelet(cluster, NODE, root=root, cdi_directories=(cdi,), timing=timing)
        driver = Driver(root=root, cdi=cdi, versions=GENERIC, plain=minor <= 30)
        made = ClassicBench(
            cluster=cluster, api=api, kubelet=kubelet, driver=driver, root=root, cdi=cdi, closing=closing
        )
        closing.enter_context(acting(cluster, *control_plane(cluster, timing), controller))
        closing.callback(driver.stop)
        closing.enter_context(kubelet.running())
        yield made
