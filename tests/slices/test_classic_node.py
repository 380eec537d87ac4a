"""The real node agent and the real kubelet plugin in a cluster of 1.26, whose controller is played by the test.

From discovery over two registrations to the CDI names of a claim, and back to nothing left.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hack.lab.cluster import opened
from hack.lab.processes import running
from plugin.pb.dra.v1alpha1 import api_pb2 as v1alpha1
from plugin.places import Places
from tests.cluster.nodes import JsonObject, Node, gpu_at
from tests.unit.plugin.stand import Kubelet

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

NAME = "node-a"
GPU = gpu_at("03")
DRIVERS = ("gpu.dra.intel.com", "gpu.resource.intel.com")


@pytest.fixture(name="where")
def fixture_where() -> Iterator[Path]:
    """A directory with a short name: sockets' paths are limited."""
    where = Path(tempfile.mkdtemp(prefix="gpu-"))
    yield where
    shutil.rmtree(where)


def entry(name: str, uid: str) -> JsonObject:
    """What the controller writes for a VF."""
    device = {
        "request": "",
        "pool": NAME,
        "device": f"{GPU}-m4",
        "physicalFunction": GPU,
        "virtualFunction": {"profile": "flex170_m4", "index": 0},
    }
    return {
        "name": uid,
        "claimNamespace": "default",
        "claimName": name,
        "source": "resource.k8s.io/v1alpha1",
        "devices": [device],
    }


def decide(node: Node, owner: str, *entries: JsonObject) -> None:
    """Write the ledger."""
    done = node.patch({"adoptedUID": owner, "allocations": list(entries)})
    assert done.code == 0, done.err


def call(kubelet: Kubelet, name: str, request: bytes) -> bytes:
    """As a kubelet of 1.26 does it: without a deadline."""
    with grpc.insecure_channel(f"unix:{kubelet.dra_socket}") as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/v1alpha1.Node/{name}")
        return ask(request)


def test_a_claim_of_1_26(where: Path) -> None:
    with opened(where, release="1.26") as lab:
        machine = lab.add_node(NAME, "flex170")
        node = Node(lab, NAME, machine, lab.start_agent(NAME, "--linger-seconds", "0"))
        places = Places(run=machine.where / "run", kubelet=where / "k", procfs=machine.where / "proc")
        words = ("plugin", "--node-name", NAME, "--kubelet-root", str(places.kubelet))
        with running(words, machine.environment, where / "logs/plugin.log"):
            kubelets = [Kubelet(places, driver=driver) for driver in DRIVERS]
            for kubelet in kubelets:
                info = kubelet.register()
                assert (info.name, list(info.supported_versions)) == (kubelet.driver, ["1.0.0"])
            told = json.loads(places.server_file.read_text())
            assert (told["row"], tuple(told["driverNames"])) == ("v1alpha1", DRIVERS)
            assert not [one for one in lab.cluster.requests if "resourceslices" in one.request.path]

            node.until_there()
            owner = (lab.node_state(NAME) or {})["metadata"]["uid"]
            uid = str(uuid.uuid4())
            asked = v1alpha1.NodePrepareResourceRequest(namespace="default", claim_uid=uid, claim_name="c")
            answers: list[bytes] = []

            def prepare() -> None:
                answers.append(call(kubelets[0], "NodePrepareResource", asked.SerializeToString()))

            # The kubelet is quicker than the ledger: it is answered once the VF is there.
            waiting = threading.Thread(target=prepare)
            waiting.start()
            node.until("marked", (places.marks_dir / f"{uid}.json").exists)
            decide(node, owner, entry("c", uid))
            waiting.join()
            assert node.num_vfs(GPU) == 4
            given = v1alpha1.NodePrepareResourceResponse.FromString(answers[0])
            spec = node.cdi(f"claim-{uid}")
            assert spec is not None
            assert list(given.cdi_devices) == [f"{spec['kind']}={one['name']}" for one in spec["devices"]]
            mark = json.loads((places.marks_dir / f"{uid}.json").read_text())
            assert mark["grpcVersion"] == "v1alpha1"

            # Deallocated while its container still runs: the VF stays until the kubelet gives it back.
            decide(node, owner)
            node.until_phase("Releasing", uid)
            back = v1alpha1.NodeUnprepareResourceRequest(claim_uid=uid, cdi_devices=given.cdi_devices)
            assert call(kubelets[0], "NodeUnprepareResource", back.SerializeToString()) == b""
            node.until_empty(GPU)
            assert node.cdi(f"claim-{uid}") is None
            assert list(places.marks_dir.iterdir()) == []
        assert list(places.registry_dir.iterdir()) == []
