"""Slices and claims together, as the node agent uses them."""

import random
from datetime import UTC, datetime

from msgspec.structs import replace

import kubesim
from reconciler.node.claim_status_writer import ClaimStatusWriter
from reconciler.node.slice_publisher import SlicePublisher, SliceSettings
from reconciler.node.slice_side import SliceSide
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from state.manifest import (
    AllocatedDevice,
    BindingConditions,
    ClaimAllocation,
    Layout,
    Policy,
    Spec,
    VirtualFunction,
)
from state.records import AppliedDevice
from state.server_info import ServerInfo
from state.status import AllocationStatus
from tests.kube_in_memory import InMemory
from tests.slices.machines import status_of, tables
from tests.slices.shown import ShownMetrics

GPU = status_of("flex170").devices[0].name
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_failure_is_told_once_schedulers_know_what_to_avoid() -> None:
    cluster = _cluster("1.36")
    uid = _claim(cluster)
    found: list[ServerInfo] = []
    side = _side(cluster, found)
    applied = AppliedDevice(device=f"{GPU}-m4-vf0", profile="flex170_m4")
    failed = AllocationStatus(
        name=uid, origin="claim", phase="Failed", message="EIO", since=SINCE, devices=(applied,)
    )
    vf = AllocatedDevice(
        request="r", pool="node-a", device=f"{GPU}-m4", physical_function=GPU,
        virtual_function=VirtualFunction(profile="flex170_m4", index=0),
    )  # fmt: skip
    entry = ClaimAllocation(name=uid, claim_namespace="default", claim_name="c", source="v1", devices=(vf,))
    policy = Policy(layout=Layout.DYNAMIC, binding_conditions=BindingConditions.ON_RECONFIGURE)
    side.offer(replace(status_of("flex170"), allocations=(failed,)), Spec(policy=policy, allocations=(entry,)))
    try:
        while not cluster.get(CLAIMS + "/c")["status"].get("devices"):
            side.step()
        while "True" not in _failed(cluster):
            side.step()
    finally:
        side.stop()
    order = [
        "claim" if "resourceclaims" in each.request.path else "slice"
        for each in cluster.requests
        if each.request.method in ("POST", "PUT", "PATCH") and ("dryRun", "All") not in each.request.query
    ]
    assert order.index("slice") < len(order) - 1 - order[::-1].index("claim")
    assert found[0].row == "v1"
    taints = {
        (taint["key"], taint["effect"])
        for slice in cluster.get(SLICES)["items"]
        for device in slice["spec"].get("devices", ())
        if device["name"] == f"{GPU}-m4"
        for taint in device["taints"]
    }
    assert taints == {("gpu.intel.com/reconfigure-failed", "NoSchedule")}


def test_claims_of_1_31_are_told_nothing() -> None:
    """They have no such field, and a server refuses to apply what it doesn't know."""
    cluster = _cluster("1.31")
    side = _side(cluster, [])
    device = AllocatedDevice(request="r", pool="node-a", device=GPU, physical_function=GPU)
    entry = ClaimAllocation(
        name="uid", claim_namespace="default", claim_name="c", source="v1alpha3", devices=(device,)
    )
    ready = AllocationStatus(
        name="uid", origin="claim", phase="Ready", message="", since=SINCE, devices=(AppliedDevice(device=GPU),)
    )
    side.offer(replace(status_of("flex170"), allocations=(ready,)), Spec(allocations=(entry,)))
    path = SLICES.replace("v1", "v1alpha3")
    try:
        while not cluster.get(path)["items"]:
            side.step()
        side.step()
    finally:
        side.stop()
    (slice,) = cluster.get(path)["items"]
    assert [each["name"] for each in slice["spec"]["devices"]] == [GPU]
    assert [each.request.path for each in cluster.requests if "resourceclaims" in each.request.path] == []


def _cluster(release: str) -> kubesim.Cluster:
    cluster = kubesim.Cluster(release, seed=1)
    cluster.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}})
    return cluster


def _side(cluster: kubesim.Cluster, found: list[ServerInfo]) -> SliceSide:
    """Of a node whose clock stands still."""
    client, rng = KubeClient(InMemory(cluster), retries=NO_RETRIES), random.Random(1)
    slices = SlicePublisher(
        client,
        SliceSettings(node="node-a", table=tables().profiles, registered=lambda _: True),
        wake=lambda: None,
        server_found=found.append,
        metrics=ShownMetrics(),
        on_crash=None,
        clock=lambda: 100.0,
        rng=rng,
    )
    return SliceSide(slices, ClaimStatusWriter(client, clock=lambda: 100.0, rng=rng))


def _claim(cluster: kubesim.Cluster) -> str:
    spec = {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "vf.gpu.intel.com"}}]}}
    kind = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim"}
    made = cluster.create(CLAIMS, {**kind, "metadata": {"name": "c"}, "spec": spec})
    result = {"request": "r", "driver": "gpu.intel.com", "pool": "node-a", "device": f"{GPU}-m4"}
    made["status"] = {"allocation": {"devices": {"results": [result]}}}
    cluster.replace(f"{CLAIMS}/c/status", made)
    uid = made["metadata"]["uid"]
    assert isinstance(uid, str)
    return uid


def _failed(cluster: kubesim.Cluster) -> str:
    (device,) = cluster.get(f"{CLAIMS}/c")["status"]["devices"]
    status = {each["type"]: each["status"] for each in device["conditions"]}["gpu.intel.com/vf-failed"]
    assert isinstance(status, str)
    return status
