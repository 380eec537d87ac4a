"""Every claim of the recordings goes through parser and decision, and an API server with our CRD takes the writes.

The recorded driver had device names of its own: once they are kept, and refused by name, and once they are
translated into ours.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import kubesim
from reconciler.controller.controller_metrics import DECLARED
from reconciler.controller.front_ends import FrontEnd
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.lister import Lister
from reconciler.controller.node_states import NODE_STATES, NodeStates
from reconciler.controller.reconciling import Next, Reconciler
from reconciler.controller.turns import Turns
from reconciler.node.tables import load_tables
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.transport import Request, Response
from reconciler.runtime.metrics import NoMetrics
from state.dra.node_object import read_node_object
from state.dra.quantities import whole_units
from state.dra.resource_claims import ClaimReader, ClaimRef
from state.ids import parse_logical_device
from state.manifest_decoding import decode
from tests.contract_files import REPOSITORY, copied_paths, read_text
from tests.kube_in_memory import InMemory

DRIVER = "rec.gpu.intel.com"
NODE = "node-b"
ROW = FrontEnd(version="v1", reader=ClaimReader(driver=DRIVER))
CRD = REPOSITORY / "deploy/crd/gpunodestates.gpu.dra.intel.com.yaml"
RECORDINGS = [
    path
    for path in copied_paths()
    if path.startswith("recordings/new/") and not path.endswith(".grpc.jsonl")  # those are kubelet calls
]
ALLOCATED_TOGETHER = {"g2-shares-per-claim": 3, "g-consumable-capacity": 2, "c-prepare-errors": 1}

Claim = dict[str, Any]


@functools.cache
def events(path: str) -> tuple[tuple[str, str], ...]:
    """What a watch of claims gave: type and object (as JSON, since tests change it)."""
    lines = [json.loads(line) for line in read_text(path).splitlines()]
    claims = [
        line for line in lines if line.get("source") == "watch" and line["object"]["kind"] == "ResourceClaim"
    ]
    return tuple((line["type"], json.dumps(line["object"])) for line in claims)


def translated(claim: Claim, names: dict[str, int]) -> Claim:
    """With device names of ours: shares are of the shared device, all else are whole GPUs."""
    for result in results(claim):
        number = names.setdefault(result["device"], len(names))
        shared = "-shared" if "shareID" in result else ""
        result["device"] = f"0000-{number:02x}-00-0-0x56c0{shared}"
    return claim


def results(claim: Claim) -> list[dict[str, Any]]:
    found = claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
    return [result for result in found if result["driver"] == DRIVER]


class Recorded(InMemory):
    """Claims are those of the recording at this moment, all else is simulated."""

    def __init__(self, cluster: kubesim.Cluster) -> None:
        super().__init__(cluster)
        self.claims: dict[ClaimRef, Claim] = {}

    def send(self, request: Request) -> Response:
        found = re.fullmatch(r".*/namespaces/(.*)/resourceclaims/(.*)", request.path)
        if found is None:
            return super().send(request)
        claim = self.claims.get(ClaimRef(found[1], found[2]))
        if claim is None:
            status = {"kind": "Status", "code": 404, "reason": "NotFound", "details": {"name": found[2]}}
            return Response(status=404, body=json.dumps(status).encode())
        return Response(status=200, body=json.dumps(claim).encode())


class Player:
    """Plays a recording to a controller, one event at a time."""

    def __init__(self) -> None:
        self.cluster = kubesim.Cluster("1.36", seed=1)
        self.cluster.load(CRD.read_text())
        made = {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "metadata": {"name": NODE}}
        self.cluster.create(NODE_STATES, {**made, "spec": {}})
        self.cluster.merge(
            f"{NODE_STATES}/{NODE}/status", {"status": {"observedGeneration": 1, "bootID": "b", "version": "1"}}
        )
        self.transport = Recorded(self.cluster)
        client, metrics = KubeClient(self.transport, retries=NO_RETRIES), NoMetrics(DECLARED)
        ticks = itertools.count()
        self.refused: dict[str, str] = {}
        self.knowledge = Knowledge(lambda: next(ticks))
        self.reconciler = Reconciler(
            client,
            self.knowledge,
            Turns(),
            lambda: ROW,
            load_tables("").profiles,
            Lister(client, lambda: ROW, lambda: 0.0),
            NodeStates(client, self.knowledge, metrics, inventory=lambda: False),
            leading=lambda: True,
            on_refused=lambda refused: self.refused.update({refused.ref.name: refused.refusal.path}),
            metrics=metrics,
            clock=lambda: next(ticks),
        )
        self.look()

    def play(self, kind: str, claim: Claim) -> None:
        ref = ClaimRef(claim["metadata"]["namespace"], claim["metadata"]["name"])
        if kind == "DELETED":
            del self.transport.claims[ref]
        else:
            self.transport.claims[ref] = claim
        heard = None if kind == "DELETED" else ROW.reader.claim(json.dumps(claim).encode())
        if self.knowledge.take_claim(ref, heard):
            self.look()

    def look(self) -> None:
        self.knowledge.take_node(NODE, read_node_object(json.dumps(self.spec_object()).encode()))
        assert self.reconciler.look_at(NODE) == Next()

    def spec_object(self) -> dict[str, Any]:
        return self.cluster.get(f"{NODE_STATES}/{NODE}")

    def entries(self) -> dict[str, dict[str, Any]]:
        manifest = decode(self.spec_object(), cluster=True)
        assert manifest.spec.adopted_uid == manifest.metadata.uid
        return {entry["name"]: entry for entry in self.spec_object()["spec"].get("allocations", [])}

    def expected(self) -> dict[str, list[dict[str, Any]]]:
        claims = self.transport.claims.values()
        return {claim["metadata"]["uid"]: results(claim) for claim in claims if results(claim)}


def steps(path: str, *, ours: bool) -> Iterator[Player]:
    """The player after each event."""
    player = Player()
    names: dict[str, int] = {}
    for kind, raw in events(path):
        claim = json.loads(raw)
        player.play(kind, translated(claim, names) if ours else claim)
        yield player


def same_device(device: dict[str, Any], result: dict[str, Any]) -> None:
    assert [device[field] for field in ("request", "pool", "device")] == [
        result[field] for field in ("request", "pool", "device")
    ]
    assert device.get("shareID") == result.get("shareID")
    assert device.get("adminAccess", False) == result.get("adminAccess", False)
    assert device["physicalFunction"] == parse_logical_device(result["device"]).pf
    memory = result.get("consumedCapacity", {}).get("memory")
    assert device.get("memory") == (memory and whole_units(memory))


def test_there_are_recordings_and_they_allocate() -> None:
    assert len(RECORDINGS) == 18
    for path in RECORDINGS:
        assert any(results(json.loads(claim)) for _, claim in events(path)), path


@pytest.mark.parametrize("path", RECORDINGS)
def test_each_allocation_stands_in_the_spec_while_it_lasts(path: str) -> None:
    most = 0
    for player in steps(path, ours=True):
        entries, expected = player.entries(), player.expected()
        assert entries.keys() == expected.keys()
        for uid, entry in entries.items():
            if "refused" in entry:  # the recorded driver had a configuration of its own
                assert path.split("/")[-1][0] in "mn"
                assert ".opaque.parameters." in entry["refused"]["path"]
                continue
            for device, result in zip(entry["devices"], expected[uid], strict=True):
                same_device(device, result)
        most = max(most, len(entries))
    assert most >= 1
    assert most >= ALLOCATED_TOGETHER.get(path.split("/")[-1].removesuffix(".jsonl"), 1)


@pytest.mark.parametrize("path", RECORDINGS)
def test_strange_device_names_are_refused_by_name(path: str) -> None:
    refused = {}
    for player in steps(path, ours=False):
        assert player.entries().keys() == player.expected().keys()
        for uid, entry in player.entries().items():
            assert "devices" not in entry
            refused[uid] = entry["refused"]
            device = player.expected()[uid][0]["device"]
            assert device in entry["refused"]["reason"] or "opaque.parameters" in entry["refused"]["path"]
    assert refused
