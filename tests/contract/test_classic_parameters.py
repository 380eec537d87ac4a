"""Parameter objects of classic DRA: those that users of Intel's driver have are read, what is wrong is told."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hack.crdgen.__main__ import DIRECTORY
from hack.crdgen.parameters import KINDS, AnyKind, name_of
from state.classic.claims import DRIVERS
from state.classic.parameters import (
    ANY_DEVICE,
    CLAIM_DEFAULTS,
    CLAIM_PARAMETERS,
    CLASS_PARAMETERS,
    ClaimParameters,
    ClassParameters,
    DeviceSelector,
    DeviceType,
    ParametersError,
    checked,
    find_kind,
)
from tests.contract.admission import Schema, admit

MIB = 2**20
FIRST, LATER = "gpu.dra.intel.com", "gpu.resource.intel.com"
VERSIONS = {FIRST: "v1alpha", LATER: "v1alpha2"}
BOTH = f"allowed: {FIRST}/v1alpha, {LATER}/v1alpha2"

FIRST_CLAIM = CLAIM_PARAMETERS[FIRST, "GpuClaimParameters"]
LATER_CLAIM = CLAIM_PARAMETERS[LATER, "GpuClaimParameters"]
FIRST_CLASS = CLASS_PARAMETERS[FIRST, "DeviceClassParameters"]
LATER_CLASS = CLASS_PARAMETERS[LATER, "GpuClassParameters"]
ONLY_VFS = DeviceSelector(type=DeviceType.VF, name="*")
FLEX = DeviceSelector(type=DeviceType.GPU, name="Flex*")

OBJECTS: list[tuple[AnyKind, str, ClaimParameters | ClassParameters]] = [
    (FIRST_CLAIM, '{count: 1, type: "gpu", memory: 512}', ClaimParameters(memory=512 * MIB, shareable=True)),
    (FIRST_CLAIM, "{count: 8, type: vf}", ClaimParameters(count=8, type=DeviceType.VF, shareable=True)),
    (
        FIRST_CLAIM,
        "{count: 2, type: any, memory: 8}",
        ClaimParameters(count=2, memory=8 * MIB, type=DeviceType.ANY, shareable=True),
    ),
    (FIRST_CLAIM, "{count: 1}", CLAIM_DEFAULTS[FIRST]),
    (FIRST_CLASS, "{}", ClassParameters()),
    (
        FIRST_CLASS,
        "{deviceSelector: [{type: gpu, name: Flex*}, {type: vf, name: '*'}]}",
        ClassParameters(selectors=(FLEX, ONLY_VFS)),
    ),
    (
        LATER_CLAIM,
        "{count: 1, memory: 1024, millicores: 500, type: gpu, shareable: true}",
        ClaimParameters(memory=1024 * MIB, millicores=500, shareable=True),
    ),
    (
        LATER_CLAIM,
        "{count: 640, memory: 1048576, type: vf}",
        ClaimParameters(count=640, memory=2**40, type=DeviceType.VF),
    ),
    (LATER_CLAIM, "{count: 1}", CLAIM_DEFAULTS[LATER]),
    (LATER_CLASS, "{shared: true}", ClassParameters(shared=True)),
    (LATER_CLASS, "{monitor: true, shared: false}", ClassParameters(monitor=True)),
    (
        LATER_CLASS,
        "{shared: false, deviceSelector: [{type: gpu, name: Flex*}]}",
        ClassParameters(selectors=(FLEX,)),
    ),
]
"""The spec as people write it, and what is understood."""

REFUSED = [
    (FIRST_CLAIM, "{count: 9}", "spec.count: 9 is out of range (allowed: 1 to 8)"),
    (LATER_CLAIM, "{count: 641}", "spec.count: 641 is out of range (allowed: 1 to 640)"),
    (LATER_CLAIM, "{count: 0}", "spec.count: 0 is out of range (allowed: 1 to 640)"),
    (LATER_CLAIM, "{type: gpu}", "spec.count: is missing"),
    (LATER_CLAIM, "{count: '1'}", "spec.count: must be an integer, not '1'"),
    (FIRST_CLAIM, "{count: 1, memory: 7}", "spec.memory: 7 is out of range (allowed: 8 to 1048576)"),
    (FIRST_CLAIM, "{count: 1, memory: 1048577}", "spec.memory: 1048577 is out of range (allowed: 8 to 1048576)"),
    (LATER_CLAIM, "{count: 1, millicores: 1001}", "spec.millicores: 1001 is out of range (allowed: 1 to 1000)"),
    (
        FIRST_CLAIM,
        "{count: 1, millicores: 5}",
        "spec.millicores: is not a known field (allowed: count, memory, type)",
    ),
    (
        LATER_CLAIM,
        "{count: 1, type: GPU}",
        "spec.type: 'GPU' is not allowed; did you mean 'gpu'? (allowed: gpu, vf, any)",
    ),
    (
        LATER_CLAIM,
        "{count: 1, shareable: 1}",
        "spec.shareable: must be true or false, not 1 (allowed: true, false)",
    ),
    (LATER_CLASS, "{monitor: true}", "spec.shared: is missing"),
    (FIRST_CLASS, "{deviceSelector: [{type: gpu}]}", "spec.deviceSelector[0].name: is missing"),
    (FIRST_CLASS, "{deviceSelector: {}}", "spec.deviceSelector: must be a list, not an object"),
    (LATER_CLAIM, "[]", "spec: must be an object, not a list"),
    (
        FIRST_CLAIM,
        "{count: 0, typ: vf}",
        (
            "spec.count: 0 is out of range (allowed: 1 to 8); "
            "spec.typ: is not a known field; did you mean 'type'? (allowed: count, memory, type)"
        ),
    ),
]


def manifest(kind: AnyKind, spec: object) -> dict[str, Any]:
    metadata = {"name": "mine", **({"namespace": "ml"} if kind.namespaced else {})}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}


def definition(kind: AnyKind) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DIRECTORY / f"{name_of(kind)}.yaml").read_text())
    return read


SCHEMAS: dict[str, Schema] = {
    name_of(kind): definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind in KINDS
}


def decoded(kind: AnyKind, spec: object) -> ClaimParameters | ClassParameters:
    return kind.decode(json.dumps(manifest(kind, spec)).encode())


@pytest.mark.parametrize(("kind", "spec", "meant"), OBJECTS)
def test_what_people_have_is_understood(
    kind: AnyKind, spec: str, meant: ClaimParameters | ClassParameters
) -> None:
    assert decoded(kind, yaml.safe_load(spec)) == meant
    assert admit(manifest(kind, yaml.safe_load(spec)), SCHEMAS[name_of(kind)]) == ()


@pytest.mark.parametrize(("kind", "spec", "why"), REFUSED)
def test_what_is_wrong_is_named_with_what_is_allowed(kind: AnyKind, spec: str, why: str) -> None:
    with pytest.raises(ParametersError) as caught:
        decoded(kind, yaml.safe_load(spec))
    assert str(caught.value) == f"{kind.kind} {'ml/' if kind.namespaced else ''}mine: {why}"
    assert admit(manifest(kind, yaml.safe_load(spec)), SCHEMAS[name_of(kind)])


@pytest.mark.parametrize("data", [b"", b"\xff", b"[1", b"[" * 100_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ParametersError, match=r"^GpuClaimParameters: is no JSON: "):
        find_kind(FIRST, "GpuClaimParameters", of_class=False).decode(data)


@pytest.mark.parametrize("data", [b"[]", b"null", b'{"metadata": 1}', b'{"metadata": {"name": "mine"}}'])
def test_an_object_without_spec_is_refused(data: bytes) -> None:
    with pytest.raises(ParametersError, match=r"^GpuClaimParameters (mine|without a name): spec"):
        find_kind(LATER, "GpuClaimParameters", of_class=False).decode(data)


def specs() -> st.SearchStrategy[object]:
    """Specs of all kinds, many of them wrong."""
    numbers = st.sampled_from([None, True, "1", -1, 0, 1, 7, 8, 9, 640, 641, 1000, 1001, 1048576, 1048577, 2**70])
    types = st.sampled_from(["gpu", "vf", "any", "", "GPU", "pf", 1, None])
    switches = st.sampled_from([True, False, "true", 1, None])
    names = st.sampled_from(["*", "Flex*", "0000-b3-00-0-0x56c0", "x" * 63, "x" * 64, "", " ", 3, None])
    selectors = st.fixed_dictionaries({}, optional={"type": types, "name": names, "kind": types})
    known: dict[str, st.SearchStrategy[Any]] = {
        "memory": numbers,
        "millicores": numbers,
        "type": types,
        "shareable": switches,
        "monitor": switches,
        "shared": switches,
        "deviceSelector": st.lists(selectors, max_size=2) | selectors,
    }
    fields = st.fixed_dictionaries({}, optional={"count": numbers, "cuont": numbers, **known})
    return fields | st.sampled_from([None, [], "gpu", 1])


@given(st.sampled_from(KINDS), specs())
def test_the_server_and_we_refuse_the_same(kind: AnyKind, spec: object) -> None:
    """But for null, which a server leaves out where it stands for an optional field's absence."""
    refused = admit(manifest(kind, spec), SCHEMAS[name_of(kind)])
    try:
        decoded(kind, spec)
    except ParametersError as error:
        assert refused
        for problem in error.problems:
            assert problem.path.startswith("spec")
            assert "\n" not in str(problem)
    else:
        nulls = isinstance(spec, dict) and None in spec.values()
        assert not refused or nulls


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_a_kind_is_where_its_definition_puts_it(kind: AnyKind) -> None:
    spec = definition(kind)["spec"]
    group, version, plural = spec["group"], spec["versions"][0]["name"], spec["names"]["plural"]
    within = {"Namespaced": "namespaces/a%2Fb/", "Cluster": ""}[spec["scope"]]
    assert kind.path("a/b", "../c") == f"/apis/{group}/{version}/{within}{plural}/..%2Fc"
    assert kind.collection == f"/apis/{group}/{version}/{plural}"
    assert kind.kind == spec["names"]["kind"]


@pytest.mark.parametrize("with_version", [False, True])
def test_references_name_a_group_with_or_without_its_version(with_version: bool) -> None:
    for (group, kind), found in CLAIM_PARAMETERS.items():
        written = f"{group}/{VERSIONS[group]}" if with_version else group
        assert find_kind(written, kind, of_class=False) is found
    for (group, kind), of_class in CLASS_PARAMETERS.items():
        written = f"{group}/{VERSIONS[group]}" if with_version else group
        assert find_kind(written, kind, of_class=True) is of_class


@pytest.mark.parametrize(
    ("api_group", "kind", "why"),
    [
        (f"{FIRST}/v1alpha2", "GpuClaimParameters", f"apiGroup: '{FIRST}/v1alpha2' is not allowed ({BOTH})"),
        (f"{FIRST}/", "GpuClaimParameters", f"apiGroup: '{FIRST}/' is not allowed ({BOTH})"),
        ("", "ConfigMap", f"kind: 'ConfigMap' is not allowed ({BOTH.replace(' g', ' GpuClaimParameters of g')})"),
        (LATER, "GpuClassParameters", "kind: 'GpuClassParameters' is not allowed (allowed: GpuClaimParameters)"),
    ],
)
def test_other_references_are_refused(api_group: str, kind: str, why: str) -> None:
    with pytest.raises(ParametersError) as caught:
        find_kind(api_group, kind, of_class=False)
    assert str(caught.value) == f"parametersRef: {why}"


def test_a_class_does_not_take_a_claims_parameters() -> None:
    with pytest.raises(ParametersError, match=r"kind: 'GpuClaimParameters' .*allowed: DeviceClassParameters\)$"):
        find_kind(FIRST, "GpuClaimParameters", of_class=True)


def test_every_driver_has_defaults_and_parameters() -> None:
    assert set(CLAIM_DEFAULTS) == set(DRIVERS) == {group for group, _ in CLAIM_PARAMETERS}
    assert CLAIM_DEFAULTS[FIRST].shareable, "its first release let pods share every claim"
    assert not CLAIM_DEFAULTS[LATER].shareable
    assert ClassParameters().selectors == ANY_DEVICE


def combinations() -> Iterator[tuple[ClaimParameters, ClassParameters]]:
    for kind, millicores, shared, monitor, selectors in itertools.product(
        DeviceType, (None, 1), (False, True), (False, True), (ANY_DEVICE, (FLEX,), (ONLY_VFS,))
    ):
        claim = ClaimParameters(type=kind, millicores=millicores)
        yield claim, ClassParameters(shared=shared, monitor=monitor, selectors=selectors)


def refused_fields() -> Iterator[tuple[str, str, str, str]]:
    """What is refused, told by type, what else is said of claim and class, and the field to blame."""
    for claim, of_class in combinations():
        try:
            checked(claim, of_class)
        except ParametersError as error:
            (problem,) = error.problems
            assert problem.allowed
            of = "monitor" if of_class.monitor else "shared" if of_class.shared else "exclusive"
            only = "vfs" if of_class.selectors[0].type is DeviceType.VF else "all"
            yield claim.type.value, of, only, problem.path


def test_combinations_that_can_never_be_served_are_refused() -> None:
    expected = {("gpu", of, "vfs", "spec.type") for of in ("monitor", "shared", "exclusive")}
    for only in ("all", "vfs"):
        expected |= {(kind, "monitor", only, "spec.type") for kind in ("vf", "any")}
        expected |= {(kind, "shared", only, "spec.millicores") for kind in ("vf", "any")}
        expected.add(("any", "exclusive", only, "spec.millicores"))
    expected.add(("gpu", "exclusive", "all", "spec.millicores"))
    assert set(refused_fields()) == expected
    fine = [claim for claim, of_class in combinations() if claim.millicores is None and not of_class.monitor]
    assert len(fine) == 18, "without millicores only the class's devices decide"
