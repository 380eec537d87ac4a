"""A schema as OpenAPI or a CustomResourceDefinition gives it, with references followed."""

from collections.abc import Mapping

from kubesim.values import Object, Value

PREFIX = "#/components/schemas/"


class Schema:
    """One node. Children are made when first asked for, since schemas may refer to themselves."""

    __slots__ = ("_children", "_definitions", "_fields", "name", "raw")

    def __init__(self, raw: Object, definitions: Mapping[str, Object] | None = None, name: str = "") -> None:
        self._definitions: Mapping[str, Object] = definitions or {}
        self._children: dict[str, Schema | None] = {}
        self._fields: dict[str, Schema] = {}
        self.name = name
        self.raw = self._resolved(raw)

    def _resolved(self, raw: Object) -> Object:
        reference = raw.get("$ref")
        if reference is None and len(raw.get("allOf", ())) == 1:
            reference = raw["allOf"][0].get("$ref")
        if reference is None:
            return raw
        self.name = reference.removeprefix(PREFIX)
        own = {key: value for key, value in raw.items() if key not in ("$ref", "allOf")}
        return {**self._definitions[self.name], **own}

    @property
    def definitions(self) -> Mapping[str, Object]:
        """What references in it refer to."""
        return self._definitions

    def _child(self, key: str, raw: Value) -> "Schema | None":
        child = Schema(raw, self._definitions) if isinstance(raw, dict) else None
        self._children[key] = child
        return child

    @property
    def type(self) -> str:
        """The JSON type; "" if several are allowed."""
        kind: str = self.raw.get("type", "")
        return kind

    @property
    def property_names(self) -> tuple[str, ...]:
        return tuple(self.raw.get("properties", ()))

    def field(self, name: str) -> "Schema | None":
        """The schema of a named property, None if it is not named."""
        if name in self._fields:
            return self._fields[name]
        raw = self.raw.get("properties", {}).get(name)
        if raw is None:
            return None
        child = Schema(raw, self._definitions)
        self._fields[name] = child
        return child

    @property
    def items(self) -> "Schema | None":
        return self._children["[]"] if "[]" in self._children else self._child("[]", self.raw.get("items"))

    @property
    def additional(self) -> "Schema | None":
        """The schema of a map's values."""
        known = self._children
        return known["{}"] if "{}" in known else self._child("{}", self.raw.get("additionalProperties"))

    def member(self, name: str) -> "Schema | None":
        """The schema below a key, be it a property or a map's value."""
        return self.field(name) or self.additional

    @property
    def is_map(self) -> bool:
        return bool(self.raw.get("additionalProperties"))

    @property
    def keeps_unknown(self) -> bool:
        return bool(self.raw.get("x-kubernetes-preserve-unknown-fields"))

    @property
    def int_or_string(self) -> bool:
        return bool(self.raw.get("x-kubernetes-int-or-string")) or self.raw.get("format") == "int-or-string"

    @property
    def embedded(self) -> bool:
        return bool(self.raw.get("x-kubernetes-embedded-resource"))

    @property
    def nullable(self) -> bool:
        return bool(self.raw.get("nullable"))

    @property
    def list_keys(self) -> tuple[str, ...]:
        """The keys of an associative list, () of any other."""
        if self.raw.get("x-kubernetes-list-type") != "map":
            return ()
        return tuple(self.raw.get("x-kubernetes-list-map-keys", ()))

    @property
    def is_set(self) -> bool:
        return self.raw.get("x-kubernetes-list-type") == "set"

    @property
    def is_atomic_map(self) -> bool:
        return self.raw.get("x-kubernetes-map-type") == "atomic"

    @property
    def merge_key(self) -> str:
        """The key by which a strategic merge patch finds a list's items; "" where it replaces the list."""
        key: str = self.raw.get("x-kubernetes-patch-merge-key", "")
        return key if "merge" in self.raw.get("x-kubernetes-patch-strategy", "") else ""

    @property
    def merges_primitives(self) -> bool:
        return "merge" in self.raw.get("x-kubernetes-patch-strategy", "") and not self.merge_key

    @property
    def go_type(self) -> str:
        """The Go type's name as error messages show it: the last two words of a definition's name."""
        return ".".join(self.name.split(".")[-2:])


def closed_over(definitions: Mapping[str, Object]) -> dict[str, Object]:
    """Definitions of built-in types, in which an object without properties holds anything (RawExtension)."""
    return {name: _open_ended(raw) for name, raw in definitions.items()}


def _open_ended(raw: Object) -> Object:
    if raw.get("type", "object") == "object" and not raw.keys() & {
        "properties",
        "additionalProperties",
        "oneOf",
        "format",
    }:
        return {**raw, "x-kubernetes-preserve-unknown-fields": True}
    return raw
