"""The definition on a simulated API server, as people meet it: kubectl, and the server's words for each mistake.

``UPDATE_GOLDEN=1`` writes the texts in ``tests/contract/kubectl`` anew; read them as an operator would.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import kubesim
from hack.crdgen.__main__ import CRD
from kubesim.server import serving
from tests.contract.test_crd_rules import (
    AT_ADMISSION,
    BY_THE_ENGINE,
    BY_THE_SERVER_ALONE,
    FLEX,
    UID,
    given,
    override,
    whole,
)

GOLDEN = Path(__file__).parent / "kubectl"
KUBECTL = Path(sys.executable).parent / "kubectl"
COLLECTION = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RELEASES = ["1.26", "1.36"]

STATUS = {
    "observedGeneration": 1,
    "version": "0.1.0",
    "summary": {"gpus": 2, "virtualFunctions": 4, "claims": 3, "manualAllocations": 1, "blocked": 1},
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "Blocked",
            "message": f"{UID}: waits for allocation jupyter",
            "lastTransitionTime": "2026-01-01T12:00:00Z",
        }
    ],
}


@dataclass(frozen=True, slots=True)
class Kubectl:
    """The real kubectl, talking to one server."""

    kubeconfig: Path
    home: Path

    def __call__(self, *arguments: str, sent: object = None, **environment: str) -> tuple[int, str]:
        """Exit code, and what it said on stdout and stderr together."""
        done = subprocess.run(
            [str(KUBECTL), *arguments],
            input="" if sent is None else json.dumps(sent),
            env={"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home), "PATH": os.defpath, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(name="kubectl", params=RELEASES)
def fixture_kubectl(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubectl]:
    with serving(kubesim.Cluster(request.param), tmp_path) as served:
        kubectl = Kubectl(served.kubeconfig, tmp_path)
        code, said = kubectl("apply", "-f", str(CRD))
        assert (code, said) == (0, f"customresourcedefinition.apiextensions.k8s.io/{CRD.stem} created\n")
        # Its memory of what the server has is older than the definition until it misses something.
        assert kubectl("get", "gns") == (0, "No resources found\n")
        yield kubectl


def check(name: str, text: str) -> None:
    """``text`` is what the golden file ``name`` says."""
    file = GOLDEN / name
    if "UPDATE_GOLDEN" in os.environ:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_explain_tells_what_a_field_does(kubectl: Kubectl) -> None:
    for field in ("spec", "spec.overrides", "spec.overrides.virtualFunctions", "spec.manualAllocations.devices"):
        code, said = kubectl("explain", f"gns.{field}")
        assert code == 0
        check(f"explain-{field}.txt", said)


def test_get_is_worth_reading(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", sent={**whole({"paused": True}), "metadata": {"name": "node-1"}})
    kubectl("patch", "gns", "node-1", "--subresource=status", "--type=merge", "-p", json.dumps({"status": STATUS}))
    heads, row = kubectl("get", "gns")[1].splitlines()
    assert heads.split() == ["NAME", "READY", "GPUS", "VFS", "CLAIMS", "BLOCKED", "AGE"]
    assert row.split()[:-1] == ["node-1", "False", "2", "4", "3", "1"]
    _, wide = kubectl("get", "gns", "-o", "wide")
    assert wide.splitlines()[1].split()[7:] == [
        *("Blocked", "1", "true", "1", "1", "0.1.0", f"{UID}:", "waits", "for", "allocation", "jupyter")
    ]


def test_apply_and_patch_refuse_in_plain_words(kubectl: Kubectl) -> None:
    mistakes: dict[str, Any] = {
        **override(mode="Drain", virtualFunctions={"profile": "m4"}),
        **given(f"{FLEX}-m4"),
        "releases": ["ml/job-1"],
    }
    code, said = kubectl("apply", "-f", "-", sent=whole(mistakes))
    assert code == 1
    check("apply.txt", said)
    assert kubectl("apply", "-f", "-", sent=whole(override(mode="Fixed")))[0] == 0
    wrong = {"spec": override(mode="fixed")}
    code, said = kubectl("patch", "gns", "node", "--type=merge", "-p", json.dumps(wrong))
    assert code == 1
    check("patch.txt", said)
    code, said = kubectl("apply", "-f", "-", sent=whole({"overides": []}))
    assert code == 1
    assert 'strict decoding error: unknown field "spec.overides"' in said


def test_edit_shows_what_was_wrong(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("apply", "-f", "-", sent=whole(override(mode="Fixed", virtualFunctions={"profile": "m4"})))
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\ncat "$1" >>{tmp_path}/seen\nsed -i \'s/mode: Fixed/mode: Drain/\' "$1"\n')
    editor.chmod(0o755)
    code, said = kubectl("edit", "gns", "node", KUBE_EDITOR=str(editor))
    assert code == 1
    assert "Edit cancelled, no valid changes were saved" in said
    assert (
        "# * spec.overrides[0]: Invalid value: virtualFunctions needs mode Fixed"
        in (tmp_path / "seen").read_text()
    )
    editor.write_text("#!/bin/sh\nsed -i 's/profile: m4/profile: m2/' \"$1\"\n")
    code, said = kubectl("edit", "gns", "node", KUBE_EDITOR=str(editor))
    assert (code, said) == (0, "gpunodestate.gpu.dra.intel.com/node edited\n")


def test_people_share_an_object_with_the_controller(kubectl: Kubectl) -> None:
    """Server-side apply merges lists by their keys; what another field manager wrote stays."""
    claim = {"name": UID, "claimNamespace": "ns", "claimName": "c", "source": "v1"}
    for manager, spec in (
        ("gpu-controller", {"allocations": [claim]}),
        ("ann", override(mode="Drain")),
        ("bob", {"overrides": [{"device": "0000-2a-00-0-0x56c0", "mode": "Ignore"}]}),
    ):
        code, said = kubectl("apply", "--server-side", f"--field-manager={manager}", "-f", "-", sent=whole(spec))
        assert code == 0, said
    spec = json.loads(kubectl("get", "gns", "node", "-o", "json")[1])["spec"]
    assert [one["mode"] for one in spec["overrides"]] == ["Drain", "Ignore"]
    assert spec["allocations"] == [claim], "the server adds nothing to what the controller writes"


def refusals(release: str) -> str:
    """Each mistake with the server's words for it."""
    cluster = kubesim.Cluster(release)
    cluster.create(DEFINITIONS, yaml.safe_load(CRD.read_text()))
    told = []
    # The simulated server does not look at bounds and patterns of a number or text; test_crd_rules does.
    mistakes: list[dict[str, Any]] = [row[0] for row in AT_ADMISSION] + [row[0] for row in BY_THE_SERVER_ALONE]
    for spec in (spec for spec in mistakes if "memory" not in json.dumps(spec)):
        answer = cluster.handle(kubesim.Request.to("POST", f"{COLLECTION}?fieldValidation=Strict", whole(spec)))
        assert answer.status == 422
        causes = json.loads(answer.body)["details"]["causes"]
        shown = json.dumps(spec).replace("x" * 1025, "x…")
        told.append("\n  ".join([shown, *(f"{cause['field']}: {cause['message']}" for cause in causes)]))
    return "\n".join(told) + "\n"


@pytest.mark.parametrize("release", RELEASES)
def test_each_mistake_is_refused_in_plain_words(release: str) -> None:
    check("refusals.txt", refusals(release))


@pytest.mark.parametrize("release", RELEASES)
def test_what_depends_on_hardware_is_admitted(release: str) -> None:
    cluster = kubesim.Cluster(release)
    cluster.create(DEFINITIONS, yaml.safe_load(CRD.read_text()))
    for spec, _ in BY_THE_ENGINE:
        request = kubesim.Request.to("POST", f"{COLLECTION}?fieldValidation=Strict&dryRun=All", whole(spec))
        assert cluster.handle(request).status == 201
