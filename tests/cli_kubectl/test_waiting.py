"""``kubectl gpu explain`` of claims that no node has."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import kubesim
from hack.lab.cluster import CRD
from reconciler.cli.kubectl_gpu import main
from tests.model.controller.classic_world import LATER_PARAMETERS, ClassicWorld

# Of connections that clients break while the simulated server shakes hands, in that server.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def served(cluster: kubesim.Cluster, where: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[kubesim.Cluster]:
    with kubesim.serving(cluster, where) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield cluster
    gc.collect()


@pytest.fixture(name="world")
def fixture_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClassicWorld]:
    world = ClassicWorld(later=True)
    for _ in served(world.cluster, tmp_path, monkeypatch):
        yield world


def test_each_node_says_what_it_would_give(world: ClassicWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.make_gpus("node-1", count=2)
    world.make_gpus("node-2")
    for name in ("node-1", "node-2"):
        found = world.cluster.get(f"/apis/gpu.dra.intel.com/v1alpha1/gpunodestates/{name}")
        adopted = {"spec": {"adoptedUID": found["metadata"]["uid"]}}
        world.cluster.merge(f"/apis/gpu.dra.intel.com/v1alpha1/gpunodestates/{name}", adopted)
    world.make_gpus("node-3")
    world.make_parameters("two", LATER_PARAMETERS, count=2, type="gpu")
    world.make_claim("pair", "two", group="gpu.resource.intel.com")
    assert main(["explain", "pair"]) == 0
    heading, why, _, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["Claim:", "default/pair"]
    assert "the scheduler has yet to choose" in why
    told = {row.split()[0]: row for row in rows if row.startswith("node-")}
    assert "yes" in told["node-1"]
    assert "0000-03-00-0-0x56c0, 0000-04-00-0-0x56c0" in told["node-1"]
    assert "1 of 2 devices can be had" in told["node-2"]
    assert "is new" in told["node-3"]
    assert main(["explain", "default/pair", "-o", "json"]) == 0
    assert [one["fits"] for one in json.loads(capsys.readouterr().out)["nodes"]] == [True, False, False]


def test_what_lies_with_the_claim(world: ClassicWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.make_claim("lost", "nowhere", group="gpu.resource.intel.com")
    world.make_claim("stranger", of="fpga")
    assert main(["explain", "lost"]) == 0
    assert "GpuClaimParameters default/nowhere: there is no such object" in capsys.readouterr().out
    assert main(["explain", "stranger"]) == 0
    assert "its class fpga is none of ours" in capsys.readouterr().out


def test_structured_claims_wait_for_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = kubesim.Cluster("1.36", seed=1)
    cluster.load(CRD.read_text())
    exactly = {"name": "gpu", "exactly": {"deviceClassName": "gpu.intel.com"}}
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "c"},
        "spec": {"devices": {"requests": [exactly]}},
    }
    cluster.create("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", claim)
    for _ in served(cluster, tmp_path, monkeypatch):
        assert main(["explain", "c"]) == 0
        assert "that is for the scheduler" in capsys.readouterr().out
