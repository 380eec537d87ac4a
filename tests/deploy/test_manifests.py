"""The kustomizations: what API servers take, what the programs take, and who gets what of the host."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from reconciler.cli.arguments import parse
from tests.deploy.manifests import NAMESPACE, OVERLAYS, REPOSITORY, JsonObject, only, rendered, rendered_text
from tests.deploy.schemas import FOREIGN, mistakes

ALL = (".", *(f"overlays/{name}" for name in OVERLAYS))
VALIDATOR_IS_HERE = importlib.util.find_spec("kubernetes_validate") is not None
RELEASES = {"overlays/classic-1.26": "1.26"}
"""The release that an overlay is for, where that is not the newest."""
_HOST = re.compile(r"(?<==)/(host|run/gpu-simulated)(?=/(sys|dev)$)")
ENVIRONMENT = {"NODE_NAME": "a", "POD_UID": "ada6a3e0-6a2f-4fd9-a7a3-6f3c9a5a4f3c"}


def test_every_overlay_is_there() -> None:
    assert set(OVERLAYS) == {
        "classic-1.26",
        "health-monitoring",
        "nfd",
        "openshift",
        "restricted",
        "simulated",
        "structured-1.32",
    }


@pytest.mark.parametrize("directory", ALL)
def test_api_servers_know_every_field(directory: str) -> None:
    objects = rendered(directory)
    assert list(mistakes(objects, RELEASES.get(directory, "1.36"))) == []
    assert {each["kind"] for each in objects if each["kind"] in FOREIGN} == FOREIGN_IN.get(directory, set())


FOREIGN_IN = {
    "overlays/nfd": {"NodeFeatureRule"},
    "overlays/openshift": {"SecurityContextConstraints"},
    "overlays/health-monitoring": {"PodMonitor"},
}


@pytest.mark.skipif(not VALIDATOR_IS_HERE, reason="needs the package kubernetes-validate")
@pytest.mark.parametrize("directory", ALL)
def test_kubernetes_validate_agrees(directory: str) -> None:
    """Schemas of releases between those of which there are recordings."""
    validate = importlib.import_module("kubernetes_validate").validate
    release = {"overlays/structured-1.32": "1.32"}.get(directory, RELEASES.get(directory, "1.34"))
    for each in rendered(directory):
        if each["kind"] not in FOREIGN:
            validate(each, release, strict=True)  # raises ValidationError


def test_a_misspelt_field_is_found() -> None:
    (object_,) = (each for each in rendered("base") if each["kind"] == "DaemonSet")
    spoilt = yaml.safe_load(yaml.safe_dump(object_))
    spoilt["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    assert any("readinessprobe" in mistake for mistake in mistakes((spoilt,), "1.26"))


@pytest.mark.parametrize("directory", ALL)
def test_the_programs_take_their_flags(directory: str, tmp_path: Path) -> None:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    (tmp_path / "dev/dri").mkdir(parents=True)
    for command, args in _commands(rendered(directory)):
        assert command[0] == "gpu-reconciler"
        here = [_HOST.sub(str(tmp_path), arg) for arg in args]  # they look whether it is a sysfs
        parse((*command[1:], *here), ENVIRONMENT)  # raises UsageError


def _commands(objects: tuple[JsonObject, ...]) -> list[tuple[list[str], list[str]]]:
    pods = [only(objects, kind)["spec"]["template"]["spec"] for kind in ("Deployment", "DaemonSet")]
    return [(each["command"], each["args"]) for pod in pods for each in pod["containers"]]


def _container(directory: str, name: str) -> JsonObject:
    pod = only(rendered(directory), "DaemonSet")["spec"]["template"]["spec"]
    (found,) = (each for each in pod["containers"] if each["name"] == name)
    return dict(found)


def _mounts(directory: str, container: str) -> dict[str, bool]:
    """Paths in the container, and whether they can be written."""
    mounts = _container(directory, container)["volumeMounts"]
    return {each["mountPath"]: not each.get("readOnly", False) for each in mounts}


@pytest.mark.parametrize("directory", ALL)
def test_every_store_has_one_writer(directory: str) -> None:
    agent, plugin = _mounts(directory, "agent"), _mounts(directory, "plugin")
    both = {path: (agent[path], plugin[path]) for path in agent.keys() & plugin.keys()}
    assert both == {
        "/run/gpu.intel.com/status": (True, False),
        "/run/gpu.intel.com/marks": (False, True),
        "/run/gpu.intel.com/lock": (True, True),
    }
    assert set(plugin) - set(both) == {"/var/lib/kubelet/plugins", "/var/lib/kubelet/plugins_registry"}
    assert "/var/run/secrets/kubernetes.io/serviceaccount" in set(agent) - set(both)


@pytest.mark.parametrize("directory", ALL)
def test_only_the_agent_has_privileges(directory: str) -> None:
    objects = rendered(directory)
    node = only(objects, "DaemonSet")["spec"]["template"]["spec"]
    assert not node["hostNetwork"]
    assert not node["hostPID"]
    assert not node["automountServiceAccountToken"]
    assert _container(directory, "agent")["securityContext"]["privileged"] == (directory != "overlays/restricted")
    controller = only(objects, "Deployment")["spec"]["template"]["spec"]
    assert "volumes" not in controller
    assert controller["securityContext"]["runAsNonRoot"]
    for container in (_container(directory, "plugin"), *controller["containers"]):
        context = {k: v for k, v in container["securityContext"].items() if k != "seLinuxOptions"}
        assert context == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


@pytest.mark.parametrize("directory", ALL)
def test_two_plugins_at_once_only_where_kubelets_know_that(directory: str) -> None:
    """Surge and sockets of one's own go together: one without the other takes sockets away, or waits for ever."""
    alone = directory in ("overlays/structured-1.32", "overlays/classic-1.26", "overlays/simulated")
    rolling = only(rendered(directory), "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"]
    assert rolling == ({"maxSurge": 0, "maxUnavailable": 1} if alone else {"maxSurge": 1, "maxUnavailable": 0})
    if directory != "overlays/simulated":
        assert ("--rolling" in _container(directory, "plugin")["args"]) is not alone


def test_overlays_for_a_pinned_plugin_are_the_same() -> None:
    """Kustomize takes no file of another overlay."""
    texts = {
        (REPOSITORY / "deploy/overlays" / name / "one-plugin.yaml").read_text()
        for name in ("structured-1.32", "classic-1.26")
    }
    assert len(texts) == 1


def test_no_policies_where_servers_have_none() -> None:
    assert "admissionregistration" not in rendered_text("overlays/classic-1.26")
    for directory in set(ALL) - {"overlays/classic-1.26"}:
        assert rendered_text(directory).count("kind: ValidatingAdmissionPolicyBinding\n") == 4, directory


def test_the_version_is_that_of_the_program() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    for directory in ALL:
        for line in rendered_text(directory).splitlines():
            if line.strip().startswith("image: "):
                assert line.endswith(f":v{version}"), (directory, line)


def test_families_have_the_device_ids_of_our_table() -> None:
    labels = {
        "Flex_Series": {"Data Center Flex"},
        "Max_Series": {"Data Center Max"},
        "A_Series": {"Arc A-Series", "Arc Pro A-Series"},
        "B_Series": {"Arc B-Series", "Arc Pro B-Series"},
    }
    models = yaml.safe_load((REPOSITORY / "state/tables/devices.yaml").read_text())["models"]
    table = {
        label: sorted(
            model["id"].removeprefix("0x").lower()
            for model in models
            if model["family"] in families and not model["integrated"]
        )
        for label, families in labels.items()
    }
    rules = only(rendered("overlays/nfd"), "NodeFeatureRule")["spec"]["rules"]
    found = {
        rule["labels"]["gpu.intel.com/family"]: rule["matchFeatures"][0]["matchExpressions"]["device"]["value"]
        for rule in rules
        if "gpu.intel.com/family" in rule["labels"]
    }
    assert found == table
    selected = only(rendered("overlays/nfd"), "DaemonSet")["spec"]["template"]["spec"]["nodeSelector"]
    assert rules[0]["labels"].items() <= selected.items()


def test_policies_name_the_service_accounts_that_there_are() -> None:
    objects = rendered(".")
    accounts = {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    assert accounts == {"gpu-controller", "gpu-node"}
    named = {
        word.rstrip('"')
        for word in rendered_text("policies").replace("'", " ").split()
        if "system:serviceaccount:" in word
    }
    assert {word.lstrip('"') for word in named} == {
        f"system:serviceaccount:{NAMESPACE}:{name}" for name in accounts
    }
