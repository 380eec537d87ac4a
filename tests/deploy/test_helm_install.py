"""What an operator types with Helm: install, upgrade and uninstall, done by Helm itself at an API server of their
release. The record of the release stays in memory: Helm would send it as protobuf, which the simulated server does
not read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import kubesim
from tests.deploy.charts import CHART, HELM_IS_HERE
from tests.deploy.manifests import DEPLOY, NAMESPACE

pytestmark = pytest.mark.skipif(not HELM_IS_HERE, reason="needs the package helm-python-sdk")

_PROGRAM = """
import json, subprocess, sys
import helm_python
kubeconfig, chart, namespace = sys.argv[1:4]
first, second = json.loads(sys.argv[4])
shown = json.loads(sys.argv[5])
config = helm_python.Config(kubeconfig_path=kubeconfig, namespace=namespace, storage_driver="memory")

def seen():
    command = ["kubectl", "--kubeconfig", kubeconfig, "get", ",".join(shown), "-A", "-o", "json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["items"]

installed = config.install(chart, "gpu", first, namespace=namespace, create_namespace=True)
found = [seen()]
upgraded = config.upgrade(chart, "gpu", second, namespace=namespace)
found.append(seen())
config.uninstall("gpu")
found.append(seen())
print(json.dumps({"notes": installed["notes"], "status": upgraded["status"], "found": found}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """The objects of a release after each of: install, upgrade, uninstall. By kind and name."""

    notes: str
    installed: dict[tuple[str, str], Any]
    upgraded: dict[tuple[str, str], Any]
    uninstalled: dict[tuple[str, str], Any]


ALWAYS = ("daemonsets", "deployments", "clusterroles", "clusterrolebindings", "crds", "serviceaccounts")


def life(
    where: Path, release: str, kinds: tuple[str, ...], first: Mapping[str, Any], more: Mapping[str, Any]
) -> Life:
    """Install with some values, upgrade with more, uninstall. Raises AssertionError where Helm does."""
    with kubesim.serving(kubesim.Cluster(release), where) as served:
        words = (str(served.kubeconfig), str(CHART), NAMESPACE)
        values, shown = json.dumps([first, {**first, **more}]), json.dumps([*ALWAYS, *kinds])
        done = subprocess.run(
            (sys.executable, "-c", _PROGRAM, *words, values, shown),
            env={**os.environ, "HOME": str(where)},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["status"] == "deployed"
    installed, upgraded, uninstalled = (
        {(each["kind"], each["metadata"]["name"]): each for each in found} for found in said["found"]
    )
    return Life(notes=said["notes"], installed=installed, upgraded=upgraded, uninstalled=uninstalled)


@pytest.mark.parametrize(
    ("release", "mode", "classes", "kinds", "policies"),
    [
        ("1.26", "classic", "classic", ("resourceclasses",), False),
        ("1.27", "classic", "classic-v1alpha2", ("resourceclasses",), False),
        ("1.30", "classic", "classic-v1alpha2", ("resourceclasses", "validatingadmissionpolicies"), True),
        ("1.31", "structured", "structured-v1alpha3", ("deviceclasses", "validatingadmissionpolicies"), True),
        ("1.33", "structured", "structured-v1beta1", ("deviceclasses", "validatingadmissionpolicies"), True),
        ("1.36", "structured", "structured", ("deviceclasses", "validatingadmissionpolicies"), True),
    ],
)
def test_a_release_lives_and_leaves_only_definitions(
    tmp_path: Path, release: str, mode: str, classes: str, kinds: tuple[str, ...], policies: bool
) -> None:
    """Classes are those of the server's version, and there are policies where it knows any."""
    found = life(tmp_path, release, kinds, {"mode": mode}, {"metrics": {"enabled": True}})
    documents = yaml.safe_load_all((DEPLOY / f"classes/{classes}.yaml").read_text())
    expected = {(each["kind"], each["metadata"]["name"]) for each in documents if each["kind"].endswith("Class")}
    assert expected <= found.installed.keys()
    assert {kind for kind, _ in found.installed if kind.endswith("Class")} == {kind for kind, _ in expected}
    assert any(kind == "ValidatingAdmissionPolicy" for kind, _ in found.installed) == policies
    assert f"({mode})" in found.notes
    assert not _ports(found.installed)
    assert _ports(found.upgraded) == {9090, 9091}
    assert {kind for kind, _ in found.uninstalled} == {"CustomResourceDefinition"}
    assert all(kind in found.installed for kind in found.uninstalled)


def _ports(found: Mapping[tuple[str, str], Any]) -> set[int]:
    pod = found["DaemonSet", "gpu-node"]["spec"]["template"]["spec"]
    return {
        port["containerPort"]
        for container in pod["containers"]
        for port in container.get("ports", ())
        if "metrics" in port["name"]
    }
