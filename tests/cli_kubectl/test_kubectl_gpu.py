"""``kubectl gpu``, through the real kubectl, on nodes that are really there."""

import json
import tomllib

import pytest
import yaml

from hack.lab.cluster import Lab, Result
from hack.lab.processes import REPOSITORY
from tests.cli_kubectl.conftest import Gpu
from tests.cluster.nodes import B60, Node, gpu_at

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    # Of connections that clients break while the simulated server shakes hands, in that server.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BOTH, ONE, XE = gpu_at("03"), gpu_at("04"), gpu_at("05", B60)
"""A name that GPUs of both nodes have, and two that only node-a has."""


def rows(result: Result) -> list[list[list[str]]]:
    """The tables of an answer: words by line."""
    assert result.code in (0, 2), result.err
    return [[line.split() for line in part.splitlines()] for part in result.out.split("\n\n")]


def told(result: Result) -> dict[str, str]:
    """The fields of an answer's first part."""
    assert result.code == 0, result.err
    lines = [line.partition(":") for line in result.out.split("\n\n")[0].splitlines()]
    return {name.strip(): value.strip() for name, _, value in lines}


def test_entry_point() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["kubectl-gpu"] == "reconciler.cli.kubectl_gpu:main"


def test_status(gpu: Gpu, ask: Gpu, node: Node) -> None:
    [nodes] = rows(gpu("status"))  # all is well: nothing else to tell
    assert nodes[0] == ["NODE", "READY", "GPUS", "VFS", "CLAIMS", "MANUAL", "BLOCKED", "AGE", "WHY"]
    assert [line[:7] for line in nodes[1:]] == [
        ["node-a", "True", "3", "0", "0", "0", "0"],
        ["node-b", "True", "1", "0", "0", "0", "0"],
    ]

    claim = node.claim(f"{ONE}-m4")
    node.until_phase("Ready", claim)
    _, gpus, claims = rows(gpu("status", "node-a"))
    assert [line[1] for line in gpus[1:]] == [BOTH, ONE, XE]
    assert [line[:3] + line[4:5] for line in claims[1:]] == [
        ["node-a", f"default/{claim.name}", "Ready", f"{ONE}-m4-vf0"]
    ]
    assert {line[0] for line in rows(ask("status", "-o", "wide"))[1][1:]} == {"node-a", "node-b"}

    found = json.loads(ask("status", "-o", "json").out)
    assert found["node-a"] == node.status
    assert yaml.safe_load(ask("status", "node-b", "-o", "yaml").out).keys() == {"node-b"}


def test_plan(gpu: Gpu, ask: Gpu, node: Node) -> None:
    assert ask("plan").out == "nothing to do, and nothing waits\n"
    claim = node.claim(ONE)
    node.until_phase("Ready", claim)
    node.prepare(claim)
    late = node.claim(f"{ONE}-m4")
    node.until_phase("Blocked", late)
    waiting = gpu("plan", "node-a")
    assert waiting.code == 2
    assert f"default/{late.name}" in waiting.out
    assert ask("plan", "node-b").code == 0
    assert json.loads(ask("plan", "-o", "json").out)["node-a"] == node.status["plan"]
    assert [line[2] for line in rows(ask("status"))[1][1:]] == ["Blocked"]  # what is Ready is not told


def test_explain(gpu: Gpu, ask: Gpu, node: Node) -> None:
    claim = node.claim(f"{ONE}-m4")
    node.until_phase("Ready", claim)
    node.prepare(claim)
    node.until("told", lambda: node.allocation(claim.uid).get("inUse"))
    by_name = told(gpu("explain", claim.name))
    assert by_name["Claim"] == f"default/{claim.name}"
    assert (by_name["UID"], by_name["Node"], by_name["Phase"]) == (claim.uid, "node-a", "Ready")
    assert (by_name["Devices"], by_name["In use"]) == (f"{ONE}-m4-vf0", "yes")
    for words in ((claim.uid,), (f"default/{claim.name}",), (claim.name, "-n", "default")):
        assert json.loads(ask("explain", *words, "-o", "json").out)["uid"] == claim.uid
    assert ask("explain", claim.name, "-n", "other").code == 1

    by_device = told(ask("explain", f"{ONE}-m4-vf0"))
    assert (by_device["GPU"], by_device["VFs"]) == (ONE, "4/31 flex170_m4")
    assert by_device["Used by"] == f"default/{claim.name}"
    assert "flex170_m8" in by_device["Layouts"]
    assert told(ask("explain", "0000:04:00.0"))["GPU"] == ONE

    assert told(ask("explain", "node-b"))["Newest spec"] == "followed"


def test_drain_and_undo(gpu: Gpu, ask: Gpu, node: Node) -> None:
    others = [{"device": XE, "mode": "Fixed", "reason": "of others"}]
    node.wish(overrides=others)
    claim = node.claim(ONE)
    node.until_phase("Ready", claim)
    node.prepare(claim)

    tried = ask("drain", ONE, "--dry-run")
    assert tried.out == (
        f"{ONE} on node-a: nobody new gets it; still used by default/{claim.name} (dry run: nothing was changed)\n"
    )
    assert node.spec["overrides"] == others

    waited = gpu("drain", ONE, "--reason", "fan", "--wait", "--timeout", "0.1", "-o", "json")
    assert waited.code == 2
    assert json.loads(waited.out)["users"] == [f"default/{claim.name}"]
    assert node.spec["overrides"] == [*others, {"device": ONE, "mode": "Drain", "reason": "fan"}]
    assert told(ask("explain", ONE))["Override"] == f"Drain: fan (by kubectl-gpu-drain-{ONE})"

    node.unprepare(claim)
    node.give_back(claim)
    done = ask("drain", ONE, "--wait")
    assert (done.code, done.out) == (0, f"{ONE} on node-a: nobody new gets it, and nobody uses it\n")
    assert node.spec["overrides"][1]["reason"] == "fan"  # as no other was given
    assert told(ask("explain", ONE))["Withdrawn"] == "confirmed"

    undone = ask("drain", ONE, "--undo", "--wait")
    assert (undone.code, undone.out) == (0, f"{ONE} on node-a: can be used again\n")
    assert node.spec["overrides"] == others


def test_word_of_others_stands(ask: Gpu, node: Node) -> None:
    node.wish(overrides=[{"device": ONE, "mode": "Ignore", "reason": "mine"}, {"device": XE, "mode": "Drain"}])
    before = node.spec["overrides"]
    for words in ((), ("--undo",)):
        refused = ask("drain", ONE, *words)
        assert refused.code == 1
        assert "its override Ignore (mine) is by kubectl-patch: kubectl edit gns node-a" in refused.err
    assert ask("drain", XE).code == 0  # both want it
    still = ask("drain", XE, "--undo")
    assert still.code == 1
    assert f"{XE} on node-a: stays Drain, as kubectl-patch wants it" in still.err
    assert node.spec["overrides"] == before


def test_drain_of_a_gpu_that_is_gone_can_be_undone(ask: Gpu, node: Node, nodes: dict[str, Node]) -> None:
    there = nodes["node-b"]
    assert ask("drain", BOTH, "--node", "node-b", "--wait").code == 0
    there.happen("unplug 0000:03:00.0")
    there.until("unplugged", lambda: not there.status.get("devices"))
    assert ask("drain", BOTH, "--undo").code == 0
    assert there.spec.get("overrides", []) == []
    there.happen("plug 0000:03:00.0")
    there.until("plugged", lambda: there.status.get("devices"))


def test_release(gpu: Gpu, ask: Gpu, node: Node) -> None:
    claim = node.claim(f"{ONE}-m4")
    node.until_phase("Ready", claim)
    nonce = node.prepare(claim)
    node.give_back(claim)
    late = node.claim(ONE)
    node.until_phase("Blocked", late)

    assert ask("release", claim.uid, "--dry-run").code == 0
    assert node.spec.get("releases", []) == []
    done = gpu("release", claim.uid, "--wait")
    assert (done.code, done.out.endswith("on node-a: taken back\n")) == (0, True)
    node.until("told", lambda: node.status_file().get("releasedMarks", {}).get(claim.uid) == nonce)
    node.unprepare(claim)  # as the plugin does when it is told so
    node.until_phase("Ready", late)
    assert node.spec["releases"] == [claim.uid]

    named = ask("release", late.name, "-o", "yaml", "--wait")
    assert yaml.safe_load(named.out)["done"] is True
    assert set(node.spec["releases"]) == {claim.uid, late.uid}  # nobody's word was taken back


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("status", "nope"), "nope: no such node, or it has no GpuNodeState"),
        (("drain", "x"), f"x: no such GPU (allowed: {BOTH}, {ONE}, {XE})"),
        (("drain", BOTH), f"{BOTH}: on several nodes, say which with --node: node-a, node-b"),
        (("explain", "x"), "x: no such claim, GPU or node (allowed: node-a, node-b, "),
        (("release", "x"), "x: no such claim on any node; there is none at all"),
        (("drain", ONE, "--timeout", "0"), "'0' is no time (allowed: seconds above 0, up to a day)"),
        (("status", "-o", "xml"), "'xml' is unknown (allowed: table, wide, yaml, json)"),
        (
            ("status", "--context", "nope"),
            "contexts: no 'nope' among them (there are: kubesim, kubesim-certificate)",
        ),
        (("bla",), "invalid choice: 'bla'"),
    ],
)
def test_errors_are_one_line(ask: Gpu, node: Node, words: tuple[str, ...], why: str) -> None:
    failed = ask(*words)
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.startswith("kubectl gpu: ")
    assert len(failed.err.splitlines()) == 1
    assert why in failed.err


def test_outage(gpu: Gpu, lab: Lab, nodes: dict[str, Node]) -> None:
    with lab.outage():
        away = gpu("status")
    assert (away.code, away.out, len(away.err.splitlines())) == (1, "", 1)
