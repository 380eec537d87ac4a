"""A publisher on a simulated API server, with a clock that only moves when it has to wait."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace as with_fields
from typing import Any

import kubesim
from reconciler.node.slice_publisher import SlicePublisher, SliceSettings
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.transport import Request, Response
from state.manifest import Policy, Spec
from state.server_info import ServerInfo
from state.status import NodeStatus
from tests.kube_in_memory import InMemory
from tests.slices.machines import tables
from tests.slices.shown import ShownMetrics

NODE = "node-a"
DRIVER = "gpu.intel.com"
PATIENCE = 10.0
_WHILE = 100.0

FIELDS = {
    "taints": ("taints",),
    "counters": ("consumesCounters", "sharedCounters"),
    "sharing": ("allowMultipleAllocations", "requestPolicy"),
    "binding": ("bindingConditions", "bindingFailureConditions", "bindsToNode"),
}
"""What a server drops whose feature is off."""


class Gated(InMemory):
    """A server some of whose features are off: it drops their fields from slices without a word."""

    def __init__(self, cluster: kubesim.Cluster, *off: str) -> None:
        super().__init__(cluster)
        self.off = set(off)
        self.minor: str | None = None
        self.honest_trials = True

    def upgrade(self, cluster: kubesim.Cluster) -> None:
        """Another server takes the place of this one."""
        self._cluster = cluster

    def send(self, request: Request) -> Response:
        dropped = {name for feature in self.off for name in FIELDS[feature]}
        is_trial = ("dryRun", "All") in request.query
        is_write = "resourceslices" in request.path and request.method in ("POST", "PUT")
        if dropped and is_write and (self.honest_trials or not is_trial):
            request = with_fields(request, body=json.dumps(_without(json.loads(request.body), dropped)).encode())
        answer = super().send(request)
        if request.path == "/version" and self.minor is not None:
            body = json.loads(answer.body) | {"minor": self.minor}
            return with_fields(answer, body=json.dumps(body).encode())
        return answer


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(each, names) for name, each in value.items() if name not in names}
    return [_without(each, names) for each in value] if isinstance(value, list) else value


class Scene:
    """One node. ``registered`` is whether its kubelet plugin is."""

    def __init__(self, release: str = "1.36", *off: str, minor: str | None = None, classic: bool = False) -> None:
        self.cluster = kubesim.Cluster(release, seed=1, classic=classic)
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self.cluster.create("/api/v1/nodes", node)
        self.transport = Gated(self.cluster, *off)
        self.transport.minor = minor
        self.now = 1000.0
        self.metrics = ShownMetrics()
        self.registered = True
        self.found: list[ServerInfo] = []
        self.crashes: list[BaseException] = []
        self.woken = threading.Event()
        self.publisher = self._publisher({})

    def _publisher(self, shown: dict[str, str]) -> SlicePublisher:
        return SlicePublisher(
            KubeClient(self.transport, retries=NO_RETRIES),
            SliceSettings(node=NODE, table=tables().profiles, registered=lambda _: self.registered),
            wake=self.woken.set,
            server_found=self.found.append,
            metrics=self.metrics,
            on_crash=self.crashes.append,
            clock=lambda: self.now,
            rng=random.Random(len(self.cluster.requests)),
            shown=shown,
        )

    def restart(self, shown: dict[str, str] | None = None) -> None:
        self.publisher.stop()
        self.publisher = self._publisher(shown or {})

    def offer(self, status: NodeStatus, spec: Spec | None = None, **policy: Any) -> None:
        self.publisher.offer(status, spec or Spec(policy=Policy(**policy)))

    def settle(self) -> None:
        """Step until nothing is done any more, and the watch has told of all that was."""
        deadline = time.monotonic() + PATIENCE
        quiet = 0
        while quiet < 3:
            assert time.monotonic() < deadline, "it never comes to rest"
            before = len(self.cluster.requests)
            self.woken.clear()
            wait = self.publisher.step()
            if len(self.cluster.requests) == before and (wait is None or wait > _WHILE):
                quiet += 1
                self.woken.wait(0.002)
            else:
                quiet = 0
                if wait is not None and wait <= _WHILE:
                    self.now += wait
                    time.sleep(0.0005)
        assert self.crashes == []

    def wipe(self) -> None:
        """The kubelet deletes the driver's slices."""
        self.woken.clear()
        slices = self.slices()
        for each in slices:
            self.cluster.delete(f"{self.path}/{each['metadata']['name']}")
        if slices and self.publisher.row is not None:
            assert self.woken.wait(PATIENCE)
            time.sleep(0.002)

    @property
    def path(self) -> str:
        row = self.publisher.row or self.found[-1].row
        return f"/apis/resource.k8s.io/{row}/resourceslices"

    def slices(self) -> list[dict[str, Any]]:
        items = self.cluster.get(self.path)["items"]
        assert isinstance(items, list)
        return sorted(items, key=lambda each: each["metadata"]["name"])

    def devices(self) -> dict[str, dict[str, Any]]:
        """Published devices by name."""
        found = (each for slice in self.slices() for each in slice["spec"].get("devices", ()))
        return {each["name"]: each.get("basic", each) for each in found}

    def writes(self) -> list[str]:
        """Writes to slices so far, without trials."""
        return [
            f"{each.request.method} {each.request.path.rpartition('/')[2]}"
            for each in self.cluster.requests
            if each.request.method in ("POST", "PUT", "DELETE")
            and "resourceslices" in each.request.path
            and ("dryRun", "All") not in each.request.query
        ]


@contextmanager
def scene(release: str = "1.36", *off: str, minor: str | None = None, classic: bool = False) -> Iterator[Scene]:
    made = Scene(release, *off, minor=minor, classic=classic)
    try:
        yield made
    finally:
        made.publisher.stop()
