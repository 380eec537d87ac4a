"""A claim on its way through the real controller, node agent and plugin, to CDI names and back to nothing.

The machine, the API server and what the scheduler and the kubelet do are simulated.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.lab.cluster import opened
from hack.lab.processes import Daemon, running
from plugin.pb.dra.v1 import api_pb2 as dra
from plugin.places import Places
from tests.cluster.nodes import Claim, Node, gpu_at
from tests.unit.plugin.stand import Kubelet, tell_server

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

NAME = "node-a"
GPU = gpu_at("03")


@dataclass(frozen=True, slots=True)
class Site:
    """A node with all that is ours on it."""

    node: Node
    kubelet: Kubelet
    plugin: Daemon

    def handed_out(self, answer: dra.NodePrepareResourceResponse, claim: Claim) -> None:
        """Judge that what the kubelet gets is what a container runtime finds."""
        assert not answer.error
        spec = self.node.cdi(f"claim-{claim.uid}")
        assert spec is not None
        known = {f"{spec['kind']}={device['name']}" for device in spec["devices"]}
        assert [set(device.cdi_device_ids) <= known for device in answer.devices] == [True] * len(spec["devices"])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    where = Path(tempfile.mkdtemp(prefix="gpu-"))
    try:
        with opened(where) as lab:
            lab.start_controller()
            machine = lab.add_node(NAME, "flex170")
            agent = lab.start_agent(NAME, "--linger-seconds", "0")
            places = Places(
                run=machine.where / "run",
                kubelet=where / "k",
                procfs=machine.where / "proc",
            )
            words = ("plugin", "--node-name", NAME, "--kubelet-root", str(places.kubelet))
            with running(words, machine.environment, where / "logs/plugin.log") as plugin:
                tell_server(places)
                kubelet = Kubelet(places)
                kubelet.register()
                yield Site(Node(lab, NAME, machine, agent), kubelet, plugin)
    finally:
        shutil.rmtree(where)


def test_a_virtual_function_that_did_not_exist_before(site: Site) -> None:
    node = site.node
    claim = node.claim(f"{GPU}-m4")
    assert node.num_vfs(GPU) in (0, 4)
    answer = site.kubelet.prepare(claim.uid)[claim.uid]
    site.handed_out(answer, claim)
    (device,) = answer.devices
    assert (device.pool_name, device.device_name, list(device.request_names)) == (NAME, f"{GPU}-m4", ["r0"])
    assert device.share_id
    assert node.num_vfs(GPU) == 4
    # Force-deleted: the container still runs, so its VF stays until the kubelet gives the claim back.
    node.give_back(claim)
    node.until_phase("Releasing", claim)
    assert node.num_vfs(GPU) == 4
    assert site.kubelet.unprepare(claim.uid) == {claim.uid: ""}
    node.until_gone(claim)
    assert node.cdi(f"claim-{claim.uid}") is None


def test_a_claim_waits_for_the_one_before_it(site: Site) -> None:
    """Another layout of the same GPU: it comes when the last user of the first has left."""
    node = site.node
    first = node.claim(f"{GPU}-m4")
    site.handed_out(site.kubelet.prepare(first.uid)[first.uid], first)
    second = node.claim(f"{GPU}-m2")
    said = site.kubelet.prepare(second.uid, timeout=4.0)[second.uid].error
    assert said.startswith("Blocked: ")
    node.give_back(first)
    site.kubelet.unprepare(first.uid)
    site.handed_out(site.kubelet.prepare(second.uid)[second.uid], second)
    assert node.num_vfs(GPU) == 2
    node.give_back(second)
    site.kubelet.unprepare(second.uid)
    node.until_gone(first, second)


def test_the_agent_may_die_while_a_claim_is_prepared(site: Site) -> None:
    node = site.node
    claim = node.claim(GPU)
    node.agent.process.send_signal(signal.SIGSTOP)
    said = site.kubelet.prepare(claim.uid, timeout=3.5)[claim.uid].error
    assert "no entry for this claim" in said
    node.agent.process.send_signal(signal.SIGCONT)
    site.handed_out(site.kubelet.prepare(claim.uid)[claim.uid], claim)
    node.give_back(claim)
    site.kubelet.unprepare(claim.uid)
    node.until_gone(claim)


def test_a_claim_that_cannot_be_had_says_why(site: Site) -> None:
    node = site.node
    claim = node.claim("0000-99-00-0-0x56c0")
    node.until_phase("Refused", claim)
    said = site.kubelet.prepare(claim.uid, timeout=3.5)[claim.uid].error
    assert said.startswith("refused: ")
    assert "0000-99-00-0-0x56c0" in said
    site.kubelet.unprepare(claim.uid)
    node.give_back(claim)
    node.until_gone(claim)


def test_nothing_is_left_behind(site: Site) -> None:
    node, machine = site.node, site.node.machine.where
    claim = node.claim(GPU)
    site.handed_out(site.kubelet.prepare(claim.uid)[claim.uid], claim)
    node.give_back(claim)
    site.kubelet.unprepare(claim.uid)
    node.until_gone(claim)
    assert list((machine / "run/marks").iterdir()) == []
    assert list((machine / "cdi").iterdir()) == []
    held = json.loads((machine / "run/status/held.json").read_text())
    assert held["claims"] == {}
