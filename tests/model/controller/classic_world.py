"""A classic cluster in memory: the controller is real, its threads too; tests play scheduler, users and nodes."""

import time
from collections.abc import Callable
from typing import Any

import kubesim
from reconciler.controller.node_states import NODE_STATES
from tests.contract_files import REPOSITORY
from tests.model.controller.test_controller import World

GROUP = "/apis/resource.k8s.io"
VERSIONS = {"1.26": "v1alpha1"} | dict.fromkeys(("1.27", "1.28", "1.29", "1.30"), "v1alpha2")
PARAMETERS = "/apis/gpu.dra.intel.com/v1alpha/namespaces/default/gpuclaimparameters"
LATER_PARAMETERS = "/apis/gpu.resource.intel.com/v1alpha2/namespaces/default/gpuclaimparameters"
CRDS = (
    "gpuclaimparameters.gpu.dra.intel.com",
    "deviceclassparameters.gpu.dra.intel.com",
    "gpuclaimparameters.gpu.resource.intel.com",
    "gpuclassparameters.gpu.resource.intel.com",
)
GIB = 2**30


def flex170(bus: int) -> dict[str, Any]:
    """A Flex 170 in a node's inventory."""
    return {
        "name": f"0000-{bus:02x}-00-0-0x56c0",
        "pciAddress": f"0000:{bus:02x}:00.0",
        "pciId": "0x56c0",
        "model": "Flex 170",
        "family": "Data Center Flex",
        "health": "Healthy",
        "driver": "i915",
        "memory": {"bytes": 16 * GIB, "source": "sysfs"},
        "ecc": "off",
        "sriov": {"total": 31, "enabled": 0, "quotas": True},
        "nodes": {"drm": [f"dri/card{bus}", f"dri/renderD{125 + bus}"]},
    }


class ClassicWorld(World):
    """``later``: the classes of the driver's later releases."""

    def __init__(self, release: str = "1.26", *, later: bool = False) -> None:
        super().__init__(release, VERSIONS[release])
        self.schedulings = "podschedulings" if release == "1.26" else "podschedulingcontexts"
        for crd in CRDS:
            self.cluster.load((REPOSITORY / f"deploy/crd/{crd}.yaml").read_text())
        suffix = "" if release == "1.26" else "-v1alpha2"
        classes = f"deploy/classes/classic{'-later' if later else ''}{suffix}.yaml"
        self.cluster.load((REPOSITORY / classes).read_text())

    def path(self, plural: str, name: str = "") -> str:
        return f"{GROUP}/{self.version}/namespaces/default/{plural}" + (f"/{name}" if name else "")

    def make_gpus(self, name: str = "node-1", count: int = 1) -> None:
        """A node with this many GPUs."""
        self.cluster.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        made = {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "metadata": {"name": name}}
        self.cluster.create(NODE_STATES, made)
        self.node_reports(name, devices=[flex170(3 + number) for number in range(count)])

    def node_reports(self, name: str = "node-1", **status: Any) -> None:
        """The node agent has read its spec and has made it so."""
        found = self.cluster.get(f"{NODE_STATES}/{name}")
        given = [
            {
                "name": entry["name"],
                "origin": "claim",
                "phase": "Ready",
                "since": "2026-11-23T00:00:00Z",
                "claim": f"{entry['claimNamespace']}/{entry['claimName']}",
                "devices": [{"device": device["device"]} for device in entry["devices"]],
            }
            for entry in found.get("spec", {}).get("allocations", ())
        ]
        generation = found["metadata"].get("generation", 1)
        report = {"observedGeneration": generation, "bootID": "b", "version": "1", "allocations": given, **status}
        self.cluster.merge(f"{NODE_STATES}/{name}/status", {"status": report})

    def make_parameters(self, name: str, path: str = PARAMETERS, **spec: Any) -> None:
        group, version = path.split("/")[2:4]
        made = {"apiVersion": f"{group}/{version}", "kind": "GpuClaimParameters", "metadata": {"name": name}}
        self.cluster.create(path, {**made, "spec": spec})

    def make_claim(
        self,
        name: str,
        parameters: str = "",
        *,
        mode: str = "WaitForFirstConsumer",
        of: str = "intel-gpu",
        group: str = "gpu.dra.intel.com",
    ) -> str:
        """A ResourceClaim; returns its UID."""
        spec: dict[str, Any] = {"resourceClassName": of, "allocationMode": mode}
        if parameters:
            spec["parametersRef"] = {"apiGroup": group, "kind": "GpuClaimParameters", "name": parameters}
        made = {
            "apiVersion": f"resource.k8s.io/{self.version}",
            "kind": "ResourceClaim",
            "metadata": {"name": name},
        }
        return str(self.cluster.create(self.path("resourceclaims"), {**made, "spec": spec})["metadata"]["uid"])

    def make_pod(self, name: str, *claims: str) -> str:
        """A pod that uses these claims; returns its UID."""
        key = "resourceClaimName"
        spec = {
            "containers": [{"name": "main", "image": "i"}],
            "resourceClaims": [{"name": f"gpu-{one}", "source": {key: one}} for one in claims],
        }
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        return str(self.cluster.create("/api/v1/namespaces/default/pods", made)["metadata"]["uid"])

    def ask(self, pod: str, *potential: str, selected: str = "") -> None:
        """The scheduler asks about nodes for a pod."""
        uid = self.cluster.get(f"/api/v1/namespaces/default/pods/{pod}")["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid, "controller": True}
        kind = "PodScheduling" if self.schedulings == "podschedulings" else "PodSchedulingContext"
        spec: dict[str, Any] = {"potentialNodes": list(potential)} | (
            {"selectedNode": selected} if selected else {}
        )
        self.cluster.create(
            self.path(self.schedulings),
            {
                "apiVersion": f"resource.k8s.io/{self.version}",
                "kind": kind,
                "metadata": {"name": pod, "ownerReferences": [owner]},
                "spec": spec,
            },
        )

    def select(self, pod: str, node: str) -> None:
        self.cluster.merge(self.path(self.schedulings, pod), {"spec": {"selectedNode": node}})

    def answers(self, pod: str) -> dict[str, list[str]]:
        """Unsuitable nodes by the pod's names of claims."""
        status = self.cluster.get(self.path(self.schedulings, pod)).get("status", {})
        return {one["name"]: one.get("unsuitableNodes", []) for one in status.get("resourceClaims", ())}

    def claim(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.get(self.path("resourceclaims", name))
        return found

    def is_gone(self, name: str) -> bool:
        """Whether there is no such claim."""
        try:
            self.claim(name)
        except kubesim.Refusal as refusal:
            return refusal.code == 404
        return False

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.claim(name).get("status", {})
        return found

    def node_of(self, name: str) -> str:
        """Where a claim is allocated; empty if it isn't."""
        allocation = self.status(name).get("allocation")
        if allocation is None:
            return ""
        (term,) = allocation["availableOnNodes"]["nodeSelectorTerms"]
        (node,) = term["matchFields"][0]["values"]
        return str(node)

    def ledger(self, node: str = "node-1") -> dict[str, list[str]]:
        """Devices by claim, as they stand in a node's spec."""
        spec = self.cluster.get(f"{NODE_STATES}/{node}").get("spec", {})
        return {
            entry["claimName"]: [device["device"] for device in entry["devices"]]
            for entry in spec.get("allocations", ())
        }


def never(happens: Callable[[], object], seconds: float = 0.3) -> None:
    """Fail if it comes to that within a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert not happens()
        time.sleep(0.02)
