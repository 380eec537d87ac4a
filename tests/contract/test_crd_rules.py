"""Who refuses what: the API server when it is written, or the engine once it has looked at the hardware.

Each row is a mistake. What the server refuses, the node refuses too, should it get it by another way (a file, an
object from before the rule). What only the engine refuses depends on the machine.
"""

import ast
import inspect
from dataclasses import replace
from typing import Any

import pytest

from state import judging, manifest_decoding
from state.ids import DeviceName, PciAddress, device_name, parse_device_name
from state.judging import Judge
from state.manifest import API_VERSION, KIND, Spec
from state.manifest_decoding import ManifestError, decode
from state.models import Model
from state.observed import FunctionSeen, MemorySeen, MemorySource, PfSeen, Provisioner, ProvisioningSeen, SriovSeen
from state.profiles import Profile
from state.wanted import RefusedError
from tests.contract.admission import admit
from tests.unit.state.on_paper import TABLES

FLEX, PLAIN, STRANGE, FAIR = (
    DeviceName(f"0000-{bus}-00-0-0x{pci_id}")
    for bus, pci_id in (("1a", "56c0"), ("03", "56a0"), ("29", "ffff"), ("4d", "56c0"))
)
UID = "6f0f1a9e-0b0a-4f64-8d4e-7e6a3f1b2c3d"


def gpu(name: DeviceName, device_id: int, model: Model, sriov: SriovSeen | None) -> PfSeen:
    address = PciAddress(":".join(name.split("-")[:3]) + ".0")
    return PfSeen(
        name=name,
        device_id=device_id,
        model=model,
        function=FunctionSeen(address=address, driver=model.drm_driver),
        sriov=sriov,
        memory=MemorySeen(total=14 * 2**30, source=MemorySource.SYSFS),
    )


def machine() -> dict[DeviceName, PfSeen]:
    """A Flex 170 with everything, a GPU without VFs, one of an unknown model, one whose quotas are read-only."""
    flex = Model(name="Flex 170", family="Flex", drm_driver="i915")
    writable = ProvisioningSeen(provisioner=Provisioner.I915_IOV, tiles=1, quotas_writable=True)
    fixed = replace(writable, quotas_writable=False)
    return {
        FLEX: gpu(FLEX, 0x56C0, flex, SriovSeen(total=31, enabled=0, provisioning=writable)),
        PLAIN: gpu(PLAIN, 0x56A0, Model(name="Arc A770", family="Arc A", drm_driver="i915"), None),
        STRANGE: gpu(STRANGE, 0xFFFF, Model(name="?", family="?"), None),
        FAIR: gpu(FAIR, 0x56C0, flex, SriovSeen(total=31, enabled=0, provisioning=fixed)),
    }


def override(**fields: object) -> dict[str, Any]:
    return {"overrides": [{"device": FLEX, **fields}]}


def given(device: str, **fields: object) -> dict[str, Any]:
    return {"manualAllocations": [{"name": "a", "devices": [{"device": device, **fields}]}]}


M4 = {"profile": "m4"}
CLAIM = {"name": UID, "claimNamespace": "ns", "claimName": "c", "source": "v1"}
PART = {"request": "gpu", "pool": "node", "device": FLEX, "physicalFunction": FLEX}
OVERRIDE, DEVICE = "spec.overrides[0]", "spec.manualAllocations[0].devices[0]"

AT_ADMISSION = [
    (override(mode="Drain", virtualFunctions=M4), OVERRIDE, "virtualFunctions needs mode Fixed", "needs mode"),
    (override(virtualFunctions=M4), OVERRIDE, "virtualFunctions needs mode Fixed", "needs mode Fixed"),
    (
        override(mode="Fixed", virtualFunctions=M4, kernelDriver="vfio"),
        OVERRIDE,
        "takes the whole GPU, which then cannot have virtualFunctions",
        "takes the whole GPU, which then cannot have virtualFunctions",
    ),
    ({"overrides": [{"device": FLEX}, {"device": FLEX}]}, "spec.overrides[1]", "Duplicate value", "is already at"),
    (override(device="0000:1a:00.0"), f"{OVERRIDE}.device", "is no name of a GPU", "is no device name"),
    (override(mode="Fixed", virtualFunctions={"profile": "flex 4"}), f"{OVERRIDE}.virtualFunctions.profile",
     "is no VF layout", "has no VF profile"),
    (override(mode="drain"), f"{OVERRIDE}.mode", "is not one of", "did you mean 'Drain'"),
    (given("card0"), f"{DEVICE}.device", "is no device name", "is no device name"),
    (given(f"{FLEX}-m4"), f"{DEVICE}.device", "does not say which VF", "does not say which VF"),
    (given(f"{FLEX}-monitor"), DEVICE, "a monitor device needs adminAccess: true", "needs admin access"),
    (given(f"{FLEX}-shared", kernelDriver="vfio"), DEVICE, "can't be passed through", "can't be passed through"),
    (given(FLEX, memory="4GB"), f"{DEVICE}.memory", "does not match", "has an unknown suffix"),
    (given(FLEX, memory=0), f"{DEVICE}.memory", "less than the minimum", "out of range"),
    (
        {"manualAllocations": [{"name": "a", "devices": [{"device": FLEX}, {"device": FLEX}]}]},
        "spec.manualAllocations[0].devices[1]",
        "Duplicate value",
        "is already at",
    ),
    (
        {"manualAllocations": [{"name": "claim-a", "devices": [{"device": FLEX}]}]},
        "spec.manualAllocations[0].name",
        "names beginning with 'claim-' or 'alloc-' are CDI device names of ours",
        "names beginning with 'claim-' or 'alloc-' are CDI device names of ours",
    ),
    (
        {"manualAllocations": [{"name": "alloc-a", "devices": [{"device": FLEX}]}]},
        "spec.manualAllocations[0].name",
        "names beginning with 'claim-' or 'alloc-' are CDI device names of ours",
        "names beginning with 'claim-' or 'alloc-' are CDI device names of ours",
    ),
    (
        {"manualAllocations": [{"name": "a", "devices": [{"device": one}]} for one in (FLEX, PLAIN)]},
        "spec.manualAllocations[1]",
        "Duplicate value",
        "is already at",
    ),
    ({"releases": [UID, UID]}, "spec.releases[1]", "Duplicate value", "is already at"),
    ({"allocations": [CLAIM, CLAIM]}, "spec.allocations[1]", "Duplicate value", "is already at"),
]  # fmt: skip

BY_THE_ENGINE = [
    (override(device="0000-99-00-0-0x56c0"), "there is no GPU"),
    (override(mode="Fixed", virtualFunctions={"profile": "c44"}), "has no VF profile 'c44'"),
    (override(kernelDriver="xe-vfio"), "xe-vfio is for GPUs of the xe driver"),
    (given("0000-99-00-0-0x56c0"), "there is no GPU"),
    (given(f"{PLAIN}-fs2-vf0"), "has no SR-IOV virtual functions"),
    (given(f"{FLEX}-c4-vf0"), "has no VF profile 'c4'"),
    (given(f"{FAIR}-m4-vf0"), "can't set the quotas"),
    (given(f"{FLEX}-m4-vf4"), "VF 4 is out of range"),
    (given(f"{FLEX}-m4-vf0", memory="8Gi"), "bytes are more than"),
    (given(STRANGE), "no DRM driver is known"),
    (given(FLEX, kernelDriver="xe-vfio"), "xe-vfio is for GPUs of the xe driver"),
    (given(f"{FLEX}-m4-vf00"), "is no device name"),
    (given(f"{FLEX}-whole"), "is no device name"),
    (
        {"manualAllocations": [{"name": "a", "devices": [{"device": FLEX}, {"device": f"{FLEX}-m4-vf0"}]}]},
        "can't be had beside",
    ),
]

BY_THE_SERVER_ALONE = [
    # Harmless to the node, but surely not what was meant; or more than the server's rules may be counted for.
    ({"releases": ["ml/job-1"]}, "spec.releases[0]", "is no UID of a claim"),
    (override(reason="x" * 1025), f"{OVERRIDE}.reason", "too long"),
    (given(FLEX, memory="0.125Gi"), f"{DEVICE}.memory", "does not match"),
    ({"policy": {"profiles": ["M4"]}}, "spec.policy.profiles[0]", "is no VF layout"),
    (
        {"allocations": [{**CLAIM, "devices": [PART], "refused": {"path": "p", "reason": "r"}}]},
        "spec.allocations[0]",
        "a claim is refused or has devices, not both",
    ),
]


def whole(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "node"}, "spec": spec}


def judge(spec: Spec) -> None:
    """The engine's opinion of each entry. Raises RefusedError."""
    judged = Judge(gpus=machine(), table=TABLES.profiles)
    for override in spec.overrides:
        judged.override(override, "spec.overrides[0]")
    for allocation in spec.manual_allocations:
        judged.manual(allocation, "spec.manualAllocations[0]")


@pytest.mark.parametrize(("spec", "path", "told", "node_tells"), AT_ADMISSION)
def test_the_server_refuses_and_the_node_would_too(
    spec: dict[str, Any], path: str, told: str, node_tells: str
) -> None:
    refused = admit(whole(spec))
    assert [one.path for one in refused] == [path]
    assert told in refused[0].why
    with pytest.raises((ManifestError, RefusedError)) as caught:
        judge(decode(whole(spec), cluster=True).spec)
    assert node_tells in str(caught.value)


@pytest.mark.parametrize(("spec", "told"), BY_THE_ENGINE)
def test_only_the_engine_can_refuse(spec: dict[str, Any], told: str) -> None:
    assert admit(whole(spec)) == ()
    with pytest.raises(RefusedError) as caught:
        judge(decode(whole(spec), cluster=True).spec)
    assert told in str(caught.value)


@pytest.mark.parametrize(("spec", "path", "told"), BY_THE_SERVER_ALONE)
def test_only_the_server_refuses(spec: dict[str, Any], path: str, told: str) -> None:
    (refused,) = admit(whole(spec))
    assert refused.path == path
    assert told in refused.why
    judge(decode(whole(spec), cluster=True).spec)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"paused": True},
        override(mode="Fixed"),
        override(mode="Fixed", virtualFunctions=M4, kernelDriver="i915"),
        override(mode="Fixed", virtualFunctions={"profile": "flex170_m4"}),
        override(mode="Fixed", virtualFunctions={"profile": "fs31"}),
        override(mode="Fixed", kernelDriver="vfio"),
        override(mode="Drain", reason="new firmware"),
        override(mode="Ignore"),
        given(FLEX, memory=4096),
        given(FLEX, memory="1.5Gi", kernelDriver="vfio"),
        given(f"{FLEX}-shared", memory="500M"),
        given(f"{FLEX}-shared", memory="2097152Ki"),
        given(f"{FLEX}-m4-vf3", kernelDriver="vfio"),
        given(f"{FLEX}-monitor", adminAccess=True),
        {"releases": [UID], "allocations": [{**CLAIM, "devices": [PART]}]},
        {"allocations": [{**CLAIM, "devices": [], "refused": {"path": "p", "reason": "r"}}]},
    ],
)
def test_what_makes_sense_is_admitted_and_served(spec: dict[str, Any]) -> None:
    assert admit(whole(spec)) == ()
    judge(decode(whole(spec), cluster=True).spec)


PROFILES = {profile.name: profile for of in TABLES.profiles.by_device_id.values() for profile in of}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_layout_can_be_named(profile: Profile) -> None:
    for name in (profile.name, profile.mode, f"fs{profile.count}"):
        assert admit(whole(override(mode="Fixed", virtualFunctions={"profile": name}))) == ()
        assert admit(whole({"policy": {"profiles": [name]}})) == ()
        assert admit(whole(given(f"{FLEX}-{name.rpartition('_')[2]}-vf{profile.count - 1}"))) == ()


@pytest.mark.parametrize("address", ["0000:00:02.0", "10000:e1:00.0", "ffffffff:ff:1f.7"])
def test_every_gpu_can_be_named(address: str) -> None:
    name = device_name(PciAddress(address), 0xE20B)
    parse_device_name(name)
    assert admit(whole({"overrides": [{"device": name}]})) == ()
    for rest in ("", "-shared", "-fs9999-vf9998", "-abcd1234-vf0"):
        assert admit(whole(given(f"{name}{rest}"))) == ()


def test_every_refusal_of_the_engine_has_a_row() -> None:
    """By the lines that raise them; but those of records and of claims, which people do not write."""
    rows = [row[0] for row in AT_ADMISSION] + [row[0] for row in BY_THE_ENGINE]
    assert _refusals() - {_raised_by(spec) for spec in rows} == set()


def test_every_rule_of_decoding_has_a_row() -> None:
    told = {row[3] for row in AT_ADMISSION}
    assert {
        "needs mode Fixed",
        "takes the whole GPU, which then cannot have virtualFunctions",
        "is already at",
    } <= told
    # The others: no object or another kind, a bad quantity, a type, and the controller's part in a file.
    assert inspect.getsource(manifest_decoding).count("Problem(") == 8


def _refusals() -> set[int]:
    tree = ast.parse(inspect.getsource(judging))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {
        node.lineno
        for function in functions
        if function.name not in ("recorded", "claim")
        for node in ast.walk(function)
        if isinstance(node, ast.Raise)
    }


def _raised_by(spec: dict[str, Any]) -> int | None:
    """The line of judging.py that refuses it, if any does."""
    try:
        judge(decode(whole(spec), cluster=True).spec)
    except RefusedError as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        return None if trace is None else trace.tb_lineno
    except ManifestError:
        return None
    return None
