"""``kubectl gpu`` where nothing of ours runs: no driver yet, or no agent that has said anything."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import kubesim
from hack.lab.cluster import CRD, GROUP
from reconciler.cli.kubectl_gpu import main
from state.manifest import API_VERSION, KIND

GPU = "0000-03-00-0-0x56c0"
UIDS = {"here": "11111111-2222-4333-8444-555555555555", "there": "66666666-7777-4888-9999-000000000000"}

# Of connections that clients break while the simulated server shakes hands, in that server.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(name="cluster")
def fixture_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[kubesim.Cluster]:
    cluster = kubesim.Cluster("1.36", seed=1)
    with kubesim.serving(cluster, tmp_path) as served:
        monkeypatch.setenv("KUBECONFIG", str(served.kubeconfig))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "nowhere.invalid")  # as in a pod: KUBECONFIG wins
        yield cluster
    gc.collect()


def test_no_driver(cluster: kubesim.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 1
    assert capsys.readouterr().err == (
        "kubectl gpu: this cluster knows no GpuNodeStates: is the driver installed?\n"
    )
    cluster.load(CRD.read_text())
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "no node has a GpuNodeState\n"
    assert main(["explain", "x"]) == 1
    assert capsys.readouterr().err == "kubectl gpu: x: no such claim, GPU or node; there is none at all\n"


def test_nodes_that_have_said_nothing(cluster: kubesim.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.load(CRD.read_text())
    refused = {"path": "spec.devices.config[0]", "reason": "kernelDriver is unknown"}
    for node, namespace in (("node-a", "here"), ("node-b", "there")):
        entry = {
            "name": UIDS[namespace],
            "claimNamespace": namespace,
            "claimName": "twin",
            "source": "resource.k8s.io/v1",
            "refused": refused,
        }
        spec = {"allocations": [entry], "overrides": [{"device": GPU, "mode": "Ignore", "reason": "broken"}]}
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": node}, "spec": spec}
        cluster.create(GROUP, body)

    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["node-a", "Unknown"], ["node-b", "Unknown"]]
    assert lines[1].endswith("its agent has not said anything yet")

    assert main(["explain", "twin"]) == 1
    assert capsys.readouterr().err == (
        "kubectl gpu: twin: that could be any of these, say which by its UID, or with --node: "
        f"here/twin ({UIDS['here']}) on node-a, there/twin ({UIDS['there']}) on node-b\n"
    )
    for words in ((UIDS["there"],), ("there/twin",), ("twin", "-n", "there"), ("twin", "--node", "node-b")):
        assert main(["explain", *words]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "Claim:       there/twin",
            f"UID:         {UIDS['there']}",
            "Node:        node-b",
            "Refused:     spec.devices.config[0]: kernelDriver is unknown",
            "Phase:       not seen by the node yet",
            "What helps:  see that the node's agent runs",
        ]

    assert main(["explain", "node-a"]) == 0
    assert f"Override:     {GPU} Ignore: broken" in capsys.readouterr().out.splitlines()
    assert main(["drain", GPU]) == 1
    assert capsys.readouterr().err == f"kubectl gpu: {GPU}: no such GPU; there is none at all\n"
    assert main(["release", UIDS["here"], "--wait", "--timeout", "0.01"]) == 2
    assert capsys.readouterr().out == f"here/twin ({UIDS['here']}) on node-a: not taken back yet\n"
    assert cluster.get(f"{GROUP}/node-a")["spec"]["releases"] == [UIDS["here"]]
