"""A node in its cluster: its object comes, goes and is restored, the API server fails, agents die.

Each test has a node of its own.
"""

import copy
import itertools
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import kubesim
from hack.lab.cluster import CRD, GROUP, Lab
from hack.lab.processes import Daemon, eventually
from kubesim import Fault, Rule
from tests.cluster.nodes import Claim, Node, allocate, gpu_at, make_claim

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    # Of connections that clients break while the simulated server shakes hands, in that server.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

GPU = gpu_at("03")
DEFINITION = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD.stem}"
AGENT = ("--linger-seconds", "0", "--resync-seconds", "1")


@pytest.fixture(name="controller", scope="module")
def fixture_controller(lab: Lab) -> Daemon:
    return lab.start_controller()


@pytest.fixture(name="numbers", scope="module")
def fixture_numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture(name="bare")
def fixture_bare(lab: Lab, controller: Daemon, numbers: Iterator[int]) -> Iterator[str]:
    """A node where no agent runs yet."""
    name = f"node-{next(numbers)}"
    with lab.scope():
        lab.add_node(name, "flex170")
        yield name
    lab.cluster.clear_faults()


def started(lab: Lab, name: str, *words: str) -> Node:
    node = Node(lab, name, lab.machines[name], lab.start_agent(name, *(words or AGENT)))
    node.until("adopted", lambda: is_adopted(node))
    return node


def is_adopted(node: Node) -> bool:
    found = node.lab.node_state(node.name)
    return found is not None and found["spec"].get("adoptedUID") == found["metadata"]["uid"]


@pytest.fixture(name="node")
def fixture_node(lab: Lab, bare: str) -> Node:
    return started(lab, bare)


@contextmanager
def away(daemon: Daemon) -> Iterator[None]:
    """A process gets no time to run."""
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def second_of_two(node: Node) -> Claim:
    """A claim whose VF is not the one that it would get anew."""
    first, second = node.claim(f"{GPU}-m4"), node.claim(f"{GPU}-m4")
    node.until_phase("Ready", first, second)
    if index_of(node, first) > index_of(node, second):
        first, second = second, first
    node.give_back(first)
    node.until_gone(first)
    assert index_of(node, second) == 1
    return second


def index_of(node: Node, claim: Claim) -> int:
    return int(node.entry(claim)["devices"][0]["virtualFunction"]["index"])


def changes(node: Node) -> int:
    """How much the agents of this node have changed on the machine, CDI files included."""
    return node.agent.log.count("reconciler.node.applying: done")


def file_of(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((node.machine.where / "lib/desired/node.json").read_text())
    return found


def status_writes(node: Node) -> list[kubesim.Logged]:
    return [
        one
        for one in list(node.lab.cluster.requests)
        if one.request.method == "PATCH" and one.request.path == f"{GROUP}/{node.name}/status"
    ]


def test_its_object_is_owned_by_the_node(node: Node) -> None:
    found = node.lab.node_state(node.name)
    assert found is not None
    (owner,) = found["metadata"]["ownerReferences"]
    live = node.lab.cluster.get(f"/api/v1/nodes/{node.name}")
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Node", node.name, live["metadata"]["uid"])
    assert node.columns()["READY"] == "True"


def test_edits_of_the_file_are_overwritten(node: Node) -> None:
    claim = node.claim(f"{GPU}-m4")
    node.until_phase("Ready", claim)
    file = node.machine.where / "lib/desired/node.json"
    right = file.read_bytes()
    for wrong in (b"", b"{", right.replace(claim.uid.encode(), b"1" * 36), b'{"spec": {}}'):
        file.write_bytes(wrong)
        node.until("overwritten", lambda: file.read_bytes() == right)
    file.unlink()
    node.until("written", lambda: file.exists() and file.read_bytes() == right)
    node.until_phase("Ready", claim)
    assert node.cdi(f"claim-{claim.uid}") is not None


def test_an_object_that_was_deleted_is_made_again(node: Node) -> None:
    claim = second_of_two(node)
    nonce, changed = node.prepare(claim), changes(node)
    before = node.lab.node_state(node.name)
    assert before is not None
    assert node.lab.kubectl("delete", "gns", node.name).code == 0
    node.until("made again", lambda: is_adopted(node) and node.phase(claim.uid) == "Ready")
    found = node.lab.node_state(node.name)
    assert found is not None
    assert found["metadata"]["uid"] != before["metadata"]["uid"]
    assert index_of(node, claim) == 1
    node.until("mirrored", lambda: file_of(node)["metadata"]["uid"] == found["metadata"]["uid"])
    assert (changes(node), node.nonces()[claim.uid]) == (changed, nonce)


def test_an_object_from_a_backup_takes_nothing_away(node: Node, controller: Daemon) -> None:
    """The backup is from before the claim, and names an object that is no more as the one adopted."""
    backup = copy.deepcopy(node.lab.node_state(node.name))
    assert backup is not None
    claim, cluster = second_of_two(node), node.lab.cluster
    changed = changes(node)
    backup["metadata"] = {key: backup["metadata"][key] for key in ("name", "ownerReferences")}
    with away(controller):
        cluster.delete(f"{GROUP}/{node.name}")
        try:
            restored = cluster.create(GROUP, backup)
        except kubesim.Refusal:  # the agent was quicker: it is put back over that one
            live = cluster.get(f"{GROUP}/{node.name}")["metadata"]
            restored = cluster.replace(
                f"{GROUP}/{node.name}",
                {**backup, "metadata": {**backup["metadata"], "resourceVersion": live["resourceVersion"]}},
            )
        uid = restored["metadata"]["uid"]
        node.until("mirrored", lambda: file_of(node)["metadata"]["uid"] == uid)
        node.until("followed", lambda: node.status.get("observedGeneration") == restored["metadata"]["generation"])
        node.until_phase("Ready", claim)
    node.until("adopted", lambda: is_adopted(node) and node.entry(claim))
    assert index_of(node, claim) == 1
    node.until_phase("Ready", claim)
    assert changes(node) == changed


def test_an_outage(node: Node) -> None:
    """Things change on both sides meanwhile. It catches up once, without a storm."""
    cluster = node.lab.cluster
    stays, goes = node.claim(f"{GPU}-m4"), node.claim(f"{GPU}-m4")
    node.until_phase("Ready", stays, goes)
    spec = node.machine.where / f"cdi/intel.com-gpu_claim-{stays.uid}.json"
    with node.lab.outage():
        spec.unlink()
        eventually("repaired", lambda: spec.exists() or None, lambda: node.agent.log)
        node.give_back(goes)
        comes = node.claim(f"{GPU}-m4")
        cluster.merge(f"{GROUP}/{node.name}", {"spec": {"policy": {"lingerSeconds": 7}}})
        cluster.compact()
        before = len(cluster.requests)
    node.until_phase("Ready", stays, comes)
    node.until_gone(goes)
    node.until("mirrored", lambda: file_of(node)["spec"]["policy"] == {"lingerSeconds": 7})
    node.until("reported", lambda: node.status["observedGeneration"] == file_of(node)["metadata"]["generation"])
    assert len(cluster.requests) - before < 60


def test_an_unreliable_server(node: Node) -> None:
    """Everything that can go wrong with an answer, at random, while claims come and go."""
    cluster = node.lab.cluster
    before = len(cluster.requests)
    for fault in (Fault.DROPPED, Fault.LOST, Fault.CONFLICT, Fault.INTERNAL, Fault.STALE, Fault.THROTTLED):
        cluster.add_fault(Rule(fault=fault, path="gpunodestates|events", probability=0.2, count=5))
    cluster.add_fault(Rule(fault=Fault.EXPIRED, method="WATCH", count=2))
    cluster.add_fault(Rule(fault=Fault.SLOW, probability=0.2, seconds=0.1))
    claims: list[Claim] = []
    for number in range(12):
        claims.append(node.claim(f"{GPU}-m4"))
        if number >= 2:
            node.give_back(claims[number - 2])
        if number % 4 == 3:
            cluster.drop_watches()
        node.until_entered(claims[number])
    cluster.clear_faults()
    node.until_phase("Ready", *claims[-2:])
    node.until_gone(*claims[:-2])
    assert node.num_vfs(GPU) == 4
    assert len(cluster.requests) - before < 600


def test_an_agent_that_was_killed(lab: Lab, node: Node) -> None:
    held = second_of_two(node)
    node.prepare(held)
    changed = changes(node)
    node.agent.end(signal.SIGKILL)
    comes = node.claim(f"{GPU}-m4")
    node.until("entered", lambda: node.entry(comes))
    assert not node.phase(comes.uid)
    again = started(lab, node.name)
    again.until_phase("Ready", held, comes)
    assert (index_of(again, held), index_of(again, comes)) == (1, 0)
    assert changes(again) == changed + 1  # one CDI file


def test_two_agents_at_once(lab: Lab, node: Node) -> None:
    with lab.scope():
        second = lab.start_agent(node.name, *AGENT)
        second.until_logged("standing by")
        claim = node.claim(f"{GPU}-m4")
        node.until_phase("Ready", claim)
        node.agent.end(signal.SIGKILL)
        later = node.claim(f"{GPU}-m4")
        node.until_phase("Ready", later)
        assert second.process.poll() is None


@contextmanager
def definition(lab: Lab, change: Any) -> Iterator[None]:
    """Another version of our CRD for a while."""
    right = lab.cluster.get(DEFINITION)["spec"]
    other = copy.deepcopy(right)
    (version,) = other["versions"]
    change(version["schema"]["openAPIV3Schema"]["properties"])
    lab.cluster.merge(DEFINITION, {"spec": other})
    try:
        yield
    finally:
        lab.cluster.merge(DEFINITION, {"spec": right})


def test_a_field_that_is_newer_than_the_agent(node: Node) -> None:
    claim = node.claim(f"{GPU}-m4")
    node.until_phase("Ready", claim)

    def newer(properties: dict[str, Any]) -> None:
        properties["spec"]["properties"]["powerLimit"] = {"type": "integer"}

    with definition(node.lab, newer):
        assert node.patch({"powerLimit": 150, "paused": True}).code == 0
        node.until("stalled", lambda: node.condition("Stalled").get("status") == "True")
        message = node.condition("Stalled")["message"]
        assert "powerLimit" in message
        assert "paused" in message  # the allowed fields
        assert node.phase(claim.uid) == "Ready"
        assert node.status["observedGeneration"] < file_of(node)["metadata"]["generation"]
        node.until("told", lambda: any("powerLimit" in note for note in node.events("Stalled")))
        late = node.claim(f"{GPU}-m4")
        node.until("entered", lambda: node.entry(late))
        assert node.patch({"powerLimit": None, "paused": None}).code == 0
        node.until("going on", lambda: node.condition("Stalled")["status"] == "False")
        node.until_phase("Ready", claim, late)


def as_it_is(properties: dict[str, Any]) -> None:
    """No other CRD."""


def without_summary(properties: dict[str, Any]) -> None:
    del properties["status"]["properties"]["summary"]


@pytest.mark.parametrize("crd", [as_it_is, without_summary])
def test_at_rest_nothing_is_written(lab: Lab, bare: str, crd: Any) -> None:
    """A server that drops a field of the status is no reason to write it again."""
    with definition(lab, crd):
        node = started(lab, bare, "--resync-seconds", "60")
        claim = node.claim(f"{GPU}-m4")
        node.until_phase("Ready", claim)
        node.until("settled", lambda: node.condition("Reconciling").get("status") == "False")
        generation = node.status["observedGeneration"]
        before = len(status_writes(node))
        time.sleep(4)  # that something does not happen takes time to see
        late = status_writes(node)[before + 1 :]  # one may just have been due
        assert (late, node.status["observedGeneration"]) == ([], generation)


def until_paused(node: Node, *, paused: bool) -> None:
    node.until("mirrored", lambda: file_of(node)["spec"]["paused"] is paused)


def test_status_writes_are_a_second_apart(node: Node) -> None:
    """Unless an allocation changes its phase, for which somebody waits."""
    node.until("settled", lambda: node.condition("Ready").get("status") == "True")
    before = len(status_writes(node))
    for number in range(12):
        node.lab.cluster.merge(f"{GROUP}/{node.name}", {"spec": {"paused": number % 2 == 0}})
        until_paused(node, paused=number % 2 == 0)
        time.sleep(0.15)
    node.until("reported", lambda: node.status["observedGeneration"] == file_of(node)["metadata"]["generation"])
    times = [one.at for one in status_writes(node)[max(0, before - 1) :]]
    assert len(times) > 1
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 0.95


def test_a_claim_of_another_node_is_nothing_to_us(lab: Lab, node: Node) -> None:
    claim = make_claim(lab.cluster, "elsewhere")
    allocate(lab.cluster, claim, "node-without-agent", {"device": GPU})
    ours = node.claim(GPU)
    node.until_phase("Ready", ours)
    assert not node.entry(claim)
