"""Custom resources: schemas, defaults, pruning, rules, columns, versions, and their definitions' life."""

import json
from typing import Any

import pytest

from kubesim import Cluster, Refusal, Request

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
THINGS = "/apis/test.example/v1/things"


def definition(spec: dict[str, Any], **version: Any) -> dict[str, Any]:
    properties = {"spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": properties}}
    return {
        "metadata": {"name": "things.test.example"},
        "spec": {
            "group": "test.example",
            "scope": "Cluster",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": schema,
                    **version,
                }
            ],
        },
    }


def with_spec(schema: dict[str, Any], **version: Any) -> Cluster:
    cluster = Cluster()
    cluster.create(DEFINITIONS, definition({"type": "object", **schema}, **version))
    return cluster


def thing(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "test.example/v1", "kind": "Thing", "metadata": {"name": "one"}, "spec": spec}


def causes(refusal: Refusal) -> list[tuple[str, str]]:
    assert refusal.details is not None
    return [(cause["field"], cause["message"]) for cause in refusal.details["causes"]]


def test_defaults_come_in_at_every_depth() -> None:
    item = {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}
    cluster = with_spec(
        {
            "properties": {
                "mode": {"type": "string", "default": "A"},
                "deep": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 1}}},
                "items": {"type": "array", "items": item},
                "byName": {"type": "object", "additionalProperties": item},
            }
        }
    )
    made = cluster.create(THINGS, thing(items=[{}, {"size": 4}], byName={"a": {}}))
    assert made["spec"] == {
        "mode": "A",
        "deep": {"x": 1},
        "items": [{"size": 3}, {"size": 4}],
        "byName": {"a": {"size": 3}},
    }


def test_unknown_fields_are_pruned_unless_they_are_kept() -> None:
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    cluster = with_spec({"properties": {"free": free, "shut": {"type": "object"}}})
    assert cluster.create(THINGS, thing(free={"x": {"y": 1}}, shut={"x": 1}))["spec"] == {
        "free": {"x": {"y": 1}},
        "shut": {},
    }


def test_keyed_lists_have_no_duplicates() -> None:
    items = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    keyed = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": items,
    }
    tags = {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}
    cluster = with_spec({"properties": {"keyed": keyed, "tags": tags}})
    with pytest.raises(Refusal) as refused:
        cluster.create(THINGS, thing(keyed=[{"name": "a"}, {"name": "a"}], tags=["x", "x"]))
    assert causes(refused.value) == [
        ("spec.keyed[1]", 'Duplicate value: {"name":"a"}'),
        ("spec.tags[1]", 'Duplicate value: "x"'),
    ]


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"type": "string", "minLength": 1}, "", "should be at least 1 chars long"),
        ({"type": "string", "format": "date-time"}, "noon", "must be of type date-time"),
        ({"type": "integer", "minimum": 1}, 0, "should be greater than or equal to 1"),
        ({"type": "number", "maximum": 1, "exclusiveMaximum": True}, 1, "should be less than 1"),
        ({"type": "array", "minItems": 1, "items": {"type": "string"}}, [], "should have at least 1 items"),
        ({"x-kubernetes-int-or-string": True}, True, "must be of type integer,string"),
        ({"type": "boolean"}, "true", "must be of type boolean"),
        ({"type": "integer"}, True, "must be of type integer"),
        ({"type": "string", "oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, "ab", "one and only one schema"),
        ({"type": "string", "not": {"enum": ["x"]}}, "x", "must not validate the schema"),
        (
            {"type": "object", "maxProperties": 0, "additionalProperties": True},
            {"a": 1},
            "must have at most 0 items",
        ),
    ],
)
def test_values_are_checked(schema: dict[str, Any], value: Any, said: str) -> None:
    with pytest.raises(Refusal, match=said) as refused:
        with_spec({"properties": {"field": schema}}).create(THINGS, thing(field=value))
    assert refused.value.code == 422


def rule(text: str, **more: Any) -> dict[str, Any]:
    return {"x-kubernetes-validations": [{"rule": text, **more}]}


def test_a_transition_rule_waits_for_an_old_value() -> None:
    size = {"type": "integer", **rule("self >= oldSelf", message="must not shrink")}
    cluster = with_spec({"properties": {"size": size}})
    cluster.create(THINGS, thing(size=3))
    cluster.merge(f"{THINGS}/one", {"spec": {"size": 4}})
    with pytest.raises(Refusal) as refused:
        cluster.merge(f"{THINGS}/one", {"spec": {"size": 2}})
    assert causes(refused.value) == [("spec.size", "Invalid value: must not shrink")]
    cluster.merge(f"{THINGS}/one", {"spec": {"size": None}})
    cluster.merge(f"{THINGS}/one", {"spec": {"size": 1}})


def test_items_of_keyed_lists_know_their_old_selves() -> None:
    item = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "index": {"type": "integer"}},
        **rule("self.index == oldSelf.index", message="index is immutable"),
    }
    keyed = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": item,
    }
    cluster = with_spec({"properties": {"items": keyed}})
    cluster.create(THINGS, thing(items=[{"name": "a", "index": 1}, {"name": "b", "index": 2}]))
    cluster.merge(f"{THINGS}/one", {"spec": {"items": [{"name": "b", "index": 2}, {"name": "c", "index": 1}]}})
    with pytest.raises(Refusal, match=r"spec.items\[0\]: Invalid value: index is immutable"):
        cluster.merge(f"{THINGS}/one", {"spec": {"items": [{"name": "b", "index": 3}]}})


@pytest.mark.parametrize(
    ("rule_", "spec", "field", "said"),
    [
        (
            rule("self.a < self.b", reason="FieldValueForbidden", fieldPath=".a", message="no"),
            {"a": 2, "b": 1},
            "spec.a",
            "Forbidden: no",
        ),
        (rule("self.a < self.b"), {"a": 2, "b": 1}, "spec", "Invalid value: failed rule: self.a < self.b"),
        (rule("false", messageExpression="'a is ' + string(self.a)"), {"a": 2}, "spec", "Invalid value: a is 2"),
        (
            rule("self.__namespace__ == 'x'"),
            {"namespace": "y"},
            "spec",
            "Invalid value: failed rule: self.__namespace__ == 'x'",
        ),
    ],
)
def test_rules_say_where_and_why(rule_: dict[str, Any], spec: dict[str, Any], field: str, said: str) -> None:
    properties = {"a": {"type": "integer"}, "b": {"type": "integer"}, "namespace": {"type": "string"}}
    with pytest.raises(Refusal) as refused:
        with_spec({"properties": properties, **rule_}).create(THINGS, thing(**spec))
    assert causes(refused.value) == [(field, said)]


def test_a_rule_that_cannot_be_evaluated_is_broken() -> None:
    cluster = with_spec({"properties": {"a": {"type": "integer"}}, **rule("noSuchFunction(self.a)")})
    with pytest.raises(Refusal, match="rule evaluation error"):
        cluster.create(THINGS, thing(a=1))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "object", "properties": {"a": {}}}, "must not be empty for specified object fields"),
        ({"type": "array"}, "items: Required value"),
        ({"type": "object", **rule("self ===")}, "compilation failed"),
        ({"type": "object", "additionalProperties": False}, "cannot be set to false"),
        ({"type": "array", "uniqueItems": True, "items": {"type": "string"}}, "uniqueItems cannot be set to true"),
        ({"type": "object", "patternProperties": {"a": {"type": "string"}}}, "patternProperties is not supported"),
        ({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}, "must be of type integer"),
        (
            {
                "type": "object",
                "properties": {
                    "a": {"type": "array", "items": {"type": "integer", **rule("self == oldSelf")}},
                },
            },
            "oldSelf cannot be used on the uncorrelatable portion",
        ),
        (
            {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}}},
            },
            "must have a default or be required",
        ),
    ],
)
def test_definitions_are_checked(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        Cluster().create(DEFINITIONS, definition(spec))


def test_a_definition_is_established_and_goes_with_its_objects() -> None:
    cluster = with_spec({})
    made = cluster.get(f"{DEFINITIONS}/things.test.example")
    assert {each["type"]: each["status"] for each in made["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    cluster.create(THINGS, thing())
    watch = cluster.watch(Request.to("GET", f"{THINGS}?watch=true&resourceVersion=1"))
    cluster.delete(f"{DEFINITIONS}/things.test.example")
    lines, _ = watch.poll()
    watch.close()
    assert [json.loads(line)["type"] for line in lines] == ["ADDED", "DELETED"]
    with pytest.raises(Refusal, match="404 page not found"):
        cluster.get(THINGS)


def test_columns_of_every_type() -> None:
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "First", "type": "string", "jsonPath": ".spec.items[0].name"},
        {"name": "Flag", "type": "boolean", "jsonPath": ".spec.flag"},
        {"name": "None", "type": "string", "jsonPath": ".spec.none"},
    ]
    free = {"x-kubernetes-preserve-unknown-fields": True}
    cluster = with_spec(free, additionalPrinterColumns=columns)
    cluster.create(THINGS, thing(size=3, items=[{"name": "x"}], flag=True))
    answer = cluster.handle(Request.to("GET", THINGS, accept="application/json;as=Table;v=v1;g=meta.k8s.io"))
    assert json.loads(answer.body)["rows"][0]["cells"] == ["one", 3, "x", True, None]


def test_two_versions_show_the_same_object() -> None:
    body = definition({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    newer = {**body["spec"]["versions"][0], "name": "v2", "storage": False}
    body["spec"]["versions"].append(newer)
    cluster = Cluster()
    cluster.create(DEFINITIONS, body)
    cluster.create(THINGS, thing(a=1))
    shown = cluster.get("/apis/test.example/v2/things/one")
    assert (shown["apiVersion"], shown["spec"]) == ("test.example/v2", {"a": 1})
    group = json.loads(cluster.handle(Request.to("GET", "/apis/test.example")).body)
    assert [each["version"] for each in group["versions"]] == ["v2", "v1"]


def test_a_changed_definition_takes_effect() -> None:
    cluster = with_spec({"properties": {"a": {"type": "integer"}}})
    changed = cluster.get(f"{DEFINITIONS}/things.test.example")
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["b"] = {
        "type": "string"
    }
    cluster.replace(f"{DEFINITIONS}/things.test.example", changed)
    assert cluster.create(THINGS, thing(a=1, b="x"))["spec"] == {"a": 1, "b": "x"}


def test_an_update_needs_the_version_it_is_of() -> None:
    cluster = with_spec({})
    cluster.create(THINGS, thing())
    with pytest.raises(
        Refusal, match=r"metadata\.resourceVersion: Invalid value: 0: must be specified for an update"
    ):
        cluster.replace(f"{THINGS}/one", thing())
