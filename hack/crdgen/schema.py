"""From msgspec types to the structural schemas of custom resource definitions.

A strict schema says all that the types say. A lenient one, for status, says only which fields there are and of
what type, and lets unknown ones pass: a newer agent must not be refused, or stripped of what it says, by a
definition older than itself (Helm, for one, never upgrades definitions).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import inspect

from hack.crdgen import docstrings

Schema: TypeAlias = dict[str, object]

LARGEST_EXACT = 2**53
"""API servers hold the bounds of numbers as floating point; larger ones would come back changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How much a schema says.

    ``added`` gives what admission adds to a type (field "") or to one of its fields, by name in the manifest.
    ``defaulted`` are the types whose defaults the server fills in.
    """

    strict: bool
    added: Callable[[type, str], Schema]
    defaulted: frozenset[type] = frozenset()


def schema_of(cls: type, dialect: Dialect) -> Schema:
    """The schema of a msgspec struct, without a description of the whole."""
    return _of(inspect.type_info(cls), dialect)


def _of(kind: inspect.Type, dialect: Dialect) -> Schema:
    match kind:
        case inspect.StructType():
            return _struct(kind, dialect)
        case inspect.VarTupleType():
            return _list(kind, dialect)
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _described(kind.value_type, dialect)}
        case inspect.UnionType():
            (kept,) = (one for one in kind.types if not isinstance(one, inspect.NoneType))
            return _of(kept, dialect)
        case inspect.EnumType():
            choices = {"enum": [one.value for one in kind.cls]}
            return {"type": "string", **(choices if dialect.strict else {})}
        case inspect.StrType():
            return {"type": "string", **(_string_bounds(kind) if dialect.strict else {})}
        case inspect.IntType():
            return {"type": "integer", "format": "int64", **(_bounds(kind) if dialect.strict else {})}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.DateTimeType():
            return {"type": "string", "format": "date-time"}
        case _:
            raise TypeError(f"no schema is known for {kind}")


def _struct(kind: inspect.StructType, dialect: Dialect) -> Schema:
    told = docstrings.of_fields(kind.cls)
    required = [field.encode_name for field in kind.fields if field.required]
    schema: Schema = {"type": "object"}
    if not dialect.strict:
        schema["x-kubernetes-preserve-unknown-fields"] = True
    elif required:
        schema["required"] = required
    schema["properties"] = {
        field.encode_name: {
            "description": told[field.name],
            **merged(
                {**_of(field.type, dialect), **_default(kind.cls, field, dialect)},
                dialect.added(kind.cls, field.encode_name),
            ),
        }
        for field in kind.fields
    }
    return merged(schema, dialect.added(kind.cls, ""))


def _default(owner: type, field: inspect.Field, dialect: Dialect) -> Schema:
    """Only choices and switches: an empty text or list says no more than an absent one."""
    if owner not in dialect.defaulted:
        return {}
    match field.type:
        case inspect.EnumType() if not field.required:
            return {"default": field.default.value}
        case inspect.BoolType():
            return {"default": field.default}
        case _:
            return {}


def _list(kind: inspect.VarTupleType, dialect: Dialect) -> Schema:
    bounds: Schema = {"minItems": kind.min_length, "maxItems": kind.max_length} if dialect.strict else {}
    return {
        "type": "array",
        "x-kubernetes-list-type": "atomic",
        **{name: value for name, value in bounds.items() if value is not None},
        "items": _described(kind.item_type, dialect),
    }


def _described(kind: inspect.Type, dialect: Dialect) -> Schema:
    """The schema of a list's or map's elements, which no field describes."""
    told = {"description": docstrings.of_type(kind.cls)} if isinstance(kind, inspect.StructType) else {}
    return {**told, **_of(kind, dialect)}


def _string_bounds(kind: inspect.StrType) -> Schema:
    # RE2's `$` is Python's `\Z`: the very end.
    pattern = None if kind.pattern is None else kind.pattern.replace(r"\Z", "$")
    bounds: Schema = {"minLength": kind.min_length, "maxLength": kind.max_length, "pattern": pattern}
    return {name: value for name, value in bounds.items() if value is not None}


def _bounds(kind: inspect.IntType) -> Schema:
    bounds = {"minimum": kind.ge, "maximum": kind.le}
    return {name: value for name, value in bounds.items() if value is not None and abs(value) <= LARGEST_EXACT}


def merged(schema: Schema, added: Schema) -> Schema:
    """``schema`` with what ``added`` has besides; None in it takes something away."""
    result = dict(schema)
    for name, value in added.items():
        before = result.get(name)
        if value is None:
            result.pop(name, None)
        elif isinstance(before, dict) and isinstance(value, dict):
            result[name] = merged(before, value)
        else:
            result[name] = value
    return result
