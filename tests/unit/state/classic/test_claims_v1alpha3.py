"""Claims of 1.31's classic mode: what they ask for, and what our writes make of them."""

import json
from typing import Any

import msgspec
import pytest

from state.classic.claims import ClassicClaim, Consumer, projected
from state.classic.claims_v1alpha3 import ClassicAlphaReader, read_device_class
from state.classic.classes import for_claim
from state.classic.device_requests import claim_parameters, class_parameters
from state.classic.parameters import ClaimParameters, DeviceType, ParametersError
from state.classic.writes import Dialect, allocated, deallocated
from state.dra.node_object import EntryDevice

DRIVER = "gpu.resource.intel.com"
GPU = "0000-03-00-0-0x56c0"
READER = ClassicAlphaReader()


def opaque(kind: str = "GpuClaimParameters", driver: str = DRIVER, **spec: Any) -> dict[str, Any]:
    group = driver if driver.endswith("intel.com") else DRIVER
    version = "v1alpha" if group == "gpu.dra.intel.com" else "v1alpha2"
    parameters = {"apiVersion": f"{group}/{version}", "kind": kind, "spec": spec}
    return {"opaque": {"driver": driver, "parameters": parameters}}


def claim(
    *configs: dict[str, Any], driver: str = DRIVER, constraints: object = None, **request: Any
) -> dict[str, Any]:
    devices: dict[str, Any] = {
        "requests": [{"name": "gpus", "deviceClassName": "gpu", **request}],
        "config": list(configs),
    }
    if constraints is not None:
        devices["constraints"] = [constraints]
    metadata = {"name": "c", "namespace": "default", "uid": "u", "resourceVersion": "7"}
    return {"metadata": metadata, "spec": {"controller": driver, "devices": devices}}


def read(raw: dict[str, Any]) -> ClassicClaim:
    return READER.negotiated(msgspec.json.encode(raw))


def asked_for(raw: dict[str, Any]) -> ClaimParameters:
    asked = read(raw).asked
    assert asked is not None
    return claim_parameters(asked, "ResourceClaim default/c")


def test_the_count_alone() -> None:
    assert asked_for(claim(count=3)) == ClaimParameters(count=3)
    assert asked_for(claim(driver="gpu.dra.intel.com")) == ClaimParameters(count=1, shareable=True)


def test_parameters_for_our_driver_alone() -> None:
    other = opaque(driver="nic.example.com", count=9)
    found = asked_for(claim(other, opaque(count=2, type="vf", memory=1024), count=2))
    assert found == ClaimParameters(count=2, type=DeviceType.VF, memory=2**30)
    first = opaque(driver="gpu.dra.intel.com", count=1, type="any")
    assert asked_for(claim(first, driver="gpu.dra.intel.com")).type is DeviceType.ANY


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (claim(allocationMode="All", count=0), "spec.devices.requests[0].allocationMode: is All"),
        (claim(count=33), "spec.devices.requests[0].count: is 33 (allowed: 1 to 32)"),
        (claim(selectors=[{"cel": {"expression": "true"}}]), "spec.devices.requests[0].selectors"),
        (claim(adminAccess=True), "spec.devices.requests[0].adminAccess"),
        (claim(constraints={"matchAttribute": "a/b"}), "spec.devices.constraints"),
        (claim(opaque(count=1), opaque(count=1)), "spec.devices.config: 2 are there for this driver"),
        (claim(opaque(count=2)), "count: is 1, but the GpuClaimParameters ask for 2"),
        (claim(opaque(count=1, type="tpu")), "spec.type"),
        (claim(opaque("Cat", count=1)), "Cat of gpu.resource.intel.com/v1alpha2 is not allowed"),
        (claim({"opaque": {"driver": DRIVER, "parameters": 7}}), "spec.devices.config"),
    ],
)
def test_what_no_classic_driver_can_give(raw: dict[str, Any], told: str) -> None:
    with pytest.raises(ParametersError) as caught:
        asked_for(raw)
    assert told in str(caught.value)


@pytest.mark.parametrize("count", [0, 2])
def test_one_request_and_no_other(count: int) -> None:
    raw = claim()
    raw["spec"]["devices"]["requests"] *= count
    with pytest.raises(ParametersError, match=f"requests: {count} are there"):
        asked_for(raw)


def test_classes_have_parameters_and_claims_name_the_driver() -> None:
    spec = {
        "config": [opaque("GpuClassParameters", shared=True)],
        "suitableNodes": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]},
    }
    found = read_device_class(msgspec.json.encode({"metadata": {"name": "gpu"}, "spec": spec}))
    assert not found.ours
    assert for_claim(found, read(claim())).ours
    assert not for_claim(found, read(claim(driver=""))).ours
    assert found.suitable_nodes is not None
    assert found.suitable_nodes.matches("n", {"gpu": ""})
    ((driver, raw),) = found.embedded
    assert driver == DRIVER
    assert class_parameters((raw,), selected=False, where="DeviceClass gpu").shared
    with pytest.raises(ParametersError, match=r"spec\.selectors"):
        class_parameters((raw,), selected=True, where="DeviceClass gpu")
    with pytest.raises(ParametersError, match=r"spec\.config: 2 are there"):
        class_parameters((raw, raw), selected=False, where="DeviceClass gpu")


def test_an_allocation_is_read_as_it_was_written() -> None:
    raw = claim(count=2)
    device = EntryDevice(request="", pool="node-1", device=f"{GPU}-shared", physical_function=GPU, memory=2**30)
    pod = Consumer(resource="pods", name="p", uid="pu")
    body = allocated(
        read(raw), Dialect.DEVICES, driver=DRIVER, node="node-1", devices=[device], shareable=True, user=pod
    )
    status = json.loads(body)["status"]
    assert status["allocation"]["controller"] == DRIVER
    assert status["allocation"]["devices"]["results"] == [
        {"request": "gpus", "driver": DRIVER, "pool": "node-1", "device": f"{GPU}-shared"}
    ]
    there = read({**raw, "status": status})
    assert (there.allocated, there.driver, there.consumers) == (True, DRIVER, (pod,))
    (result,) = projected(there).results
    assert (result.pool, result.device, result.consumed) == (
        "node-1",
        f"{GPU}-shared",
        (("memory", str(2**30)),),
    )
    gone = json.loads(deallocated(there))["status"]
    assert gone["allocation"] is None
    assert gone["deallocationRequested"] is None


def test_what_the_scheduler_allocated_is_not_ours() -> None:
    result = {"request": "gpus", "driver": "gpu.intel.com", "pool": "node-1", "device": GPU}
    there = read({**claim(driver=""), "status": {"allocation": {"devices": {"results": [result]}}}})
    assert there.allocated
    assert not there.releasing
    assert projected(there).results == ()
