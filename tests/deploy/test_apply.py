"""What an operator types: kubectl apply of our kustomizations, to an API server of their release."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import kubesim
from tests.deploy.manifests import DEPLOY, NAMESPACE, JsonObject, rendered

BUDGET = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/gpu-controller"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
AGENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/gpu-node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Where the operator is: in ``deploy``, with a kubeconfig."""

    cluster: kubesim.Cluster
    environment: dict[str, str]

    def apply(self, *words: str, given: JsonObject | None = None) -> list[str]:
        """What kubectl says it has done, a line for each object. Raises AssertionError where it refuses."""
        done = subprocess.run(
            ("kubectl", "apply", *words),
            cwd=DEPLOY,
            env=self.environment,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout.splitlines()


@pytest.fixture(name="shell")
def fixture_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    cluster = kubesim.Cluster(str(request.param))
    with kubesim.serving(cluster, tmp_path) as served:
        environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": str(served.kubeconfig)}
        yield Shell(cluster=cluster, environment=environment)


@pytest.mark.parametrize("shell", ["1.36"], indirect=True)
def test_everything_on_a_new_cluster(shell: Shell) -> None:
    objects = rendered(".")
    done = shell.apply("-k", ".")
    assert len(done) == len(objects)
    assert {line.rpartition(" ")[2] for line in done} == {"created"}
    budget = shell.cluster.get(BUDGET)
    assert budget["spec"]["maxUnavailable"] == 1
    assert _names(shell.cluster, POLICIES) == _names_of(objects, "ValidatingAdmissionPolicy")
    assert _names(shell.cluster, "/apis/resource.k8s.io/v1/deviceclasses") == _names_of(objects, "DeviceClass")
    # Of a budget kubectl sends the selector each time, as its patch strategy is "replace".
    again = {line for line in shell.apply("-k", ".") if not line.endswith(" unchanged")}
    assert again == {"poddisruptionbudget.policy/gpu-controller configured"}
    assert shell.cluster.get(BUDGET) == budget
    shell.apply("-k", "overlays/restricted")
    agent = shell.cluster.get(AGENTS)["spec"]["template"]["spec"]["containers"][0]
    assert agent["securityContext"].get("privileged", False) is False
    shell.apply("-k", "overlays/simulated")
    pod = shell.cluster.get(AGENTS)["spec"]["template"]["spec"]
    images = {each["image"] for part in ("initContainers", "containers") for each in pod[part]}
    assert any("simulator" in image for image in images), images


@pytest.mark.parametrize("shell", ["1.26"], indirect=True)
def test_classic_on_an_old_cluster(shell: Shell) -> None:
    shell.apply("-f", "crd")
    classes = [each for each in yaml.safe_load_all((DEPLOY / "classes/classic.yaml").read_text()) if each]
    shell.apply("-f", "-", given={"apiVersion": "v1", "kind": "List", "items": classes})
    done = shell.apply("-k", "overlays/classic-1.26")
    assert len(done) == len(rendered("overlays/classic-1.26"))
    assert shell.cluster.get(BUDGET)["spec"]["maxUnavailable"] == 1
    found = _names(shell.cluster, "/apis/resource.k8s.io/v1alpha1/resourceclasses")
    assert found == _names_of(tuple(classes), "ResourceClass") != set()
    rules = shell.cluster.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/intel-gpu-controller")["rules"]
    assert any("podschedulings" in rule["resources"] for rule in rules)


@pytest.mark.parametrize("shell", ["1.32"], indirect=True)
def test_structured_before_v1(shell: Shell) -> None:
    shell.apply("-f", "crd", "-f", "classes/structured-v1beta1.yaml")
    assert len(shell.apply("-k", "overlays/structured-1.32")) == len(rendered("overlays/structured-1.32"))


def _names(cluster: kubesim.Cluster, path: str) -> set[str]:
    return {each["metadata"]["name"] for each in cluster.get(path)["items"]}


def _names_of(objects: tuple[JsonObject, ...], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in objects if each["kind"] == kind}
