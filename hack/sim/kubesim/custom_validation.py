"""Validation of custom objects against their structural schema, in the words of the real server."""

import re
from collections.abc import Iterator
from datetime import datetime

from kubesim.decoding import PYTHON_TYPES
from kubesim.refusals import Cause, duplicate, invalid_value, required, too_long, too_many, unsupported
from kubesim.schema import Schema
from kubesim.values import Object, Value, at, quoted

BLOCKING = frozenset(
    {
        "FieldValueNotSupported",
        "FieldValueRequired",
        "FieldValueTooLong",
        "FieldValueTooMany",
        "FieldValueTypeInvalid",
    }
)
"""Causes after which the server does not evaluate rules any more."""
JSON_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


def causes(value: Value, schema: Schema, path: str) -> Iterator[Cause]:
    """Everything wrong with a value, in the order of the server."""
    if value is None:
        if not schema.nullable and schema.type and not schema.keeps_unknown:
            yield _wrong_type(value, schema.type, path)
        return
    if schema.int_or_string:
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield _wrong_type(value, "integer,string", path)
        return
    if schema.type and not _has_type(value, schema.type):
        yield _wrong_type(value, schema.type, path)
        return
    yield from _of_type(value, schema, path)
    allowed = schema.raw.get("enum")
    if allowed is not None and value not in allowed:
        yield unsupported(path, value, allowed)
    yield from _combined(value, schema, path)


def _of_type(value: Value, schema: Schema, path: str) -> Iterator[Cause]:
    if isinstance(value, dict):
        yield from _object_causes(value, schema, path)
    elif isinstance(value, list):
        yield from _list_causes(value, schema, path)
    elif isinstance(value, str):
        yield from _text_causes(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number_causes(value, schema, path)


def _has_type(value: Value, kind: str) -> bool:
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, PYTHON_TYPES[kind]) and not (isinstance(value, bool) and kind != "boolean")


def _wrong_type(value: Value, kind: str, path: str) -> Cause:
    name = "null" if value is None else JSON_NAMES[type(value)]
    message = f'Invalid value: "{name}": {path} in body must be of type {kind}: "{name}"'
    return Cause("FieldValueTypeInvalid", message, path)


def _body(path: str, value: Value, rule: str) -> Cause:
    return invalid_value(path, value, f"{path} in body {rule}")


def _object_causes(value: Object, schema: Schema, path: str) -> Iterator[Cause]:
    for key in sorted(value):
        child = schema.member(key)
        if child is not None:
            yield from causes(value[key], child, f"{path}.{key}" if path else key)
    for key in schema.raw.get("required", ()):
        if key not in value:
            yield required(f"{path}.{key}" if path else key)
    most, least = schema.raw.get("maxProperties"), schema.raw.get("minProperties")
    if most is not None and len(value) > most:
        yield too_many(path, len(value), most)
    if least is not None and len(value) < least:
        yield _body(path, value, f"should have at least {least} properties")


def _list_causes(value: list[Value], schema: Schema, path: str) -> Iterator[Cause]:
    most, least = schema.raw.get("maxItems"), schema.raw.get("minItems")
    if most is not None and len(value) > most:
        yield too_many(path, len(value), most)
    if least is not None and len(value) < least:
        yield _body(path, len(value), f"should have at least {least} items")
    if schema.items is not None:
        for index, each in enumerate(value):
            yield from causes(each, schema.items, f"{path}[{index}]")
    yield from _repeated(value, schema, path)


def _repeated(value: list[Value], schema: Schema, path: str) -> Iterator[Cause]:
    keys = schema.list_keys
    if not keys and not schema.is_set:
        return
    seen: set[str] = set()
    for index, each in enumerate(value):
        identity = {key: at(each, key) for key in sorted(keys)} if keys else each
        if quoted(identity) in seen:
            yield duplicate(f"{path}[{index}]", identity)
        seen.add(quoted(identity))


def _text_causes(value: str, schema: Schema, path: str) -> Iterator[Cause]:
    most, least = schema.raw.get("maxLength"), schema.raw.get("minLength")
    pattern = schema.raw.get("pattern")
    if most is not None and len(value) > most:
        yield too_long(path, most)
    elif least is not None and len(value) < least:
        yield _body(path, value, f"should be at least {least} chars long")
    elif pattern is not None and not re.search(pattern, value):
        yield _body(path, value, f"should match '{pattern}'")
    if schema.raw.get("format") == "date-time" and not _is_moment(value):
        yield _body(path, value, f"must be of type date-time: {quoted(value)}")


def _is_moment(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None and "T" in value
    except ValueError:
        return False


def _number_causes(value: float, schema: Schema, path: str) -> Iterator[Cause]:
    most, least = schema.raw.get("maximum"), schema.raw.get("minimum")
    if most is not None:
        strict = schema.raw.get("exclusiveMaximum")
        if value > most or (strict and value == most):
            yield _body(path, value, f"should be less than {'' if strict else 'or equal to '}{most}")
    if least is not None:
        strict = schema.raw.get("exclusiveMinimum")
        if value < least or (strict and value == least):
            yield _body(path, value, f"should be greater than {'' if strict else 'or equal to '}{least}")
    step = schema.raw.get("multipleOf")
    if step and value % step:
        yield _body(path, value, f"should be a multiple of {step}")


def _combined(value: Value, schema: Schema, path: str) -> Iterator[Cause]:
    """allOf, anyOf, oneOf, not: value validations only, as structural schemas have them."""
    for raw in schema.raw.get("allOf", ()):
        yield from causes(value, Schema(raw), path)
    for word, amount in (("anyOf", "at least one"), ("oneOf", "one and only one")):
        branches = schema.raw.get(word)
        if not branches:
            continue
        fitting = sum(not any(causes(value, Schema(raw), path)) for raw in branches)
        if fitting == 0 or (word == "oneOf" and fitting > 1):
            yield _body(path, value, f"must validate {amount} schema ({word})")
    if "not" in schema.raw and not any(causes(value, Schema(schema.raw["not"]), path)):
        yield _body(path, value, "must not validate the schema (not)")
