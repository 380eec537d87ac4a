"""Claims and GpuNodeStates as an API server has them, and views made of them."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from reconciler.node.tables import load_tables
from state.dra.deciding import decide
from state.dra.node_object import NodeObject, read_node_object
from state.dra.node_view import Listing, Look, NodeView, SpecWrite
from state.dra.resource_claims import Claim, ClaimReader, ClaimRef
from state.profiles import ProfileTable

NODE = "node-1"
PF = "0000-b3-00-0-0x56c0"
OTHER_PF = "0000-b4-00-0-0x56c0"


@functools.cache
def table() -> ProfileTable:
    return load_tables("").profiles


def result(device: str, request: str = "gpu", **more: Any) -> dict[str, Any]:
    return {"request": request, "driver": "gpu.intel.com", "pool": NODE, "device": device, **more}


def raw_claim(
    uid: str, *results: dict[str, Any], name: str = "", config: Iterable[dict[str, Any]] = ()
) -> dict[str, Any]:
    claim: dict[str, Any] = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name or f"c-{uid}", "namespace": "ml", "uid": uid, "resourceVersion": "1"},
        "spec": {"devices": {"requests": []}},
        "status": {},
    }
    if results:
        claim["status"]["allocation"] = {"devices": {"results": list(results), "config": list(config)}}
    return claim


def opaque(
    parameters: Any, *requests: str, source: str = "FromClaim", driver: str = "gpu.intel.com"
) -> dict[str, Any]:
    return {"source": source, "requests": list(requests), "opaque": {"driver": driver, "parameters": parameters}}


def gpu_config(kernel_driver: str) -> dict[str, str]:
    return {"apiVersion": "gpu.intel.com/v1alpha1", "kind": "GpuConfig", "kernelDriver": kernel_driver}


def claim(uid: str, *results: dict[str, Any], name: str = "", config: Iterable[dict[str, Any]] = ()) -> Claim:
    return ClaimReader().claim(msgspec.json.encode(raw_claim(uid, *results, name=name, config=config)))


def vf_claim(uid: str, mode: str = "m4", *, share: str = "", pf: str = PF) -> Claim:
    return claim(uid, result(f"{pf}-{mode}", shareID=share or f"share-{uid}"))


def raw_node(
    spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **metadata: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "gpu.dra.intel.com/v1alpha1",
        "kind": "GpuNodeState",
        "metadata": {"name": NODE, "uid": "node-uid", "resourceVersion": "7", "generation": 1, **metadata},
        "spec": {"adoptedUID": "node-uid"} if spec is None else dict(spec),
        "status": {"observedGeneration": 1} if status is None else dict(status),
    }


def node(
    spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **metadata: Any
) -> NodeObject:
    return read_node_object(msgspec.json.encode(raw_node(spec, status, **metadata)))


def view(state: NodeObject | None, *claims: Claim, **more: Any) -> NodeView:
    return NodeView(
        node=NODE, source="resource.k8s.io/v1", table=table(), state=state, claims=claims, now=100.0, **more
    )


def looks(*claims: Claim, gone: Iterable[Claim] = (), failed: Iterable[Claim] = ()) -> dict[ClaimRef, Look]:
    found = {one.ref: Look(claim=one) for one in claims}
    return found | {one.ref: Look() for one in gone} | {one.ref: Look(failed="no answer") for one in failed}


def listing(started: float, *claims: Claim) -> Listing:
    return Listing(started=started, claims=claims)


def written(what: NodeView) -> SpecWrite:
    decision = decide(what)
    assert isinstance(decision, SpecWrite), decision
    return decision


def spec_of(write: SpecWrite) -> dict[str, Any]:
    spec: dict[str, Any] = msgspec.json.decode(write.body)["spec"]
    return spec


def after(write: SpecWrite, status: Mapping[str, Any] | None = None) -> NodeObject:
    """The object once the write has been accepted."""
    return node(spec_of(write), status, resourceVersion="8", generation=2)


def indexes(write: SpecWrite) -> dict[str, list[int]]:
    return {
        entry["name"]: [device["virtualFunction"]["index"] for device in entry.get("devices", ())]
        for entry in spec_of(write)["allocations"]
    }
