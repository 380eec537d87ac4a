"""Claims of every shape, from allocation to Ready on a node, while replicas of the controller come and go."""

import json
import random
import signal
from collections.abc import Iterator

import pytest

import kubesim
from hack.lab.cluster import GROUP, Lab
from hack.lab.processes import Daemon
from tests.cluster.nodes import B60, EVENTS, Claim, JsonObject, Node, gpu_at, machine_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    # Of connections that clients break while the simulated server shakes hands, in that server.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FLEX, OTHER_FLEX, XE, OTHER_XE = gpu_at("03"), gpu_at("04"), gpu_at("83", B60), gpu_at("84", B60)
SEED = 20261123
CLAIMS = 60


@pytest.fixture(name="nodes", scope="module")
def fixture_nodes(lab: Lab) -> list[Node]:
    nodes = []
    models = {"03": "flex170", "04": "flex170", "83": "b60", "84": "b60"}
    for name in ("node-a", "node-b"):
        machine = lab.add_node(name, machine_of(lab.where, models))
        agent = lab.start_agent(name, "--linger-seconds", "0", "--resync-seconds", "10")
        nodes.append(Node(lab, name, machine, agent))
    for node in nodes:
        node.until_there()
    return nodes


@pytest.fixture(name="controller")
def fixture_controller(lab: Lab, nodes: list[Node]) -> Iterator[Daemon]:
    with lab.scope():
        yield lab.start_controller()


@pytest.fixture(name="node")
def fixture_node(controller: Daemon, nodes: list[Node]) -> Iterator[Node]:
    node = nodes[0]
    yield node
    node.wish()
    node.nobody_uses_anything()
    node.until("at rest", lambda: not node.spec.get("allocations") and not node.num_vfs(FLEX))


def config(driver: str, *requests: str, **more: str) -> list[JsonObject]:
    parameters = {"apiVersion": "gpu.intel.com/v1alpha1", "kind": "GpuConfig", "kernelDriver": driver, **more}
    opaque = {"driver": "gpu.intel.com", "parameters": parameters}
    return [{"opaque": opaque, **({"requests": list(requests)} if requests else {})}]


def device_nodes(node: Node, claim: Claim) -> list[str]:
    spec = node.cdi(f"claim-{claim.uid}")
    assert spec is not None
    return [one["path"] for device in spec["devices"] for one in device["containerEdits"].get("deviceNodes", ())]


def given(node: Node, claim: Claim) -> list[str]:
    return [device["device"] for device in node.allocation(claim.uid)["devices"]]


# -- shapes ------------------------------------------------------------------------------------------------


def test_one_device(node: Node) -> None:
    """A VF, all of a GPU, a share of another, and a look at one."""
    vf, whole = node.claim(f"{FLEX}-m4"), node.claim(XE)
    shared = node.claim(f"{OTHER_XE}-shared", consumedCapacity={"memory": "2Gi"})
    looks = node.claim(f"{FLEX}-monitor", adminAccess=True)
    node.until_phase("Ready", vf, whole, shared, looks)
    assert given(node, vf) == [f"{FLEX}-m4-vf0"]
    assert node.entry(shared)["devices"][0]["memory"] == 2 * 2**30
    assert node.entry(looks)["devices"][0]["adminAccess"] is True
    assert node.num_vfs(FLEX) == 4
    for claim in (vf, whole, shared, looks):
        ids = [f"intel.com/gpu=claim-{claim.uid}-0"]
        assert node.allocation(claim.uid)["cdiDevices"] == ids
        assert any("/dev/dri/" in path for path in device_nodes(node, claim))


def test_several_devices_and_drivers(node: Node) -> None:
    """VFs of one GPU and a whole other one in one claim, and a network card that is none of our business."""
    claim = node.claim_of(
        {"device": f"{FLEX}-m8"},
        {"device": "nic0", "driver": "nic.example.com", "pool": "nics"},
        {"device": f"{FLEX}-m8"},
        {"device": XE},
    )
    node.until_phase("Ready", claim)
    assert given(node, claim) == [f"{FLEX}-m8-vf0", f"{FLEX}-m8-vf1", XE]
    assert [one["request"] for one in node.entry(claim)["devices"]] == ["r0", "r2", "r3"]
    assert len(node.allocation(claim.uid)["cdiDevices"]) == 3


def test_first_available(node: Node) -> None:
    """The request that counts is the one that was chosen; its configuration may be for the whole request."""
    choices = [{"name": name, "deviceClassName": "gpu.intel.com"} for name in ("large", "small")]
    claim = node.claim_of(
        {"request": "r0/small", "device": XE},
        requests=[{"name": "r0", "firstAvailable": choices}],
        config=config("vfio", "r0"),
    )
    node.until_phase("Ready", claim)
    assert node.entry(claim)["devices"][0]["request"] == "r0/small"
    assert node.driver(XE) == "vfio-pci"


def test_passed_to_a_virtual_machine(node: Node) -> None:
    claim = node.claim_of({"device": XE}, {"device": OTHER_XE}, config=config("vfio", "r1"))
    node.until_phase("Ready", claim)
    assert (node.driver(XE), node.driver(OTHER_XE)) == ("xe", "vfio-pci")
    assert "/dev/vfio/vfio" in device_nodes(node, claim)
    node.give_back(claim)
    node.until("as before", lambda: node.driver(OTHER_XE) == "xe")


def test_a_configuration_that_is_no_such_thing(node: Node) -> None:
    claim = node.claim_of({"device": XE}, config=config("nvidia"))
    node.until_phase("Refused", claim)
    refused = node.entry(claim)["refused"]
    assert "kernelDriver" in refused["path"]
    assert "vfio" in refused["reason"]
    assert "devices" not in node.entry(claim)
    assert refused["reason"] in node.allocation(claim.uid)["message"]
    node.until("told", lambda: _told(node, claim, "AllocationRefused"))
    good = node.claim(XE)
    node.until_phase("Ready", good)


def _told(node: Node, claim: Claim, reason: str) -> list[JsonObject]:
    return [
        one
        for one in node.lab.cluster.get(EVENTS)["items"]
        if one["reason"] == reason and one["regarding"].get("uid") == claim.uid
    ]


# -- coming and going --------------------------------------------------------------------------------------


def test_made_again_under_the_same_name(node: Node) -> None:
    first = node.claim_of({"device": f"{FLEX}-m4"}, name="same")
    node.until_phase("Ready", first)
    node.prepare(first)
    node.give_back(first)
    second = node.claim_of({"device": f"{FLEX}-m8"}, name="same")
    node.until_phase("Blocked", second)
    assert first.uid in node.allocation(second.uid)["message"]
    assert node.cdi(f"claim-{first.uid}") is not None
    node.unprepare(first)
    node.until_phase("Ready", second)
    assert node.num_vfs(FLEX) == 8
    node.until_gone(first)


def test_deleted_by_force_while_its_container_runs(node: Node) -> None:
    claim, beside = node.claim(f"{FLEX}-m4"), node.claim(f"{FLEX}-m4")
    node.until_phase("Ready", claim, beside)
    node.prepare(claim)
    node.lab.cluster.merge(claim.path, {"metadata": {"finalizers": ["example.com/held"]}})
    done = node.lab.kubectl("delete", "resourceclaim", claim.name, "--force", "--grace-period=0", "--wait=false")
    assert done.code == 0, done.err
    assert node.entry(claim)
    node.lab.cluster.merge(claim.path, {"metadata": {"finalizers": None}})
    node.give_back(beside)
    node.until("forgotten", lambda: not node.entry(claim) and not node.entry(beside))
    node.until("gone", lambda: node.cdi(f"claim-{beside.uid}") is None)
    assert node.num_vfs(FLEX) == 4
    assert node.cdi(f"claim-{claim.uid}") is not None
    node.unprepare(claim)
    node.until("turned off", lambda: node.num_vfs(FLEX) == 0 and node.cdi(f"claim-{claim.uid}") is None)


def test_deallocated_and_allocated_elsewhere(node: Node, nodes: list[Node]) -> None:
    claim = node.claim(f"{FLEX}-m4")
    node.until_phase("Ready", claim)
    node.lab.cluster.merge(f"{claim.path}/status", {"status": {"allocation": None}})
    node.until_gone(claim)


# -- replicas ----------------------------------------------------------------------------------------------


def test_without_a_controller(lab: Lab, nodes: list[Node]) -> None:
    """Nodes go on with what they have; wishes wait and say for whom. The first replica that comes serves all."""
    node = nodes[1]
    waiting = [node.claim(f"{FLEX}-m4") for _ in range(3)]
    node.wish(manualAllocations=[{"name": "me", "devices": [{"device": XE}]}])
    node.until_phase("Blocked", "me")
    assert "waits for the controller" in node.allocation("me")["message"]
    assert not any(map(node.entry, waiting))
    with lab.scope():
        lab.start_controller()
        node.until_phase("Ready", *waiting, "me")
        for claim in waiting:
            node.give_back(claim)
        node.wish()
        node.until_gone(*waiting)


class History:
    """Follows what becomes of the entries of all nodes. Nothing is lost, moved, or given twice."""

    def __init__(self, cluster: kubesim.Cluster) -> None:
        self._watch = cluster.watch(kubesim.Request.to("GET", f"{GROUP}?watch=true"))
        self._last: dict[str, dict[str, JsonObject]] = {}
        self.deleted: set[str] = set()

    def check(self) -> None:
        lines, _ = self._watch.poll()
        for line in lines:
            found = json.loads(line)["object"]
            self._follow(found["metadata"]["name"], found["spec"].get("allocations", []))

    def close(self) -> None:
        self._watch.close()

    def _follow(self, node: str, entries: list[JsonObject]) -> None:
        now = {entry["name"]: entry for entry in entries}
        taken = [
            (device["physicalFunction"], device["virtualFunction"]["index"])
            for entry in entries
            for device in entry.get("devices", ())  # refused for as long as all VFs are given
        ]
        assert len(taken) == len(set(taken)), f"given twice: {taken}"
        for uid, before in self._last.get(node, {}).items():
            if uid in now:
                assert now[uid].get("devices") == before.get("devices", now[uid].get("devices")), "moved"
            else:
                assert uid in self.deleted, f"lost: {before}"
        self._last[node] = now


def test_three_replicas_that_die_while_claims_churn(lab: Lab, nodes: list[Node]) -> None:
    rng = random.Random(SEED)
    history = History(lab.cluster)
    gpus = [(node, gpu) for node in nodes for gpu in (FLEX, OTHER_FLEX)]
    living: list[tuple[Node, str, Claim]] = []
    with lab.scope():
        replicas = [lab.start_controller(f"controller-{number}") for number in range(3)]
        for number in range(CLAIMS):
            room = [(n, g) for n, g in gpus if sum(1 for m, h, _ in living if (m, h) == (n, g)) < 4]
            if not room or rng.random() < 0.3:
                node, _, claim = living.pop(rng.randrange(len(living)))
                history.deleted.add(claim.uid)
                node.give_back(claim)
            if room:
                node, gpu = rng.choice(room)
                living.append((node, gpu, node.claim(f"{gpu}-m4")))
            if number % 15 == 7:
                victim = rng.randrange(3)
                replicas[victim].end(signal.SIGKILL)
                replicas[victim] = lab.start_controller(f"controller-{victim}")
            history.check()
            _, _, claim = living[-1]
            if rng.random() < 0.2:
                living[-1][0].until_entered(claim)
        for node, _, claim in living:
            node.until_phase("Ready", claim)
        history.check()
        for node, _, claim in living:
            history.deleted.add(claim.uid)
            node.give_back(claim)
        for node in nodes:
            node.until_empty(FLEX, OTHER_FLEX)
            assert not list((node.machine.where / "cdi").iterdir())
    history.check()
    history.close()


def test_a_node_that_is_gone(lab: Lab, controller: Daemon) -> None:
    """Its GpuNodeState goes with it, and nobody makes it again. On the machine users go on."""
    with lab.scope():
        machine = lab.add_node("node-c", "flex170")
        node = Node(lab, "node-c", machine, lab.start_agent("node-c"))
        node.until_there()
        claim = node.claim(f"{gpu_at('03')}-m4")
        node.until_phase("Ready", claim)
        assert lab.kubectl("delete", "node", "node-c").code == 0
        node.until("gone", lambda: lab.node_state("node-c") is None)
        node.agent.until_logged("can't create the GpuNodeState of this node")
        assert lab.node_state("node-c") is None
        assert node.num_vfs(gpu_at("03")) == 4
        node.give_back(claim)
