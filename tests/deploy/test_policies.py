"""What roles and policies refuse, and in which words."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from kubesim import Request
from kubesim.access import User
from kubesim.admission import GuardedCluster, policies_in
from kubesim.rbac import RoleBased, service_account
from tests.contract_files import read_json
from tests.deploy.guarded import NODE, OTHER_NODE, guarded_cluster
from tests.deploy.manifests import NAMESPACE, JsonObject, rendered

STATES = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
ENTRY: JsonObject = {
    "name": "0b5f0b9e-6a4e-4a5e-8d2c-2f6b7f0b2d11",
    "claimNamespace": "default",
    "claimName": "other",
    "source": "resource.k8s.io/v1",
    "devices": [],
}
DRAINED: JsonObject = {"device": "0000-03-00-0-0x56c0", "mode": "Drain"}
ENTERED: JsonObject = {"spec": {"allocations": [ENTRY]}}


@pytest.fixture(name="server")
def fixture_server() -> GuardedCluster:
    return _server()


@pytest.fixture(name="everybodys", scope="module")
def fixture_everybodys() -> GuardedCluster:
    """For requests that change nothing."""
    return _server()


def _server() -> GuardedCluster:
    """Two nodes with their GpuNodeStates, and a claim for each of them."""
    cluster, _ = guarded_cluster(rendered("."))
    for name, node in (("own", NODE), ("other", OTHER_NODE)):
        cluster.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        cluster.create(STATES, _state(node))
        _add_claim(cluster, name, node)
    cluster.tokens["nobody"] = User(name="nora", groups=("system:authenticated",))
    cluster.tokens["agent of node-c"] = service_account(NAMESPACE, "gpu-node", node="node-c")
    cluster.tokens["unbound"] = service_account(NAMESPACE, "gpu-node")
    return cluster


def _state(node: str, **spec: object) -> JsonObject:
    return {
        "apiVersion": "gpu.dra.intel.com/v1alpha1",
        "kind": "GpuNodeState",
        "metadata": {"name": node},
        "spec": spec,
    }


def _slice(node: str, driver: str = "gpu.intel.com", *, pool: str = "") -> JsonObject:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-{driver}"},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": pool or node, "generation": 1, "resourceSliceCount": 1},
            "devices": [],
        },
    }


def _result(node: str, driver: str = "gpu.intel.com") -> JsonObject:
    return {"driver": driver, "pool": node, "device": "gpu0"}


def _allocation(node: str) -> JsonObject:
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    results = [{"request": "gpu", **_result(node)}, {"request": "nic", **_result(node, "nic.example.com")}]
    return {
        "devices": {"results": results},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
    }


def _add_claim(cluster: GuardedCluster, name: str, node: str) -> None:
    requests = [{"name": each, "exactly": {"deviceClassName": "gpu.intel.com"}} for each in ("gpu", "nic")]
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": requests}},
    }
    cluster.create(CLAIMS, claim)
    cluster.merge(f"{CLAIMS}/{name}/status", {"status": {"allocation": _allocation(node)}})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request by the owner of a token, and what it must come to: a status and words of the refusal."""

    token: str
    method: str
    url: str
    body: JsonObject | None = None
    content: str = "application/json"
    status: int = 403
    words: str = ""


OWN, OTHER = f"{STATES}/{NODE}", f"{STATES}/{OTHER_NODE}"


def _told(node: str, driver: str = "gpu.intel.com") -> JsonObject:
    return {"status": {"devices": [_result(node, driver)]}}


CASES = {
    "an agent tells its node's status": Asked(
        "agent", "PATCH", f"{OWN}/status", {"status": {"version": "1"}}, MERGE, 200
    ),
    "an agent tells another node's": Asked(
        "agent", "PATCH", f"{OTHER}/status", {"status": {"version": "1"}}, MERGE,
        words=f"the agent of node {NODE} may not write the GpuNodeState of node {OTHER_NODE}",
    ),
    "an agent whose token names no node": Asked(
        "unbound", "PATCH", f"{OWN}/status", {"status": {"version": "1"}}, MERGE,
        words="the agent's token does not say which node it is on",
    ),
    "an agent writes the spec": Asked(
        "agent", "PATCH", OWN, {"spec": {"paused": True}}, MERGE, words='cannot patch resource "gpunodestates"'
    ),
    "an agent makes an object for a node that has none": Asked(
        "agent", "POST", STATES, _state("node-c"), words="may not write the GpuNodeState of node node-c"
    ),
    "an agent makes one with overrides": Asked(
        "agent of node-c", "POST", STATES, _state("node-c", overrides=[DRAINED]),
        words="an agent may not write spec, only status",
    ),
    "an agent makes one that is paused": Asked(
        "agent of node-c", "POST", STATES, _state("node-c", paused=True),
        words="an agent may not write spec, only status",
    ),
    "an agent makes one that wants nothing": Asked(
        "agent of node-c", "POST", STATES, _state("node-c", paused=False), status=201
    ),
    "an agent offers its GPUs": Asked("agent", "POST", SLICES, _slice(NODE), status=201),
    "an agent offers another node's": Asked(
        "agent", "POST", SLICES, _slice(OTHER_NODE),
        words=f"the agent of node {NODE} may not write a slice of node {OTHER_NODE}",
    ),
    "an agent offers another driver's devices": Asked(
        "agent", "POST", SLICES, _slice(NODE, "nic.example.com"), words="slice of driver nic.example.com"
    ),
    "an agent offers its own in another node's pool": Asked(
        "agent", "POST", SLICES, _slice(NODE, pool=OTHER_NODE),
        words=f"the agent of node {NODE} may not write a slice of pool {OTHER_NODE}",
    ),
    "an agent tells of a claim's devices": Asked(
        "agent", "PATCH", f"{CLAIMS}/own/status", _told(NODE), MERGE, 200
    ),
    "an agent tells of a claim on another node": Asked(
        "agent", "PATCH", f"{CLAIMS}/other/status", _told(OTHER_NODE), MERGE,
        words=f"this claim was allocated no device of driver gpu.intel.com on node {NODE}",
    ),
    "an agent tells of another driver's devices": Asked(
        "agent", "PATCH", f"{CLAIMS}/own/status", _told(NODE, "nic.example.com"), MERGE,
        words="may only write status.devices of driver gpu.intel.com and its own node",
    ),
    "an agent gives a claim back": Asked(
        "agent", "PATCH", f"{CLAIMS}/own/status", {"status": {"allocation": None}}, MERGE,
        words="an agent may not write status.allocation and status.reservedFor, only status.devices",
    ),
    "an agent reads claims": Asked("agent", "GET", CLAIMS, words='cannot list resource "resourceclaims"'),
    "the controller enters a claim": Asked("controller", "PATCH", OWN, ENTERED, MERGE, 200),
    "the controller overrides": Asked(
        "controller", "PATCH", OWN, {"spec": {"paused": True}}, MERGE,
        words="are for people with the role intel-gpu-operator; the controller may not write them",
    ),
    "the controller writes a claim": Asked(
        "controller", "PATCH", f"{CLAIMS}/own/status", _told(NODE), MERGE,
        words='cannot patch resource "resourceclaims/status"',
    ),
    "an operator overrides": Asked(
        "operator", "PATCH", OWN, {"spec": {"paused": True, "policy": {"layout": "Pinned"}}}, MERGE, 200
    ),
    "an operator applies a new object": Asked(
        "operator", "PATCH", f"{STATES}/node-c?fieldManager=olga", _state("node-c", paused=True), APPLY, 201
    ),
    "an operator enters a claim": Asked(
        "operator", "PATCH", OWN, ENTERED, MERGE,
        words="spec.adoptedUID and spec.withdrawalsConfirmed are written by the controller alone: leave them",
    ),
    "an operator puts a backup back": Asked(
        "operator", "POST", STATES, _state("node-c", adoptedUID="x"), words="are written by the controller alone"
    ),
    "an operator writes the status": Asked(
        "operator", "PATCH", f"{OWN}/status", {"status": {"version": "1"}}, MERGE,
        words='cannot patch resource "gpunodestates/status"',
    ),
    "anybody else overrides": Asked(
        "nobody", "PATCH", OWN, {"spec": {"paused": True}}, MERGE, words='cannot patch resource "gpunodestates"'
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_who_may_write_what(case: str, everybodys: GuardedCluster) -> None:
    asked = CASES[case]
    status, message = _answer(everybodys, asked, dry=True)
    assert (status, asked.words in message) == (asked.status, True), message


def test_nobody_takes_an_entry_away(server: GuardedCluster) -> None:
    """Not by editing the whole object either; all else in it may be edited."""
    server.merge(OWN, ENTERED)
    whole = server.get(OWN)
    without = {**whole, "spec": {**whole["spec"], "allocations": []}}
    assert _answer(server, Asked("operator", "PUT", OWN, without))[0] == 403
    paused = {**whole, "spec": {**whole["spec"], "paused": True}}
    assert _answer(server, Asked("operator", "PUT", OWN, paused)) == (200, "")


def test_an_agent_takes_back_its_own_slices_only(server: GuardedCluster) -> None:
    for node in (NODE, OTHER_NODE):
        server.create(SLICES, _slice(node))
    assert _answer(server, Asked("agent", "DELETE", f"{SLICES}/{NODE}-gpu.intel.com"))[0] == 200
    status, message = _answer(server, Asked("agent", "DELETE", f"{SLICES}/{OTHER_NODE}-gpu.intel.com"))
    assert (status, f"a slice of node {OTHER_NODE}" in message) == (403, True)


def _answer(server: GuardedCluster, asked: Asked, *, dry: bool = False) -> tuple[int, str]:
    headers = {"authorization": f"Bearer {asked.token}"}
    url = f"{asked.url}{'&' if '?' in asked.url else '?'}dryRun=All" if dry else asked.url
    request = Request.to(asked.method, url, asked.body, content_type=asked.content, headers=headers)
    response = server.answer(request)
    body = json.loads(response.body)
    return response.status, body["message"] if response.status >= 300 else ""


TRIALS = "discovery/rbac-trials-k1.36.3.json"
TRIED = {
    "plugin (node-bound token): claim allocated for another node": ("plugin", NODE),
    "plugin (token not bound to a node, associated-node verbs)": ("plugin", ""),
    "controller without resourceclaims/binding: removes status.allocation": ("controller", ""),
}


@pytest.mark.parametrize("label", TRIED)
def test_the_simulation_refuses_in_the_words_of_a_real_server(label: str) -> None:
    """Who may write which part of a claim's status, compared with trials on a real 1.36.3."""
    recorded = read_json(TRIALS)
    (trial,) = (each for each in recorded["trials"] if each["label"] == label)
    which, node = TRIED[label]
    user = service_account("rec-rbac", "ctl" if which == "controller" else "plugin", node=node)
    server = GuardedCluster("1.36", policies=(), authorizer=_recorded_rights(recorded, which, user.name))
    server.tokens["user"] = user
    server.create("/api/v1/namespaces", {"metadata": {"name": "rec-rbac"}})
    path = trial["path"].partition("?")[0]
    collection, name = path.removesuffix("/status").rsplit("/", 1)
    claim = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name}}
    requests = [{"name": each, "exactly": {"deviceClassName": "any"}} for each in ("gpu", "nic")]
    server.create(collection, {**claim, "spec": {"devices": {"requests": requests}}})
    allocated = server.merge(path, {"status": {"allocation": _allocation(OTHER_NODE)}})
    device = {"driver": "rec.gpu.intel.com", "pool": "p", "device": "d"}
    if trial["method"] == "PUT":
        body, content = {**allocated, "status": {}}, "application/json"
    else:
        results = [{"request": "gpu", **device}]
        _reallocate(server, path, results)
        body, content = {"status": {"devices": [device]}}, MERGE
    status, message = _answer(server, Asked("user", trial["method"], path, body, content))
    assert (status, message) == (trial["status"], trial["message"])


def _reallocate(server: GuardedCluster, path: str, results: list[JsonObject]) -> None:
    server.merge(path, {"status": {"allocation": None}})
    allocation = {**_allocation(OTHER_NODE), "devices": {"results": results}}
    server.merge(path, {"status": {"allocation": allocation}})


def _recorded_rights(recorded: JsonObject, which: str, user: str) -> RoleBased:
    role = {"kind": "ClusterRole", "metadata": {"name": which}, "rules": recorded["rules"][which]}
    update = {"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims/status"], "verbs": ["update"]}
    role["rules"] = [*role["rules"], update]
    binding = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": which},
        "roleRef": {"kind": "ClusterRole", "name": which},
        "subjects": [{"kind": "User", "name": user}],
    }
    return RoleBased((role, binding))


def test_a_policy_refuses_in_the_words_of_a_real_server() -> None:
    """Whole line but for the node's names: what comes before our own words is the server's."""
    recorded = read_json(TRIALS)
    (trial,) = (each for each in recorded["trials"] if each["label"] == "VAP: slice of another node")
    start = trial["message"].partition(": this user")[0]
    policy = recorded["validatingAdmissionPolicy"]["metadata"]["name"]
    ours = "gpu-node-own-slices.gpu.dra.intel.com"
    cluster, _ = guarded_cluster(rendered("."))
    _, message = _answer(cluster, Asked("agent", "POST", SLICES, _slice(OTHER_NODE)))
    expected = start.replace("rec-rbac-other", f"{OTHER_NODE}-gpu.intel.com").replace(policy, ours)
    assert message.startswith(expected + ": "), message


def test_a_policy_that_cannot_be_evaluated_refuses() -> None:
    """failurePolicy Fail: a mistake in a policy must not open what it closes."""
    objects = [each for each in rendered("policies") if "slices" in each["metadata"]["name"]]
    broken = json.loads(json.dumps(objects).replace("variables.of == variables.node", "variables.missing == 1"))
    server = GuardedCluster("1.36", policies=policies_in(broken), authorizer=RoleBased(rendered("base")))
    server.tokens["agent"] = service_account(NAMESPACE, "gpu-node", node=NODE)
    status, message = _answer(server, Asked("agent", "POST", SLICES, _slice(NODE)))
    assert (status, "resulted in error" in message) == (403, True), message
