"""Hypothesis strategies for objects that the schema of a custom resource definition allows."""

import re
from typing import Any

from hypothesis import strategies as st

from tests.contract.admission import compiled

Schema = dict[str, Any]

_PLAIN = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Any value that ``schema`` allows but for CEL rules, small ones rather than large ones."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(schema["minimum"], 2**63 - 1) | _strings(schema)
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
        case "string":
            return _strings(schema)
        case "array":
            return _arrays(schema)
        case "object" if "properties" in schema:
            return _objects(schema)
        case "object":
            return st.dictionaries(_TEXT, values(schema["additionalProperties"]), max_size=2)
        case other:
            raise TypeError(other)


def _strings(schema: Schema) -> st.SearchStrategy[str]:
    """By its pattern, or by the first one in its rules; these then have to agree."""
    rules = [rule["rule"] for rule in schema.get("x-kubernetes-validations", ())]
    patterns = [found[1] for rule in rules if (found := re.match(r"self\.matches\('([^']*)'\)$", rule))]
    pattern = schema.get("pattern", patterns[0] if patterns else None)
    longest = schema.get("maxLength", 1000)
    made = _TEXT if pattern is None else st.from_regex(pattern.replace("$", r"\Z"), alphabet=_PLAIN)
    return made.filter(
        lambda text: len(text) <= longest and all(compiled(rule).execute({"self": text}) for rule in rules)
    )


def _arrays(schema: Schema) -> st.SearchStrategy[list[Any]]:
    keys = schema.get("x-kubernetes-list-map-keys")
    unique_by = None
    if keys is not None:
        unique_by = lambda item: tuple(item[key] for key in keys)  # noqa: E731
    elif schema["x-kubernetes-list-type"] == "set":
        unique_by = lambda item: item  # noqa: E731
    most = min(schema.get("maxItems", 3), 3)
    return st.lists(
        values(schema["items"]), min_size=schema.get("minItems", 0), max_size=most, unique_by=unique_by
    )


def _objects(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    required = set(schema.get("required", ()))
    fields = {name: values(child) for name, child in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: child for name, child in fields.items() if name in required},
        optional={name: child for name, child in fields.items() if name not in required},
    )
