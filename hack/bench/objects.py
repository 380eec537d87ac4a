"""The API objects of a measurement, and what is the case of them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hack.bench.timeline import Facts, JsonObject

DRIVER = "gpu.intel.com"
NODE_STATES = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates"
RESOURCE = "/apis/resource.k8s.io/v1"
LABEL = "gpu-bench"

IMAGE = "registry.k8s.io/pause:3.10"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What pods run, and the node that they are sent to, if any, by a selector: they are for the scheduler."""

    image: str = IMAGE
    node: str = ""


def claims_path(namespace: str) -> str:
    return f"{RESOURCE}/namespaces/{namespace}/resourceclaims"


def templates_path(namespace: str) -> str:
    return f"{RESOURCE}/namespaces/{namespace}/resourceclaimtemplates"


def pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def claim_spec(device_class: str, *, memory: str = "", selector: str = "") -> JsonObject:
    """The spec of a claim for one device."""
    exactly: JsonObject = {"deviceClassName": device_class}
    if memory:
        exactly["capacity"] = {"requests": {"memory": memory}}
    if selector:
        exactly["selectors"] = [{"cel": {"expression": selector}}]
    return {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}


def claim(name: str, spec: JsonObject) -> bytes:
    return _encode("resource.k8s.io/v1", "ResourceClaim", name, {"spec": spec})


def template(name: str, spec: JsonObject) -> bytes:
    return _encode("resource.k8s.io/v1", "ResourceClaimTemplate", name, {"spec": {"spec": spec}})


def pod(name: str, template_name: str | None, look: Look) -> bytes:
    """A pod that does nothing, with a claim of its own if a template is named."""
    container: JsonObject = {"name": "main", "image": look.image}
    spec: JsonObject = {
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
    }
    if look.node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": look.node}
    if template_name is not None:
        spec["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": template_name}]
        container["resources"] = {"claims": [{"name": "gpu"}]}
    return _encode("v1", "Pod", name, {"spec": spec})


def allocation(node: str, device: str) -> bytes:
    """What a scheduler writes into a claim's status for a whole GPU."""
    result = {"request": "gpu", "driver": DRIVER, "pool": node, "device": device}
    fields = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    selector = {"nodeSelectorTerms": [{"matchFields": fields}]}
    allocated = {"devices": {"results": [result], "config": []}, "nodeSelector": selector}
    return json.dumps({"status": {"allocation": allocated}}).encode()


def facts_of_claim(claim: JsonObject, there: bool) -> Facts:
    """Of a claim, by name: there, its UID, allocated."""
    words = ["there", f"uid {claim['metadata']['uid']}"] if there else []
    if there and claim.get("status", {}).get("allocation"):
        words.append("allocated")
    return {f"claim {claim['metadata']['name']}": words}


def facts_of_pod(pod: JsonObject, there: bool) -> Facts:
    """Of a pod: there, its phase; and which claim is its, as a fact of the pod."""
    name = pod["metadata"]["name"]
    status = pod.get("status", {})
    words = [] if not there else ["there", str(status.get("phase", ""))]
    words += [f"claim {one['resourceClaimName']}" for one in status.get("resourceClaimStatuses", ()) if there]
    return {f"pod {name}": words}


def facts_of_node_state(state: JsonObject, there: bool) -> Facts:
    """Of a node's object: whether spec and status have a claim, by UID, and its phase."""
    node = state["metadata"]["name"]
    wanted = state.get("spec", {}).get("allocations", ()) if there else ()
    entries = state.get("status", {}).get("allocations", ()) if there else ()
    phases = [f"{one['name']} {one['phase']}" for one in entries]
    return {
        f"node {node}": ["there"] if there else [],
        f"spec {node}": [one["name"] for one in wanted],
        f"status {node}": [one["name"] for one in entries] + phases,
    }


def _encode(version: str, kind: str, name: str, more: JsonObject) -> bytes:
    metadata = {"name": name, "labels": {LABEL: "true"}}
    return json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, **more}).encode()
