"""The rules that a custom resource's schema must meet to be structural, as far as people break them."""

from collections.abc import Iterator

from kubesim import custom_validation, rules
from kubesim.refusals import Cause, forbidden, invalid_value, required
from kubesim.schema import Schema
from kubesim.values import Object, at, objects

NOT_SUPPORTED = ("$ref", "additionalItems", "definitions", "dependencies", "id", "patternProperties")
"""Words of JSON Schema that a structural schema may not use; others are unknown fields of a definition."""
RULES = "x-kubernetes-validations"


def causes(raw: Object, path: str) -> Iterator[Cause]:
    """Everything wrong with the schema of a version."""
    if raw.get("type") not in (None, "object"):
        yield invalid_value(f"{path}.type", raw["type"], "must be object at the root")
    yield from _node_causes(raw, path, correlated=True)
    try:
        rules.compiled(Schema(raw))
    except ValueError as error:
        yield invalid_value(f"{path}.{RULES}", "", f"compilation failed: {error}")


def _node_causes(raw: Object, path: str, *, correlated: bool) -> Iterator[Cause]:
    """`correlated`: whether the server can find a value's earlier state."""
    loose = raw.get("x-kubernetes-int-or-string") or raw.get("x-kubernetes-preserve-unknown-fields")
    if not raw.get("type") and not loose:
        yield required(f"{path}.type", "must not be empty for specified object fields")
    for word in NOT_SUPPORTED:
        if word in raw:
            yield forbidden(f"{path}.{word}", f"{word} is not supported")
    if raw.get("uniqueItems"):
        why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield forbidden(f"{path}.uniqueItems", why)
    yield from _shape_causes(raw, path)
    yield from _default_causes(raw, path)
    if not correlated:
        yield from _transition_causes(raw, path)
    for name, child in (raw.get("properties") or {}).items():
        yield from _node_causes(child, f"{path}.properties[{name}]", correlated=correlated)
    for word in ("items", "additionalProperties"):
        if isinstance(raw.get(word), dict):
            found_again = word != "items" or raw.get("x-kubernetes-list-type") == "map"
            yield from _node_causes(raw[word], f"{path}.{word}", correlated=correlated and found_again)


def _shape_causes(raw: Object, path: str) -> Iterator[Cause]:
    items = raw.get("items")
    if raw.get("type") == "array" and not isinstance(items, dict):
        yield required(f"{path}.items", "must be specified")
    if raw.get("additionalProperties") is False:
        yield forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false")
    if "properties" in raw and raw.get("additionalProperties"):
        yield forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    kind, keys = raw.get("x-kubernetes-list-type"), raw.get("x-kubernetes-list-map-keys") or ()
    if kind == "map" and not keys:
        yield required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
    for key in keys:
        part = at(items, "properties", key)
        if part is None:
            yield invalid_value(f"{path}.x-kubernetes-list-map-keys", key, "must name a property of the items")
        elif key not in (at(items, "required") or ()) and "default" not in part:
            why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be required"
            yield required(f"{path}.items.properties[{key}].default", why)


def _default_causes(raw: Object, path: str) -> Iterator[Cause]:
    if raw.get("default") is not None:
        yield from custom_validation.causes(raw["default"], Schema(raw), f"{path}.default")


def _transition_causes(raw: Object, path: str) -> Iterator[Cause]:
    for index, rule in enumerate(objects(raw.get(RULES))):
        if rules.USES_OLD.search(rule.get("rule", "")):
            why = "oldSelf cannot be used on the uncorrelatable portion of the schema"
            yield invalid_value(f"{path}.{RULES}[{index}].rule", rule["rule"], why)
