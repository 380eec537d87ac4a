"""Kubernetes 1.26 in memory: the simulated API server, nodes on paper, and a scheduler that asks for many pods.

Whoever plays scheduler, node agents and users writes straight into the server, without HTTP, and hears of writes
as they happen: the times are those at which the API server had it.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import kubesim
from hack.bench.staff import REPOSITORY
from kubesim.store import Change, Step

GPUS = 8
PATIENCE = 30.0
NODE_STATES = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates"

_CLASSIC = "/apis/resource.k8s.io/v1alpha1/namespaces/default"
_CLAIMS = f"{_CLASSIC}/resourceclaims"
_SCHEDULINGS = f"{_CLASSIC}/podschedulings"
_PARAMETERS = "/apis/gpu.dra.intel.com/v1alpha/namespaces/default/gpuclaimparameters"
_NODES_LOOK = 0.02  # seconds: node agents wait as long for more news before they report

_SWITCH = 0.0005  # seconds

_GIB = 2**30
_MANIFESTS = (
    "crd/gpunodestates.gpu.dra.intel.com.yaml",
    "crd/gpuclaimparameters.gpu.dra.intel.com.yaml",
    "crd/deviceclassparameters.gpu.dra.intel.com.yaml",
    "classes/classic.yaml",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A pod of one claim for the scheduler: ``type`` of device, the node it would take, and those it could."""

    name: str
    type: str
    selected: str = ""
    potential: Sequence[str] = ()


class ClassicTown:
    """A cluster of ``nodes`` nodes with eight Flex 170 each. One thread at a time may ask for pods."""

    def __init__(self, nodes: int) -> None:
        self.cluster = kubesim.Cluster("1.26", seed=1)
        self.nodes = tuple(f"node-{number:05}" for number in range(nodes))
        self._adopted: set[str] = set()
        self._changed: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._allocated: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._answered: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._gone: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._fill()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Node agents at work, and somebody who notes what happens."""
        tables = {"resourceclaims": self._claim_changed, "podschedulings": self._scheduling_changed}
        with self.cluster.unobserved() as state:
            stops = [state.store.listen(("resource.k8s.io", name), told) for name, told in tables.items()]
            stops.append(state.store.listen(("gpu.dra.intel.com", "gpunodestates"), self._node_changed))
        agents = threading.Thread(target=self._run_agents, name="node agents", daemon=True)
        agents.start()
        before = sys.getswitchinterval()
        sys.setswitchinterval(
            _SWITCH
        )  # elsewhere these are processes, which don't keep the API server from answering
        try:
            yield
        finally:
            sys.setswitchinterval(before)
            self._changed.put(None)
            agents.join()
            for stop in stops:
                stop()

    def until_adopted(self) -> None:
        """Wait until the controller has taken over every node. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE
        while len(self._adopted) < len(self.nodes):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self._adopted)} of {len(self.nodes)} nodes are the controller's")
            time.sleep(0.01)

    def make_pods(self, asks: Iterable[Ask]) -> None:
        """Pods, and the claims that are made of their templates, as the scheduler finds them."""
        for ask in asks:
            self._make_pod(ask)

    def negotiate(self, asks: Sequence[Ask], *, in_flight: int) -> tuple[float, list[float]]:
        """Have the scheduler ask for pods, so many at a time, until their claims are allocated.

        Returns the seconds it took for all, and for each pod those from the question until the allocation.
        """
        asked: dict[str, float] = {}
        began, took = time.perf_counter(), []
        waiting = list(reversed(asks))
        while waiting or asked:
            while waiting and len(asked) < in_flight:
                ask = waiting.pop()
                asked[ask.name] = time.perf_counter()
                self._ask(ask)
            name, at = self._allocated.get(timeout=PATIENCE)
            took.append(at - asked.pop(name))
            self.forget(name)
        return time.perf_counter() - began, took

    def question(self, ask: Ask) -> float:
        """Ask about nodes without choosing one; seconds until the answer is there."""
        while not self._answered.empty():
            self._answered.get()
        began = time.perf_counter()
        self._ask(ask)
        while True:
            name, at = self._answered.get(timeout=PATIENCE)
            if name == ask.name:
                return at - began

    def forget(self, name: str) -> None:
        """The pod is bound, or given up: the scheduler has no more questions."""
        self.cluster.delete(f"{_SCHEDULINGS}/{name}")

    def delete_pods(self, names: Sequence[str], *, in_flight: int) -> tuple[float, list[float]]:
        """Pods end and their claims are deleted, so many at a time; seconds for all, and until each is gone."""
        asked: dict[str, float] = {}
        began, took = time.perf_counter(), []
        waiting = list(reversed(names))
        while waiting or asked:
            while waiting and len(asked) < in_flight:
                name = waiting.pop()
                self.cluster.merge(f"{_CLAIMS}/{name}-gpu/status", {"status": {"reservedFor": None}})
                asked[name] = time.perf_counter()
                self.cluster.delete(f"{_CLAIMS}/{name}-gpu")
            name, at = self._gone.get(timeout=PATIENCE)
            took.append(at - asked.pop(name))
        return time.perf_counter() - began, took

    def _fill(self) -> None:
        for manifest in _MANIFESTS:
            self.cluster.load((REPOSITORY / "deploy" / manifest).read_text())
        for node in self.nodes:
            self.cluster.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
            made = {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "metadata": {"name": node}}
            self.cluster.create(NODE_STATES, made)
            self._report(node)
        for name in ("gpu", "vf"):
            kind = {"apiVersion": "gpu.dra.intel.com/v1alpha", "kind": "GpuClaimParameters"}
            self.cluster.create(
                _PARAMETERS, {**kind, "metadata": {"name": name}, "spec": {"count": 1, "type": name}}
            )

    def _make_pod(self, ask: Ask) -> None:
        source = {"resourceClaimTemplateName": ask.type}
        spec = {
            "containers": [{"name": "main", "image": "i"}],
            "resourceClaims": [{"name": "gpu", "source": source}],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": ask.name}, "spec": spec}
        uid = self.cluster.create("/api/v1/namespaces/default/pods", pod)["metadata"]["uid"]
        reference = {"apiGroup": "gpu.dra.intel.com", "kind": "GpuClaimParameters", "name": ask.type}
        claim = {
            "apiVersion": "resource.k8s.io/v1alpha1",
            "kind": "ResourceClaim",
            "metadata": {"name": f"{ask.name}-gpu", "ownerReferences": [_owner(ask.name, uid)]},
            "spec": {"resourceClassName": "intel-gpu", "parametersRef": reference},
        }
        self.cluster.create(_CLAIMS, claim)

    def _ask(self, ask: Ask) -> None:
        uid = self.cluster.get(f"/api/v1/namespaces/default/pods/{ask.name}")["metadata"]["uid"]
        spec: dict[str, object] = {"potentialNodes": list(ask.potential)}
        if ask.selected:
            spec["selectedNode"] = ask.selected
        body = {
            "apiVersion": "resource.k8s.io/v1alpha1",
            "kind": "PodScheduling",
            "metadata": {"name": ask.name, "ownerReferences": [_owner(ask.name, uid)]},
            "spec": spec,
        }
        self.cluster.create(_SCHEDULINGS, body)

    def _claim_changed(self, change: Change) -> None:
        name = change.key[1].removesuffix("-gpu")
        if change.step is Step.DELETED:
            self._gone.put((name, time.perf_counter()))
        elif _allocation(change.current) and not _allocation(change.previous):
            self._allocated.put((name, time.perf_counter()))

    def _scheduling_changed(self, change: Change) -> None:
        if change.step is Step.MODIFIED and (change.current.get("status") or {}).get("resourceClaims"):
            self._answered.put((change.key[1], time.perf_counter()))

    def _node_changed(self, change: Change) -> None:
        before = change.previous or {"metadata": {}}
        if change.current["metadata"].get("generation") != before["metadata"].get("generation"):
            self._changed.put(change.key[1])
            if (change.current.get("spec") or {}).get("adoptedUID"):
                self._adopted.add(change.key[1])

    def _run_agents(self) -> None:
        """Every node reports what its spec says as done, a moment after that has changed."""
        while (first := self._changed.get()) is not None:
            time.sleep(_NODES_LOOK)
            names = {first}
            while not self._changed.empty():
                name = self._changed.get()
                if name is None:
                    return
                names.add(name)
            for name in names:
                self._report(name)

    def _report(self, name: str) -> None:
        state = self.cluster.get(f"{NODE_STATES}/{name}")
        entries = state.get("spec", {}).get("allocations", ())
        status = {
            "observedGeneration": state["metadata"].get("generation", 1),
            "bootID": "b",
            "version": "1",
            "allocations": [_ready(entry) for entry in entries],
            "devices": [_flex170(3 + number, entries) for number in range(GPUS)],
        }
        self.cluster.merge(f"{NODE_STATES}/{name}/status", {"status": status})


def _owner(pod: str, uid: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid, "controller": True}


def _allocation(claim: dict[str, Any] | None) -> object:
    return ((claim or {}).get("status") or {}).get("allocation")


def _ready(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": entry["name"],
        "origin": "claim",
        "phase": "Ready",
        "since": "2026-11-23T00:00:00Z",
        "claim": f"{entry['claimNamespace']}/{entry['claimName']}",
        "devices": [{"device": device["device"]} for device in entry["devices"]],
    }


def _flex170(bus: int, entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A Flex 170 in the inventory, split as those who have VFs of it want."""
    name = f"0000-{bus:02x}-00-0-0x56c0"
    devices = (device for entry in entries for device in entry["devices"] if device["physicalFunction"] == name)
    split = next((device["virtualFunction"]["profile"] for device in devices if "virtualFunction" in device), "")
    sriov: dict[str, Any] = {"total": 31, "enabled": 0, "quotas": True}
    if split:
        count = int(split.rsplit("_m", 1)[1])
        sriov |= {"enabled": count, "layout": split, "owner": "driver"}
    return {
        "name": name,
        "pciAddress": f"0000:{bus:02x}:00.0",
        "pciId": "0x56c0",
        "model": "Flex 170",
        "family": "Data Center Flex",
        "health": "Healthy",
        "driver": "i915",
        "memory": {"bytes": 16 * _GIB, "source": "sysfs"},
        "ecc": "off",
        "sriov": sriov,
        "nodes": {"drm": [f"dri/card{bus}", f"dri/renderD{125 + bus}"]},
    }
