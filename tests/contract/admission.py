"""What an API server says of a custom resource, worked out from nothing but the definition's schema.

Defaults, unknown fields, types and bounds, list keys, CEL rules: in this order, as the server does it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import cel
from jsonschema import Draft202012Validator

from hack.crdgen.definition import root_schema

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """One reason to refuse an object: where (``spec.overrides[0].mode``), and why."""

    path: str
    why: str


def admit(raw: dict[str, Any], schema: Schema | None = None) -> tuple[Refused, ...]:
    """Why the server refuses ``raw``; empty if it doesn't. With broken types, rules are not looked at."""
    whole = schema or root_schema()
    filled = defaulted(whole, raw)
    problems = tuple(_malformed(whole, filled)) + tuple(_repeated(whole, filled, ""))
    return problems or tuple(_broken_rules(whole, filled, ""))


def defaulted(schema: Schema, value: Any) -> Any:
    """``value`` with the server's defaults filled in."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        given = {name: prop["default"] for name, prop in properties.items() if "default" in prop}
        return {
            name: defaulted(properties.get(name, schema.get("additionalProperties", {})), child)
            for name, child in (given | value).items()
        }
    if isinstance(value, list):
        return [defaulted(schema.get("items", {}), child) for child in value]
    return value


def as_json_schema(schema: Schema) -> Schema:
    """A structural schema in words that JSON Schema has: there, what is not forbidden is allowed."""
    plain = {name: child for name, child in schema.items() if not name.startswith("x-")}
    if "pattern" in plain:
        plain["pattern"] = plain["pattern"].replace("$", r"\Z")  # RE2's `$` is the very end
    if schema.get("x-kubernetes-int-or-string"):
        plain["type"] = ["integer", "string"]
    if "integer" in plain["type"]:
        plain.setdefault("maximum", 2**63 - 1)
        plain.setdefault("minimum", -(2**63))
    if "properties" in plain:
        plain["properties"] = {name: as_json_schema(child) for name, child in plain["properties"].items()}
        plain["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    elif "additionalProperties" in plain:
        plain["additionalProperties"] = as_json_schema(plain["additionalProperties"])
    if "items" in plain:
        plain["items"] = as_json_schema(plain["items"])
    return plain


def _malformed(schema: Schema, value: Any) -> Iterator[Refused]:
    for error in Draft202012Validator(as_json_schema(schema)).iter_errors(value):
        yield Refused(_path(error.absolute_path), error.message)


def _repeated(schema: Schema, value: Any, path: str) -> Iterator[Refused]:
    """Elements of sets and maps that are there before."""
    for name, child, below in _children(schema, value):
        yield from _repeated(below, child, f"{path}{name}")
    keys = schema.get("x-kubernetes-list-map-keys")
    if not isinstance(value, list) or (keys is None and schema.get("x-kubernetes-list-type") != "set"):
        return
    seen = []
    for index, child in enumerate(value):
        key = [child.get(one) for one in keys] if keys and isinstance(child, dict) else child
        if key in seen:
            yield Refused(f"{path}[{index}]".lstrip("."), f"Duplicate value: {key}")
        seen.append(key)


def _broken_rules(schema: Schema, value: Any, path: str) -> Iterator[Refused]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if not compiled(rule["rule"]).execute({"self": value}):
            yield Refused(path.lstrip("."), rule["message"])
    for name, child, below in _children(schema, value):
        yield from _broken_rules(below, child, f"{path}{name}")


def _children(schema: Schema, value: Any) -> Iterator[tuple[str, Any, Schema]]:
    if isinstance(value, dict):
        for name, child in value.items():
            below = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(below, dict):
                yield f".{name}", child, below
    elif isinstance(value, list) and "items" in schema:
        for index, child in enumerate(value):
            yield f"[{index}]", child, schema["items"]


@cache
def compiled(rule: str) -> cel.Program:
    """A CEL rule, ready to run."""
    return cel.compile(rule)


def _path(parts: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
