"""What users of classic DRA apply: the classes and examples in deploy, on each release that they are for.

``UPDATE_GOLDEN=1`` writes the server's words for mistakes in ``tests/contract/kubectl`` anew.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import kubesim
from hack.crdgen.__main__ import DIRECTORY
from hack.crdgen.parameters import KINDS, definition_of
from kubesim.server import serving
from state.classic.parameters import (
    CLAIM_DEFAULTS,
    ClaimParameters,
    ClassParameters,
    DeviceType,
    checked,
    find_kind,
)
from state.classic.placing import Placement, place
from state.classic.room import NodeRoomSource, occupied, room_of
from state.classic.spots import Policy
from state.classic.wishes import Wish
from state.dra.node_object import Entry
from state.dra.resource_claims import ClaimRef
from tests.contract.admission import Schema, admit
from tests.contract.openapi import Document
from tests.contract.test_crd_kubectl import Kubectl, check
from tests.contract_files import REPOSITORY
from tests.slices.machines import status_of, tables

CLASSES = REPOSITORY / "deploy" / "classes"
EXAMPLES = REPOSITORY / "deploy" / "examples" / "classic"
MANIFESTS = Path(__file__).parent / "manifests"
FILES = sorted(file for file in EXAMPLES.rglob("*.yaml") if not file.stem.endswith("-1.31"))
"""Without those for 1.31, whose claims bear their parameters themselves: see tests/uses/test_classic_1_31.py."""
IDS = [str(file.relative_to(EXAMPLES)) for file in FILES]

CLASSIC = {"1.26": "v1alpha1", "1.28": "v1alpha2"}
"""Versions of resource.k8s.io by release."""
RECORDED = {
    "resource.k8s.io/v1alpha1": ("k1.26.5",),
    "resource.k8s.io/v1alpha2": ("k1.27.7", "k1.28.3", "k1.29.1", "k1.30.1"),
    "v1": ("k1.26.5",),
}
"""Releases whose OpenAPI is at hand, by API version."""

JsonObject = dict[str, Any]

MISTAKES: list[JsonObject] = [
    {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **({"spec": spec} if spec else {})}
    for name, api_version, kind, spec in (
        ("many", "gpu.dra.intel.com/v1alpha", "GpuClaimParameters", {"count": 9, "memory": 4, "type": "pf"}),
        ("empty", "gpu.dra.intel.com/v1alpha", "GpuClaimParameters", {}),
        ("nameless", "gpu.dra.intel.com/v1alpha", "DeviceClassParameters", {"deviceSelector": [{"type": "gpu"}]}),
        ("more", "gpu.resource.intel.com/v1alpha2", "GpuClaimParameters", {"count": 641, "millicores": 1001}),
        ("which", "gpu.resource.intel.com/v1alpha2", "GpuClassParameters", {"monitor": True}),
    )
]
"""Objects of which servers must say in plain words what is wrong."""


def schema_of(definition: Mapping[str, Any]) -> Schema:
    schema: Schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


SOURCES = {"resourceClaimName": "ResourceClaim", "resourceClaimTemplateName": "ResourceClaimTemplate"}
"""Kinds of what a pod's entry may name."""

OURS = {(kind.api_version, kind.kind): schema_of(definition_of(kind)) for kind in KINDS}


def documents(file: Path, version: str = "v1alpha1") -> list[JsonObject]:
    """The objects of an example or, for the classes, of the file for this version of resource.k8s.io."""
    text = file.read_text().replace("resource.k8s.io/v1alpha1", f"resource.k8s.io/{version}")
    return list(yaml.safe_load_all(text))


def classes_of(generation: str, version: str = "v1alpha1") -> list[JsonObject]:
    suffix = "" if version == "v1alpha1" else f"-{version}"
    return list(yaml.safe_load_all((CLASSES / f"{generation}{suffix}.yaml").read_text()))


def generation_of(file: Path) -> str:
    """The file with the classes of an example."""
    return "classic-later" if file.parent.name == "later" else "classic"


def mistakes(one: JsonObject) -> list[str]:
    """What servers would say against an object, each release that serves its version."""
    ours = OURS.get((one["apiVersion"], one["kind"]))
    if ours is not None:
        return [f"{refused.path}: {refused.why}" for refused in admit(one, ours)]
    name = one["apiVersion"].replace("/", "-") if "/" in one["apiVersion"] else "core-v1"
    return [
        mistake
        for release in RECORDED[one["apiVersion"]]
        for mistake in Document.read(release, name).mistakes(one)
    ]


@pytest.mark.parametrize("version", CLASSIC.values())
def test_releases_know_every_field_of_classes(version: str) -> None:
    for generation in ("classic", "classic-later"):
        for one in classes_of(generation, version):
            assert mistakes(one) == []


@pytest.mark.parametrize("file", FILES, ids=IDS)
@pytest.mark.parametrize("version", CLASSIC.values())
def test_releases_know_every_field_of_an_example(file: Path, version: str) -> None:
    found = documents(file, version)
    assert [mistake for one in found for mistake in mistakes(one)] == []
    template = next(one for one in found if one["kind"].startswith("ResourceClaim"))
    assert mistakes({**template, "spce": {}}), "unknown fields are noticed"


class Scene:
    """Objects that name each other, by kind and name."""

    def __init__(self, objects: list[JsonObject]) -> None:
        self.objects = {(one["kind"], one["metadata"]["name"]): one for one in objects}

    @staticmethod
    def of(file: Path) -> Scene:
        """An example and its classes."""
        return Scene([*classes_of(generation_of(file)), *documents(file)])

    def of_kind(self, kind: str) -> Iterator[JsonObject]:
        return (one for (known, _), one in self.objects.items() if known == kind)

    def claim_specs(self) -> Iterator[JsonObject]:
        yield from (one["spec"] for one in self.of_kind("ResourceClaim"))
        yield from (one["spec"]["spec"] for one in self.of_kind("ResourceClaimTemplate"))

    def _decodable(self, reference: JsonObject) -> bytes:
        return json.dumps(self.objects[reference["kind"], reference["name"]]).encode()

    def class_parameters(self, of_class: JsonObject) -> ClassParameters:
        reference = of_class.get("parametersRef")
        if reference is None:
            return ClassParameters()
        kind = find_kind(reference["apiGroup"], reference["kind"], of_class=True)
        return kind.decode(self._decodable(reference))

    def claim_parameters(self, spec: JsonObject, driver: str) -> ClaimParameters:
        reference = spec.get("parametersRef")
        if reference is None:
            return CLAIM_DEFAULTS[driver]
        kind = find_kind(reference["apiGroup"], reference["kind"], of_class=False)
        assert kind.group == driver, "each generation has parameters of its own"
        return kind.decode(self._decodable(reference))

    def wishes(self, pod: JsonObject) -> list[Wish]:
        """What the claims of a pod ask for, under the names that claims get in 1.26."""
        found = []
        for entry in pod["spec"]["resourceClaims"]:
            ((how, source),) = entry["source"].items()
            claim = self.objects[SOURCES[how], source]
            name = source if how == "resourceClaimName" else f"{pod['metadata']['name']}-{entry['name']}"
            spec = claim["spec"] if how == "resourceClaimName" else claim["spec"]["spec"]
            of_class = self.objects["ResourceClass", spec["resourceClassName"]]
            asked, offered = self.claim_parameters(spec, of_class["driverName"]), self.class_parameters(of_class)
            found.append(Wish(uid=name, ref=ClaimRef("default", name), claim=asked, of_class=offered))
        return found


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_everything_that_an_example_names_is_there_and_goes_together(file: Path) -> None:
    scene = Scene.of(file)
    for spec in scene.claim_specs():
        of_class = scene.objects["ResourceClass", spec["resourceClassName"]]
        parameters = scene.class_parameters(of_class)
        checked(scene.claim_parameters(spec, of_class["driverName"]), parameters)
        assert not (parameters.monitor and spec.get("allocationMode") == "Immediate")
    for pod in scene.of_kind("Pod"):
        entries = pod["spec"]["resourceClaims"]
        named = {one["name"] for entry in pod["spec"]["containers"] for one in _claims(entry)}
        assert named == {entry["name"] for entry in entries}
        for entry in entries:
            ((how, name),) = entry["source"].items()
            assert (SOURCES[how], name) in scene.objects


def _claims(container: JsonObject) -> list[JsonObject]:
    found: list[JsonObject] = container.get("resources", {}).get("claims", [])
    return found


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_a_node_of_flex_170s_serves_the_pods_of_an_example(file: Path) -> None:
    """All its pods at the same time, each with all its claims; except where the example is about waiting."""
    scene = Scene.of(file)
    room = room_of(NodeRoomSource(name="node", devices=status_of("flex170-x8").devices), tables().profiles)
    answers = []
    for pod in scene.of_kind("Pod"):
        wishes = scene.wishes(pod)
        answer = place(room, wishes, Policy())
        answers.append(isinstance(answer, Placement))
        if isinstance(answer, Placement):
            assert all(answer.devices[wish.uid] for wish in wishes)
            room = occupied(room, (Entry(name=uid, devices=devices) for uid, devices in answer.devices.items()))
    assert answers == [file.stem != "too-big"] * len(answers)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (
            "first-release",
            ClaimParameters(count=2, memory=1500 * 2**20, type=DeviceType.VF, shareable=True),
        ),
        (
            "later-releases",
            ClaimParameters(memory=4096 * 2**20, millicores=333, shareable=True),
        ),
    ],
)
def test_manifests_for_intels_driver_are_served(name: str, asked: ClaimParameters) -> None:
    """Groups with their versions in parametersRef, types in quotes, no namespace where the default is meant."""
    objects = list(yaml.safe_load_all((MANIFESTS / f"{name}.yaml").read_text()))
    assert [mistake for one in objects for mistake in mistakes(one)] == []
    scene = Scene(objects)
    (pod,) = scene.of_kind("Pod")
    (wish,) = scene.wishes(pod)
    assert wish.claim == asked
    checked(wish.claim, wish.of_class)
    room = room_of(NodeRoomSource(name="node", devices=status_of("flex170-x8").devices), tables().profiles)
    answer = place(room, [wish], Policy())
    assert isinstance(answer, Placement)
    assert len(answer.devices[wish.uid]) == asked.count


def test_examples_are_commented_and_do_not_get_in_each_others_way() -> None:
    names = Counter((one["kind"], one["metadata"]["name"]) for file in FILES for one in documents(file))
    assert [name for name, times in names.items() if times > 1] == []
    for file in FILES:
        comment = file.read_text().split("apiVersion")[0]
        assert "Kubernetes 1.26" in comment.replace("\n# ", " ")


@pytest.mark.parametrize("release", CLASSIC)
def test_kubectl_applies_everything_and_tells_what_is_wrong(release: str, tmp_path: Path) -> None:
    version = CLASSIC[release]
    with serving(kubesim.Cluster(release), tmp_path) as served:
        kubectl = Kubectl(served.kubeconfig, tmp_path)

        def apply(name: str, objects: list[JsonObject], *options: str) -> tuple[int, str]:
            file = tmp_path / f"{name}.yaml"
            file.write_text(yaml.safe_dump_all(objects))
            return kubectl("apply", *options, "-f", str(file))

        assert kubectl("apply", "-f", str(DIRECTORY))[0] == 0
        for generation in ("classic", "classic-later"):
            code, said = apply(generation, classes_of(generation, version))
            assert code == 0, said
        code, said = kubectl("get", "resourceclass", "intel-gpu", "-o", "jsonpath={.driverName}")
        assert (code, said) == (0, "gpu.resource.intel.com"), "the file applied last decides"
        examples = [one for file in FILES for one in documents(file, version)]
        code, said = apply("examples", examples)
        assert (code, said.count(" created\n")) == (0, len(examples)), said
        code, said = apply("mistakes", MISTAKES)
        assert code == 1
        check("parameters.txt", said.replace(str(tmp_path), "."))


def gates(text: str) -> dict[str, str]:
    """Gates as flags name them."""
    return dict(gate.split("=") for gate in text.split(","))


def arguments(given: dict[str, str] | list[dict[str, str]]) -> dict[str, str]:
    """A component's arguments: a mapping for kubeadm of 1.26 (v1beta3), a list since 1.31 (v1beta4)."""
    return given if isinstance(given, dict) else {one["name"]: one["value"] for one in given}


@pytest.mark.parametrize("name", ["clusterconfig", "clusterconfig-current"])
def test_clusters_get_the_same_gates_on_every_component(name: str) -> None:
    text = (REPOSITORY / "hack" / f"{name}.yaml").read_text()
    cluster, kubelet, init = yaml.safe_load_all(text)
    components = [arguments(cluster[one]["extraArgs"]) for one in ("apiServer", "controllerManager", "scheduler")]
    on_kubelets = {gate: str(state).lower() for gate, state in kubelet["featureGates"].items()}
    assert [gates(one["feature-gates"]) for one in components] == [on_kubelets] * 3
    assert set(on_kubelets.values()) == {"true"}
    assert cluster["apiVersion"] == init["apiVersion"]
    if name == "clusterconfig":
        assert components[0]["runtime-config"] == "resource.k8s.io/v1alpha1=true"
        assert set(on_kubelets) == {"DynamicResourceAllocation"}
