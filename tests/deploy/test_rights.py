"""The deployed roles and policies, enforced: enough for all that the driver does, and no more than that."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hack.lab.processes import Daemon, eventually
from kubesim import Fault, Rule
from kubesim.rbac import Right
from tests.deploy.guarded import NODE, GuardedTown, classic_objects, guarded_town
from tests.deploy.manifests import DEPLOY, JsonObject, rendered

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

STATE = f"/apis/gpu.dra.intel.com/v1alpha1/gpunodestates/{NODE}"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
CLASSIC_CLAIMS = "/apis/resource.k8s.io/v1alpha1/namespaces/default/resourceclaims"
GPU = "0000-03-00-0-0x56c0"

_CONFLICT = Rule(fault=Fault.CONFLICT, method="PATCH", path=f"{NODE}[?].*gpu-controller", count=1)
_AGAIN = "the same news within six minutes, but not within ten seconds, are counted on the Event that is there"
_LATER = "1.27 to 1.31, where this resource has another name"
SOMETIMES = {
    ("intel-gpu-controller", "events", "patch"): _AGAIN,
    ("intel-gpu-node", "events", "patch"): _AGAIN,
}
"""Rights (role, resource, verb) that a story may or may not come to use, with the reason why they are granted."""
NEVER_CLASSIC = {
    ("intel-gpu-controller", "nodes", "get"): "whether a claim's node, without GpuNodeState, is gone for good",
    ("intel-gpu-controller", "deviceclasses", "list"): _LATER,
    ("intel-gpu-controller", "deviceclasses", "watch"): _LATER,
    ("intel-gpu-controller", "podschedulingcontexts", "list"): _LATER,
    ("intel-gpu-controller", "podschedulingcontexts", "watch"): _LATER,
    ("intel-gpu-controller", "podschedulingcontexts/status", "patch"): _LATER,
}
"""Those that the classic story does not."""


@pytest.fixture(name="where")
def fixture_where() -> Iterator[Path]:
    """A directory with a short name: sockets' paths are limited."""
    where = Path(tempfile.mkdtemp(prefix="deploy-"))
    yield where
    shutil.rmtree(where)


def test_the_driver_lives_with_the_rights_it_is_given_and_uses_them_all(where: Path) -> None:
    with guarded_town(where, "flex170", rendered(".")) as guarded:
        town, cluster = guarded.town, guarded.cluster
        town.until_slices()
        _assert_privileges(guarded)
        _run_a_pod_with_a_vf(guarded)
        _refuse_a_claim(guarded)
        _pin_the_layout(guarded)
        cluster.delete(STATE)
        eventually("made again", lambda: _observed(guarded), town.explain)
        _settle_accounts(guarded, {})
        assert all(policy.passed and not policy.denied for policy in cluster.policies)


def _assert_privileges(guarded: GuardedTown) -> None:
    """That the containers really run as the manifests say, and not as this test does."""
    node = guarded.town.nodes[NODE]
    assert _who(guarded.town.controller) == ("65532", 0)
    assert _who(node.plugin) == ("0", 0)
    assert _who(node.agent)[1] != 0
    mounts = Path(f"/proc/{node.plugin.process.pid}/mounts").read_text()
    assert re.search(r"/run/gpu.intel.com/status \S+ ro", mounts)
    assert re.search(r"/run/gpu.intel.com/marks \S+ rw", mounts)


def _who(daemon: Daemon) -> tuple[str, int]:
    """The user that a process runs as, and its capabilities."""
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return fields["Uid"].split()[0], int(fields["CapEff"], 16)


def test_the_same_with_classic_resource_allocation(where: Path) -> None:
    with guarded_town(where, "flex170", classic_objects(), "1.26") as guarded:
        guarded.town.until_known()
        guarded.cluster.add_fault(_CONFLICT)
        for pod, manifests in {
            "quarter": _example("later/vf-by-millicores.yaml"),
            "gpu-by-name": _example("gpus-by-name.yaml"),
            "with-kept-gpu": _example("immediate.yaml").replace("Name: intel-gpu\n", "Name: only-flex\n"),
        }.items():
            guarded.town.lab.apply(manifests)
            guarded.town.until_phase("Running", pod)
            guarded.cluster.delete(f"/api/v1/namespaces/default/pods/{pod}")
            guarded.town.until_phase("gone", pod)
            for claim in guarded.cluster.get(CLASSIC_CLAIMS)["items"]:
                guarded.cluster.delete(f"{CLASSIC_CLAIMS}/{claim['metadata']['name']}")
            guarded.town.until_nothing_left()
        _refuse_a_big_claim(guarded)
        _settle_accounts(guarded, NEVER_CLASSIC)


def _refuse_a_big_claim(guarded: GuardedTown) -> None:
    """Its parameters come late: people are told. Then it is too big: so is the scheduler."""
    lab, explain = guarded.town.lab, guarded.town.explain
    parameters, rest = _example("too-big.yaml").replace("Name: intel-gpu\n", "Name: only-flex\n").split("---\n", 1)
    lab.apply(rest)

    eventually("told of what is missing", lambda: _told(guarded, "there is no such object") or None, explain)
    lab.apply(parameters)
    eventually("told where it does not fit", lambda: _told(guarded, "has 16256 MiB left") or None, explain)
    guarded.cluster.delete("/api/v1/namespaces/default/pods/too-big")
    guarded.town.until_phase("gone", "too-big")


def _example(name: str) -> str:
    return (DEPLOY / "examples/classic" / name).read_text()


def _settle_accounts(guarded: GuardedTown, expected: Mapping[tuple[str, str, str], str]) -> None:
    """Nothing was refused, and what was not used is known not to be."""
    assert guarded.refusals() == [], guarded.town.explain()
    unused = {right for right in guarded.rights.granted if _of_the_driver(right)} - guarded.rights.used
    found = {(right.role, right.resource, right.verb) for right in unused} - SOMETIMES.keys()
    assert found == expected.keys(), guarded.town.explain()


def _of_the_driver(right: Right) -> bool:
    return right.role in ("intel-gpu-controller", "intel-gpu-node", "gpu-controller")


def _run_a_pod_with_a_vf(guarded: GuardedTown) -> None:
    """From the example, by a person's kubectl; then it is gone, and its VF with it."""
    town = guarded.town
    town.lab.apply((DEPLOY / "examples/one-vf.yaml").read_text())
    town.until_phase("Running", "one-vf")
    eventually("told on the claim", lambda: _device_status(guarded) or None, town.explain)
    town.lab.cluster.delete("/api/v1/namespaces/default/pods/one-vf")
    town.until_phase("gone", "one-vf")
    town.until_nothing_left()


def _device_status(guarded: GuardedTown) -> list[JsonObject]:
    (claim,) = guarded.cluster.get(CLAIMS)["items"]
    devices: list[JsonObject] = claim.get("status", {}).get("devices", [])
    return devices


def _refuse_a_claim(guarded: GuardedTown) -> None:
    """A configuration that makes no sense: the controller says so in an Event on the claim."""
    parameters = {"apiVersion": "gpu.intel.com/v1alpha1", "kind": "GpuConfig", "kernelDriver": "nouveau"}
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.intel.com"}}
    config = {"opaque": {"driver": "gpu.intel.com", "parameters": parameters}}
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "odd"},
        "spec": {"devices": {"requests": [request], "config": [config]}},
    }
    guarded.cluster.create(CLAIMS, claim)

    eventually(
        "told on the claim", lambda: _told(guarded, "'nouveau' is not allowed") or None, guarded.town.explain
    )
    guarded.cluster.delete(f"{CLAIMS}/odd")
    guarded.town.until_nothing_left()


def _told(guarded: GuardedTown, words: str) -> bool:
    """Whether an Event says this."""
    events = guarded.cluster.get("/api/v1/namespaces/default/events")["items"]
    return any(words in each["message"] for each in events)


def _pin_the_layout(guarded: GuardedTown) -> None:
    """A person's override, with a person's rights: withdrawn, confirmed, made, and taken back.

    The controller finds that somebody else was faster, once, and reads the object again.
    """
    guarded.cluster.add_fault(
        Rule(fault=Fault.CONFLICT, method="PATCH", path=f"{NODE}[?].*gpu-controller", count=1)
    )
    override = {"device": GPU, "mode": "Fixed", "virtualFunctions": {"profile": "flex170_m4"}}
    lab = guarded.town.lab
    manifest = {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "metadata": {"name": NODE}}
    for overrides, vfs in (([override], 4), ([], 0)):
        given = json.dumps({**manifest, "spec": {"overrides": overrides}})
        flags = ("--server-side", "--field-manager", "olga", "-f", "-")
        done = lab.kubectl("--kubeconfig", str(guarded.operator), "apply", *flags, given=given)
        assert done.code == 0, done.err
        _until_vfs(guarded, vfs)


def _until_vfs(guarded: GuardedTown, wanted: int) -> None:
    def are_there() -> bool | None:
        status = (guarded.town.lab.node_state(NODE) or {}).get("status", {})
        return status.get("summary", {}).get("virtualFunctions", 0) == wanted or None

    eventually(f"{wanted} VFs", are_there, guarded.town.explain)


def _observed(guarded: GuardedTown) -> bool | None:
    found = guarded.town.lab.node_state(NODE)
    return (found is not None and "status" in found) or None
