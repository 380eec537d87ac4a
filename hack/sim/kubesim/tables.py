"""Objects as rows, which is what `kubectl get` asks for (meta.k8s.io/v1 Table)."""

import re
from collections.abc import Sequence

from kubesim.columns import Column, columns_of
from kubesim.resources import Target
from kubesim.schema import Schema
from kubesim.state import State
from kubesim.values import Object, Value, objects

STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")
FILTER = re.compile(r"\?\(@\.([\w.]+)\s*==\s*['\"]([^'\"]*)['\"]\)")


def wants_table(accept: str) -> bool:
    """Whether the first acceptable form is a Table."""
    return "as=Table" in accept.partition(",")[0]


def table(
    shown: Sequence[Object], target: Target, state: State, metadata: Object, *, include: str, headers: bool = True
) -> Object:
    """Rows for objects in a version; `include` says what each row carries of its object."""
    columns = _columns(target, state)
    now = state.clock.now()
    body: Object = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    body["columnDefinitions"] = [_definition(column, target.schema) for column in columns] if headers else None
    body["rows"] = [
        {"cells": [column.cell(each, now) for column in columns], **_carried(each, include)} for each in shown
    ]
    return body


def _carried(shown: Object, include: str) -> Object:
    if include == "None":
        return {}
    if include == "Object":
        return {"object": shown}
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": shown["metadata"]}
    return {"object": partial}


def _definition(column: Column, schema: Schema | None) -> Object:
    for name in column.field:
        schema = schema.field(name) if schema else None
    return {
        "name": column.name,
        "type": column.type,
        "format": column.format,
        "description": column.description
        or (schema.raw.get("description", "") if schema and column.field else ""),
        "priority": column.priority,
    }


def _columns(target: Target, state: State) -> list[Column]:
    name = Column(
        name="Name",
        format="name",
        description=_meta_description(target, "name"),
        value=lambda shown: shown["metadata"]["name"],
    )
    age = Column(
        name="Age",
        type="date" if target.resource.custom else "string",
        description=_meta_description(target, "creationTimestamp"),
        value=lambda shown: shown["metadata"].get("creationTimestamp"),
        moment=True,
    )
    definition = target.resource.definition
    if definition is not None:
        custom = _custom_columns(definition, target.version)
        return [name, *(custom if custom is not None else [age])]
    known = columns_of(target.resource.key, state.release.minor)
    if known is None:
        return [name, Column(name="Created At", description=age.description, value=age.value)]
    return [name, *known, age] if not known or not known[-1].last else [*known]


def _meta_description(target: Target, name: str) -> str:
    schema = target.ownership_schema
    for part in ("metadata", name):
        schema = schema.field(part) if schema else None
    text: str = schema.raw.get("description", "") if schema else ""
    return text


def _custom_columns(definition: Object, version: str) -> list[Column] | None:
    for each in objects(definition["spec"]["versions"]):
        if each["name"] == version and each.get("additionalPrinterColumns"):
            return [_custom_column(raw) for raw in objects(each["additionalPrinterColumns"])]
    return None


def _custom_column(raw: Object) -> Column:
    path = raw["jsonPath"]
    return Column(
        name=raw["name"],
        type=raw["type"],
        format=raw.get("format", ""),
        description=raw.get("description") or "Custom resource definition column (in JSONPath format): " + path,
        priority=raw.get("priority", 0),
        value=lambda shown: path_value(shown, path),
        moment=raw["type"] == "date",
    )


def path_value(value: Value, path: str) -> Value:
    """What a simple JSONPath names (fields, indices, [*], filters by a field's value); the first if several."""
    found = [value]
    for step in STEP.finditer(path):
        found = [below for each in found for below in _below(each, step[1] or step[2])]
    return found[0] if found else None


def _below(value: Value, step: str) -> list[Value]:
    if isinstance(value, dict):
        key = step.strip("'\"").replace("\\", "")
        return [value[key]] if value.get(key) is not None else []
    if not isinstance(value, list):
        return []
    if step == "*":
        return value
    if condition := FILTER.fullmatch(step):
        return [each for each in value if str(path_value(each, condition[1])) == condition[2]]
    index = int(step) if step.lstrip("-").isdigit() else len(value)
    return [value[index]] if -len(value) <= index < len(value) else []
