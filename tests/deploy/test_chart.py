"""The Helm chart: in step with the kustomizations, and every value checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.cli.arguments import HelpAsked, parse
from tests.deploy.chart_files import PLACES, copies
from tests.deploy.charts import CHART, HELM_IS_HERE, rendering, without_helms_labels
from tests.deploy.manifests import JsonObject, only, rendered
from tests.deploy.schemas import mistakes

needs_helm = pytest.mark.skipif(not HELM_IS_HERE, reason="needs the package helm-python-sdk")

SAME_AS: dict[str, tuple[Mapping[str, Any], set[str]]] = {
    ".": ({}, {"CustomResourceDefinition", "Namespace"}),
    "overlays/structured-1.32": ({"rolling": False, "classes": {"enabled": False}}, {"Namespace"}),
    "overlays/classic-1.26": (
        {"mode": "classic", "classes": {"enabled": False}, "policies": {"enabled": False}},
        {"Namespace"},
    ),
    "overlays/openshift": ({"openshift": {"enabled": True}, "classes": {"enabled": False}}, {"Namespace"}),
    "overlays/nfd": ({"nfd": {"enabled": True}, "classes": {"enabled": False}}, {"Namespace"}),
    "overlays/restricted": ({"node": {"privileged": False}, "classes": {"enabled": False}}, {"Namespace"}),
    "overlays/health-monitoring": (
        {"metrics": {"enabled": True, "podMonitors": True}, "classes": {"enabled": False}},
        {"Namespace"},
    ),
}
"""For a kustomization the values that render the same, and the kinds that the chart leaves to others.

Whoever renders without a server has one in mind that knows admission policies.
"""

OTHERS: dict[str, Mapping[str, Any]] = {
    "classic, v1alpha2, later names": {
        "mode": "classic",
        "classes": {"apiVersion": "v1alpha2", "laterNames": True},
        "policies": {"enabled": False},
    },
    "v1beta1": {"classes": {"apiVersion": "v1beta1"}},
    "microk8s": {"directories": {"kubelet": "/var/snap/microk8s/common/var/lib/kubelet"}},
    "Talos": {"directories": {"cdi": "/var/cdi/dynamic"}},
    "operators": {"operators": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "g"}]},
    "everything": {
        "image": {"repository": "example.com/gpu", "tag": "x", "pullSecrets": [{"name": "s"}]},
        "metrics": {"enabled": True},
        "node": {"podAnnotations": {"a": "b"}, "affinity": {"nodeAffinity": {}}},
        "controller": {"podAnnotations": {"a": "b"}, "replicas": 3},
    },
}


def test_crds_and_files_are_those_of_the_kustomizations() -> None:
    """To renew them: python -m tests.deploy.chart_files."""
    kept = {path: path.read_text() for place in PLACES for path in (CHART / place).glob("*.yaml")}
    assert kept == {path: source.read_text() for path, source in copies().items()}


@needs_helm
@pytest.mark.parametrize("directory", SAME_AS)
def test_it_renders_what_the_kustomization_renders(directory: str) -> None:
    values, elsewhere = SAME_AS[directory]
    found = rendering(values, release={"overlays/classic-1.26": "1.26"}.get(directory, "1.36"))
    assert (found.problem, found.complaints) == ("", ())
    expected = tuple(each for each in rendered(directory) if each["kind"] not in elsewhere)
    assert without_helms_labels(found.objects) == without_helms_labels(expected)
    assert "gns" in found.notes


@needs_helm
@pytest.mark.parametrize("name", OTHERS)
def test_what_else_it_renders_is_known_to_servers(name: str) -> None:
    release = {"v1beta1": "1.33", "classic, v1alpha2, later names": "1.27"}.get(name, "1.36")
    found = rendering(OTHERS[name], "elsewhere", release)
    assert (found.problem, found.complaints) == ("", ())
    parameters = [each for each in found.objects if each["apiVersion"].startswith("gpu.")]
    others = tuple(each for each in found.objects if each not in parameters)
    assert list(mistakes(others, "1.26" if "classic" in name else "1.36")) == []
    text = json.dumps(found.objects)
    assert "intel-gpu-resource-driver:gpu-" not in text  # service accounts of another namespace
    assert {each["metadata"].get("namespace", "elsewhere") for each in found.objects} == {"elsewhere"}


@needs_helm
def test_classic_on_1_31_has_a_device_class() -> None:
    """It has no later names there: those classes are ResourceClasses."""
    values: dict[str, Any] = {"mode": "classic", "classes": {"apiVersion": "v1alpha3"}}
    (found,) = (each for each in rendering(values).objects if each["kind"] == "DeviceClass")
    kept = yaml.safe_load((CHART / "files/classes/classic-v1alpha3.yaml").read_text())
    assert (found["apiVersion"], found["metadata"]["name"]) == (kept["apiVersion"], kept["metadata"]["name"])
    values["classes"]["laterNames"] = True
    assert "v1alpha3 is not for mode classic (allowed: v1alpha2, v1alpha1)" in rendering(values).problem


@needs_helm
def test_directories_of_other_distributions() -> None:
    pod = only(rendering(OTHERS["microk8s"], "elsewhere").objects, "DaemonSet")["spec"]["template"]["spec"]
    root = "/var/snap/microk8s/common/var/lib/kubelet"
    plugin = pod["containers"][1]
    assert f"--kubelet-root={root}" in plugin["args"]
    assert {f"{root}/plugins", f"{root}/plugins_registry"} <= {
        each["mountPath"] for each in plugin["volumeMounts"]
    }
    pod = only(rendering(OTHERS["Talos"], "elsewhere").objects, "DaemonSet")["spec"]["template"]["spec"]
    (cdi,) = (each for each in pod["volumes"] if each["name"] == "cdi")
    assert cdi["hostPath"]["path"] == "/var/cdi/dynamic"


@needs_helm
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mode": "clasic"}, "mode"),
        ({"node": {"agent": {"flags": {"lingerseconds": 3}}}}, "lingerseconds"),
        ({"node": {"agent": {"flags": {"layout": "dynamic"}}}}, "layout"),
        ({"directories": {"kubelet": "/var/lib/kubelet/"}}, "kubelet"),
        ({"controler": {}}, "controler"),
        ({"metrics": {"podMonitors": True}}, "metrics.podMonitors: true needs metrics.enabled: true"),
        ({"classes": {"apiVersion": "v1alpha1"}}, "is not for mode structured (allowed: v1, v1beta1, v1alpha3)"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: Mapping[str, Any], words: str) -> None:
    assert words in rendering(values).problem


FLAGS: dict[str, JsonObject] = {
    "controller": {
        "lease-namespace": "ns",
        "probes-listen": 8082,
        "preferred-allocation-policy": "packed",
        "allocation-policy-resource": "millicores",
        "metrics-listen": "127.0.0.1:9090",
        "log-format": "text",
        "log-level": "debug",
        "kubeconfig": "/k",
        "context": "c",
    },
    "agent": {
        "node-name": "n",
        "linger-seconds": 86400,
        "processes": "visible",
        "resync-seconds": 7.5,
        "uevents": "udev",
        "metrics-listen": 9090,
        "log-format": "text",
        "log-level": "warning",
        "kubeconfig": "/k",
        "context": "c",
        "sysfs-root": "/sys",
        "devfs-root": "/dev",
        "procfs-root": "/proc",
        "cdi-root": "/c",
        "run-dir": "/r",
        "state-dir": "/s",
        "pci-ids": "/p",
        "layout": "Pinned",
        "profiles": ["m4", "m8"],
        "shared-memory": False,
        "binding-conditions": "OnReconfigure",
        "reorder": True,
    },
    "plugin": {
        "node-name": "n",
        "kubelet-root": "/k",
        "rolling": True,
        "probes-listen": "[::]:1",
        "metrics-listen": 9091,
        "log-format": "text",
        "log-level": "error",
        "procfs-root": "/proc",
        "run-dir": "/r",
    },
}
"""A value for each flag of each program, none of them the chart's own."""
COMMANDS = {"controller": "controller", "agent": "node", "plugin": "plugin"}


@pytest.mark.parametrize("part", FLAGS)
def test_every_flag_can_be_set(part: str) -> None:
    """The schema knows all that --help tells, and nothing else."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    where = schema["controller"] if part == "controller" else schema["node"]["properties"][part]
    known = set(where["properties"]["flags"]["properties"])
    with pytest.raises(HelpAsked) as asked:
        parse((COMMANDS[part], "--help"), {})
    words = str(asked.value).replace(",", " ").split()
    told = {word.removeprefix("--") for word in words if word.startswith("--")} - {"help"}
    assert known == set(FLAGS[part]) == told


@needs_helm
@pytest.mark.parametrize("part", FLAGS)
def test_flags_arrive_at_the_program(part: str, tmp_path: Path) -> None:
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    (tmp_path / "dri").mkdir(parents=True)
    given = {**FLAGS[part]}
    given |= {name: str(tmp_path) for name in ("sysfs-root", "devfs-root") if name in given}
    values = {"controller": {"flags": given}} if part == "controller" else {"node": {part: {"flags": given}}}
    found = rendering(values)
    assert found.problem == ""
    kind = "Deployment" if part == "controller" else "DaemonSet"
    pod = only(found.objects, kind)["spec"]["template"]["spec"]
    (container,) = (each for each in pod["containers"] if each["name"] == part)
    spelt = {
        f"--{name}" if value is True and name == "rolling" else _spelt(name, value)
        for name, value in given.items()
    }
    assert set(container["args"]) == spelt
    probed = {"controller": 8082, "plugin": 1}.get(part)
    assert probed in (None, *(port["containerPort"] for port in container.get("ports", ())))
    assert part != "plugin" or container["livenessProbe"]["grpc"]["port"] == probed
    parse((COMMANDS[part], *container["args"]), {"POD_UID": "u", "NODE_NAME": "n"})  # raises UsageError


def _spelt(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"--{name}={','.join(value)}"
    return f"--{name}={str(value).lower() if isinstance(value, bool) else value}"


def test_the_presets_in_the_values_are_paths() -> None:
    """What people are told to put in is what the tests put in."""
    text = (CHART / "values.yaml").read_text()
    for name in ("microk8s", "Talos"):
        directories: Mapping[str, str] = OTHERS[name]["directories"]
        for key, path in directories.items():
            assert f"#   {key}: {path}\n" in text
    assert set(yaml.safe_load(text)["directories"]) == {"kubelet", "cdi", "run", "state"}
