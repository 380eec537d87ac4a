"""Upgrades and downgrades of a node's agent while claims are in use: none is lost, and no VF is touched."""

import gc
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.lab.cluster import CRD, GROUP, Lab, opened
from hack.lab.processes import eventually
from state.manifest import API_VERSION, KIND
from tests.cluster.nodes import CLAIMS, Claim, Node, allocate, gpu_at, machine_of, make_claim
from tests.upgrade.releases import Release, later_release, this_release

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    # Of connections that clients break while the simulated server shakes hands, in that server.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BUSES = ("03", "04", "05")
GPUS = tuple(gpu_at(bus) for bus in BUSES)
NOTE = "of the next release"


@pytest.fixture(name="lab", scope="module")
def fixture_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    where = tmp_path_factory.mktemp("upgrade")
    with opened(where) as lab:
        lab.start_controller()
        yield lab
    gc.collect()  # what the simulated server left behind is complained of here, not in some later test
    shutil.rmtree(where)


@pytest.fixture(name="node")
def fixture_node(lab: Lab) -> Iterator[Node]:
    """A node of the test's own, with this release's agent."""
    name = f"node-{uuid.uuid4().hex[:6]}"
    with lab.scope():
        machine = lab.add_node(name, machine_of(lab.where, dict.fromkeys(BUSES, "flex170")))
        yield Node(lab, name, machine, this_release().start_agent(lab, name))
    for claim in lab.cluster.get(CLAIMS)["items"]:
        lab.cluster.delete(f"{CLAIMS}/{claim['metadata']['name']}")


def changed_to(release: Release, node: Node) -> Node:
    """The node with another release of the agent, once that has said something."""
    node.agent.end()
    before = node.status_file()["writtenAt"]
    fresh = replace(node, agent=release.start_agent(node.lab, node.name))
    fresh.until("followed by another", lambda: fresh.status_file()["writtenAt"] != before)
    return fresh


def used(node: Node, device: str) -> Claim:
    """A claim that has a device and uses it."""
    claim = node.claim(device)
    node.until_phase("Ready", claim)
    node.prepare(claim)
    return claim


def record(node: Node, name: str) -> Any:
    return json.loads(file(node, name).read_text())


def file(node: Node, name: str) -> Path:
    places = {"ownership": Path(node.machine.environment["STATE_DIR"]), "held": node.machine.where / "run/status"}
    return places[name] / f"{name}.json"


class Users:
    """What users of devices have: VFs, what their runtime was given, and that the agent confirms it."""

    def __init__(self, node: Node, *claims: Claim) -> None:
        self._claims = claims
        self._before = self._devices(node)
        self._nonces = self._confirmed(node)

    def notice_nothing(self, node: Node) -> None:
        """Their devices are what they were."""
        assert self._devices(node) == self._before

    def are_confirmed(self, node: Node) -> None:
        """And the plugin would be told so, if a kubelet asked again."""
        self.notice_nothing(node)
        node.until("confirmed", lambda: self._confirmed(node) == self._nonces)

    def _devices(self, node: Node) -> object:
        given = [node.cdi(f"claim-{claim.uid}") for claim in self._claims]
        assert all(given)
        return given, [node.num_vfs(gpu) for gpu in GPUS[:2]]

    def _confirmed(self, node: Node) -> list[str | None]:
        return [node.nonces().get(claim.uid) for claim in self._claims]


def test_fields_of_the_next_release(node: Node, tmp_path: Path) -> None:
    """It adds fields and keeps the format: this one works with it, and keeps them where it changes nothing."""
    ours, later = this_release(), later_release(tmp_path, format_version=1)
    first = used(node, f"{GPUS[0]}-m4")
    node = changed_to(later, node)
    second = used(node, f"{GPUS[1]}-m4")
    users = Users(node, first, second)
    assert record(node, "ownership")["layouts"][GPUS[0]]["nextNote"] == NOTE

    node = changed_to(ours, node)
    third = used(node, f"{GPUS[2]}-m4")
    node.until_phase("Ready", first, second, third)
    users.are_confirmed(node)
    ownership, held = record(node, "ownership"), record(node, "held")
    assert ownership["nextNote"] == held["nextNote"] == NOTE
    assert {gpu: layout.get("nextNote") for gpu, layout in ownership["layouts"].items()} == {
        GPUS[0]: NOTE,
        GPUS[1]: NOTE,
        GPUS[2]: None,
    }
    assert {uid: claim.get("nextNote") for uid, claim in held["claims"].items()} == {
        first.uid: NOTE,
        second.uid: NOTE,
        third.uid: None,
    }

    node = changed_to(later, node)
    node.until_phase("Ready", first, second, third)
    users.are_confirmed(node)


def test_a_format_of_the_next_release(node: Node, tmp_path: Path) -> None:
    """It changes the format: this one leaves everything as it is and says why, until the other is back."""
    ours, later = this_release(), later_release(tmp_path, format_version=2)
    first = used(node, f"{GPUS[0]}-m4")
    node = changed_to(later, node)
    second = used(node, f"{GPUS[1]}-m4")
    users = Users(node, first, second)
    records = {name: file(node, name).read_bytes() for name in ("ownership", "held")}
    assert all(json.loads(data)["formatVersion"] == 2 for data in records.values())

    node = changed_to(ours, node)
    late = node.claim(f"{GPUS[2]}-m4")
    node.until("told", lambda: "formatVersion 2 is of a newer release (this one knows up to 1)" in node.blocked())
    node.until_entered(late)
    node.give_back(second)  # its user goes on
    node.until("heard", lambda: not node.entry(second))
    node.mark(late)
    node.happen("report 0000:03:00.0 CHANGED=1")
    node.until("seen", lambda: node.allocation(late.uid))
    assert node.phase(late.uid) != "Ready"
    assert {name: file(node, name).read_bytes() for name in records} == records
    assert [node.num_vfs(gpu) for gpu in GPUS] == [4, 4, 0]
    users.notice_nothing(node)

    node = changed_to(later, node)
    node.until_phase("Ready", first, late)
    users.are_confirmed(node)
    node.unprepare(second)
    node.until("given back", lambda: node.num_vfs(GPUS[1]) == 0)


def test_a_wish_of_the_next_release(lab: Lab, node: Node) -> None:
    """People use a field that only the next release knows: this one keeps what there is, also after a restart."""
    first = used(node, f"{GPUS[0]}-m4")
    second = used(node, f"{GPUS[1]}-m4")
    users = Users(node, first, second)
    all_files_say_their_version(node)
    lab.apply(later_definition())
    assert node.patch({"policy": {"nextKnob": "on"}}).code == 0
    node.until("told", lambda: "spec.policy.nextKnob" in node.condition("Stalled").get("message", ""))
    assert json.loads(desired(node).read_text())["spec"]["policy"] == {"nextKnob": "on"}

    node = changed_to(this_release(), node)  # now there is no last good one
    node.until("told", lambda: "spec.policy.nextKnob" in node.condition("Stalled").get("message", ""))
    users.notice_nothing(node)
    node.unprepare(second)  # what nobody uses any more stays, too: whether it is wanted is not known
    node.happen("report 0000:03:00.0 CHANGED=1")
    assert [node.num_vfs(gpu) for gpu in GPUS] == [4, 4, 0]

    assert node.patch({"policy": {"nextKnob": None}}).code == 0
    node.until_phase("Ready", first, second)
    node.prepare(second)
    users.notice_nothing(node)
    assert node.condition("Stalled")["status"] == "False"


def test_an_entry_of_the_next_release(lab: Lab) -> None:
    """A later controller has written more about a claim: this one keeps it when it writes about another."""
    lab.cluster.create(
        GROUP, {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "node-x"}, "spec": {}}
    )
    reported = {"observedGeneration": 1, "bootID": "b", "version": "0"}
    lab.cluster.merge(f"{GROUP}/node-x/status", {"status": reported})
    lab.apply(later_definition())

    def entry_of(claim: Claim) -> dict[str, Any]:
        def entry() -> dict[str, Any] | None:
            entries = lab.cluster.get(f"{GROUP}/node-x")["spec"].get("allocations", [])
            return next((one for one in entries if one["name"] == claim.uid), None)

        return eventually("entered", entry, lambda: str(lab.cluster.get(f"{GROUP}/node-x")))

    claims = [make_claim(lab.cluster, f"for-x-{number}") for number in range(2)]
    allocate(lab.cluster, claims[0], "node-x", {"device": GPUS[0]})
    more = [{**entry_of(claims[0]), "nextKnob": "on"}]
    patch = json.dumps({"spec": {"allocations": more}})
    words = ("patch", "gns", "node-x", "--type=merge", "--field-manager=gpu-controller", "--patch", patch)
    assert lab.kubectl(*words).code == 0
    allocate(lab.cluster, claims[1], "node-x", {"device": GPUS[1]})
    entry_of(claims[1])
    assert entry_of(claims[0])["nextKnob"] == "on"


def all_files_say_their_version(node: Node) -> None:
    files = [file(node, "ownership"), file(node, "held"), *(node.machine.where / "run/marks").iterdir()]
    assert [json.loads(each.read_text())["formatVersion"] for each in files] == [1] * len(files)
    assert json.loads(desired(node).read_text())["apiVersion"] == "gpu.dra.intel.com/v1alpha1"


def desired(node: Node) -> Path:
    return Path(node.machine.environment["STATE_DIR"], "desired/node.json")


def later_definition() -> str:
    """Our custom resource definition with one more field in the spec."""
    definition = yaml.safe_load(CRD.read_text())
    [version] = definition["spec"]["versions"]
    policy = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["policy"]
    policy["properties"]["nextKnob"] = {"type": "string"}
    entries = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["allocations"]
    entries["items"]["properties"]["nextKnob"] = {"type": "string"}
    return yaml.safe_dump(definition)
