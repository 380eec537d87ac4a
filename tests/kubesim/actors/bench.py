"""A simulated cluster at work: actors and kubelet in threads, a driver on real sockets, time 50 times faster."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kubesim import Cluster
from kubesim.actors import ClaimController, Scheduler, TaintEviction, Timing, acting
from kubesim.actors.api import Api
from kubesim.actors.kubelet import Kubelet
from tests.kubesim.actors.driver import NAME, Driver

Object = dict[str, Any]
RESOURCE = "/apis/resource.k8s.io/v1"
NAMESPACE = "/api/v1/namespaces/rec"
NODE = "node-b"
SCALE = 0.02
FAST = replace(Timing().scaled(SCALE), wipe_after_start=0.0)
PATIENCE = 20.0


def eventually(what: str, look: Callable[[], bool], complain: Callable[[], Any] = str) -> None:
    """Raises AssertionError when something does not come about."""
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, f"never {what}: {complain()}"
        time.sleep(0.005)


@dataclass(slots=True, kw_only=True)
class Bench:
    """Everything of one test."""

    cluster: Cluster
    api: Api
    kubelet: Kubelet
    driver: Driver
    root: Path
    cdi: Path
    closing: contextlib.ExitStack

    def publish(self, devices: int = 2, **more: Any) -> None:
        """Slices of the driver, with devices gpu-0 and so on."""
        body = {
            "metadata": {"name": f"{NODE}-slice"},
            "spec": {
                "driver": NAME,
                "nodeName": NODE,
                "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": f"gpu-{number}", **more} for number in range(devices)],
            },
        }
        self.api.create("resourceslices", "", body)

    def slices(self) -> int:
        return len(self.api.all("resourceslices"))

    def add_claim(self, name: str, **asked: Any) -> None:
        exactly = {"deviceClassName": NAME, **asked}
        spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
        self.api.create("resourceclaims", "rec", {"metadata": {"name": name}, "spec": spec})

    def add_pod(self, name: str, *, claim: str | None = None, **spec: Any) -> None:
        """A pod that uses a named claim, or one of its own."""
        source = {"resourceClaimTemplateName": "one-gpu"} if claim is None else {"resourceClaimName": claim}
        body = {
            "terminationGracePeriodSeconds": 1,
            "resourceClaims": [{"name": "gpu", **source}],
            "containers": [{"name": "c", "image": "busybox:1", "resources": {"claims": [{"name": "gpu"}]}}],
            **spec,
        }
        self.cluster.create(f"{NAMESPACE}/pods", {"metadata": {"name": name}, "spec": body})

    def delete_pod(self, name: str, *, force: bool = False) -> None:
        self.cluster.delete(f"{NAMESPACE}/pods/{name}" + ("?gracePeriodSeconds=0" if force else ""))

    def pod(self, name: str) -> Object | None:
        return self.api.find("pods", "rec", name)

    def phase(self, name: str) -> str:
        pod = self.pod(name)
        return "gone" if pod is None else pod["status"]["phase"]

    def until_phase(self, name: str, phase: str) -> None:
        eventually(f"{name} {phase}", lambda: self.phase(name) == phase, lambda: (self.pod(name), self.events()))

    def until_told(self, count: int, driver: Driver | None = None) -> list[str]:
        """Wait until a driver was asked so often to prepare or unprepare."""
        asked = driver or self.driver
        eventually(f"{count} calls", lambda: len(asked.told()) >= count, lambda: (asked.told(), self.events()))
        return asked.told()

    def until_registered(self, times: int = 1, driver: Driver | None = None) -> None:
        asked = driver or self.driver
        wanted = lambda: asked.notices.count("registered True") >= times  # noqa: E731
        eventually("registered", wanted, lambda: asked.notices)

    def events(self, reason: str = "") -> list[str]:
        found = self.cluster.get(f"{NAMESPACE}/events")["items"]
        return [each["message"] for each in found if reason in ("", each["reason"])]

    def claims(self) -> list[Object]:
        return self.api.all("resourceclaims")


@contextlib.contextmanager
def bench(*, release: str = "1.36", timing: Timing = FAST) -> Iterator[Bench]:
    """A node whose driver is not started yet."""
    cluster = Cluster(release, seed=11)
    cluster.create("/api/v1/nodes", {"metadata": {"name": NODE}})
    cluster.create("/api/v1/namespaces", {"metadata": {"name": "rec"}})
    selector = {"cel": {"expression": f"device.driver == '{NAME}'"}}
    api = Api(cluster, "somebody")
    api.create("deviceclasses", "", {"metadata": {"name": NAME}, "spec": {"selectors": [selector]}})
    template = {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": NAME}}]}}}
    api.create("resourceclaimtemplates", "rec", {"metadata": {"name": "one-gpu"}, "spec": template})
    with contextlib.ExitStack() as closing:
        where = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="k-")))  # socket paths must be short
        root, cdi = where / "kubelet", where / "cdi"
        cdi.mkdir()
        kubelet = Kubelet(cluster, NODE, root=root, cdi_directories=(cdi,), timing=timing)
        driver = Driver(root=root, cdi=cdi)
        made = Bench(cluster=cluster, api=api, kubelet=kubelet, driver=driver, root=root, cdi=cdi, closing=closing)
        actors = (ClaimController(cluster), Scheduler(cluster, timing), TaintEviction(cluster, timing))
        closing.enter_context(acting(cluster, *actors))
        closing.callback(driver.stop)
        closing.enter_context(kubelet.running())
        yield made
