"""The custom resource definitions: fresh, structural, within the limits of API servers from 1.26 on."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hack.crdgen.__main__ import CRD, DIRECTORY, files
from hack.crdgen.definition import root_schema
from tests.contract.admission import Schema, compiled
from tests.contract.openapi import Document

DEFINITIONS: dict[str, dict[str, Any]] = {file.stem: yaml.safe_load(file.read_text()) for file in files()}
DEFINITION = DEFINITIONS[CRD.stem]
(VERSION,) = DEFINITION["spec"]["versions"]
ROOT: Schema = VERSION["schema"]["openAPIV3Schema"]

PER_RULE, PER_DEFINITION = 10_000_000, 100_000_000
"""The most that one rule, and all together, may cost by the server's estimate (apiextensions-apiserver)."""


def nodes(schema: Schema, path: str = "", times: int = 1) -> Iterator[tuple[str, Schema, int]]:
    """Each part of a schema with its path, and how often it can occur in one object."""
    yield path, schema, times
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}", times)
    if "items" in schema:
        # What the server assumes without maxItems: as many of the smallest as fit into 3 MB.
        yield from nodes(schema["items"], f"{path}[]", times * schema.get("maxItems", 1_500_000))
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}{{}}", times * 500_000)


NODES = {path: (schema, times) for path, schema, times in nodes(ROOT)}
EVERYWHERE = {
    f"{name}{path}": schema
    for name, definition in DEFINITIONS.items()
    for path, schema, _ in nodes(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
}
RULES = [
    (path, rule) for path, (schema, _) in NODES.items() for rule in schema.get("x-kubernetes-validations", ())
]


def cost(path: str, rule: str) -> int:
    """At least what the server estimates: 1 for each name and operator, 10 for a list, and the price of matching.

    A match costs a tenth of the text's length, in bytes of which one character may have four, times a quarter of
    the pattern's (cel-go, checker/cost.go).
    """
    total = 10 * rule.count(" in [") + len(
        re.findall(r"[A-Za-z_.]+|[^\sA-Za-z_.]+", re.sub(r"'[^']*'", "''", rule))
    )
    for field, pattern in re.findall(r"self((?:\.\w+)?)\.matches\('([^']*)'\)", rule):
        longest = NODES[path + field][0]["maxLength"]
        total += math.ceil((longest * 4 + 1) / 10) * math.ceil(len(pattern) / 4)
    for field in re.findall(r"self((?:\.\w+)?)\.(?:starts|ends)With\(", rule):
        total += math.ceil(NODES[path + field][0]["maxLength"] * 4 / 10)
    return total * NODES[path][1]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_file_is_what_the_types_say(name: str) -> None:
    file = DIRECTORY / f"{name}.yaml"
    assert file.read_text() == files()[file], "run hack/gen-crd"


def test_there_are_no_other_files() -> None:
    assert set(DIRECTORY.iterdir()) == set(files())
    assert root_schema() == ROOT


@pytest.mark.parametrize("release", ["k1.26.5", "k1.36.3"])
def test_servers_know_every_field_of_the_definitions(release: str) -> None:
    document = Document.read(release, "apiextensions.k8s.io-v1")
    for definition in DEFINITIONS.values():
        assert document.mistakes(definition) == ()
    with_news = {**definition, "spec": {**definition["spec"], "selectableFields": []}}
    assert document.mistakes(with_news)


@pytest.mark.parametrize("path", EVERYWHERE)
def test_the_schema_is_structural(path: str) -> None:
    schema = EVERYWHERE[path]
    assert ("type" in schema) != schema.get("x-kubernetes-int-or-string", False)
    assert not {"$ref", "uniqueItems", "allOf", "anyOf", "oneOf", "nullable", "definitions"} & set(schema)
    assert not ("properties" in schema and "additionalProperties" in schema)
    assert set(schema.get("required", ())) <= set(schema.get("properties", ()))
    if schema.get("type") == "array":
        assert schema["x-kubernetes-list-type"] in ("atomic", "set", "map")
    for key in schema.get("x-kubernetes-list-map-keys", ()):
        assert key in schema["items"]["required"]
    for bound in ("minimum", "maximum"):
        assert abs(schema.get(bound, 0)) <= 2**53, "servers hold bounds as floating point"


@pytest.mark.parametrize(
    "path", [path for path in EVERYWHERE if re.search(r"\w$", path) and not path.endswith(".metadata")]
)
def test_every_field_is_described_and_well_named(path: str) -> None:
    schema = EVERYWHERE[path]
    assert schema["description"].endswith("."), path
    assert "\n" not in schema["description"]
    assert path.rpartition(".")[2] not in ("n", "y"), "which YAML 1.1 takes for booleans"


@pytest.mark.parametrize("path", [path for path in EVERYWHERE if path.endswith("[]")])
def test_elements_are_described_where_they_are_objects(path: str) -> None:
    schema = EVERYWHERE[path]
    assert ("description" in schema) == (schema.get("type") == "object")


@pytest.mark.parametrize(("path", "rule"), RULES)
def test_a_rule_compiles_costs_little_and_speaks_plainly(path: str, rule: dict[str, str]) -> None:
    compiled(rule["rule"])
    assert set(rule) == {"rule", "message"}, "servers of 1.26 know no more"
    assert "\n" not in rule["message"]
    functions = set(re.findall(r"(\w+)\(", re.sub(r"'[^']*'", "''", rule["rule"])))
    assert functions <= {"has", "matches", "startsWith", "endsWith", "size"}
    assert cost(path, rule["rule"]) < PER_RULE / 2, "the estimate may be off"


def test_all_rules_together_cost_little() -> None:
    assert sum(cost(path, rule["rule"]) for path, rule in RULES) < PER_DEFINITION / 2


def test_status_refuses_nothing_that_a_newer_agent_may_say() -> None:
    below = [schema for path, (schema, _) in NODES.items() if path.startswith(".status")]
    assert not {"enum", "required", "minimum", "maximum", "pattern", "maxLength", "maxItems"} & {
        key for schema in below for key in schema
    }
    assert all(schema.get("x-kubernetes-preserve-unknown-fields") for schema in below if "properties" in schema)


def test_columns_show_fields_that_are_there() -> None:
    columns = VERSION["additionalPrinterColumns"]
    first = [column["name"] for column in columns if not column.get("priority")]
    assert first == ["Ready", "GPUs", "VFs", "Claims", "Blocked", "Age"]
    for name, definition in DEFINITIONS.items():
        for column in definition["spec"]["versions"][0]["additionalPrinterColumns"]:
            path = re.sub(r"\[\?\(@\.type==.*?\)\]", "[]", column["jsonPath"])
            if not path.startswith(".metadata."):
                assert EVERYWHERE[f"{name}{path}"]["type"] == column["type"]


def test_the_object_is_as_the_design_says() -> None:
    assert DEFINITION["metadata"]["name"] == "gpunodestates.gpu.dra.intel.com"
    assert DEFINITION["spec"]["scope"] == "Cluster"
    assert DEFINITION["spec"]["names"]["shortNames"] == ["gns"]
    assert VERSION["subresources"] == {"status": {}}
    lists = {
        path: (schema["x-kubernetes-list-type"], *schema.get("x-kubernetes-list-map-keys", ()))
        for path, (schema, _) in NODES.items()
        if schema.get("x-kubernetes-list-type", "atomic") != "atomic"
    }
    assert lists == {
        ".spec.overrides": ("map", "device"),
        ".spec.manualAllocations": ("map", "name"),
        ".spec.manualAllocations[].devices": ("map", "device"),
        ".spec.releases": ("set",),
        ".spec.allocations": ("map", "name"),
    }
