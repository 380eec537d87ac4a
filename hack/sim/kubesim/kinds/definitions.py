"""CustomResourceDefinition: its defaults and the rules of structural schemas."""

from collections.abc import Iterator

from kubesim import rules
from kubesim.kinds.behaviour import Behaviour, View
from kubesim.refusals import Cause, invalid_value, required
from kubesim.schema import Schema
from kubesim.values import Object, at, objects


def _default(definition: Object) -> None:
    spec = definition["spec"]
    names = spec.setdefault("names", {})
    names.setdefault("singular", names.get("kind", "").lower())
    names.setdefault("listKind", f"{names.get('kind', '')}List")
    spec.setdefault("conversion", {"strategy": "None"})


def _create(definition: Object) -> None:
    stored = [version["name"] for version in objects(definition["spec"].get("versions")) if version.get("storage")]
    empty = {"kind": "", "plural": ""}
    definition["status"] = {"acceptedNames": empty, "conditions": None, "storedVersions": stored}


def _causes(definition: Object, view: View) -> Iterator[Cause]:
    spec, name = definition["spec"], definition["metadata"]["name"]
    names = spec.get("names", {})
    expected = f"{names.get('plural', '')}.{spec.get('group', '')}"
    if name != expected:
        yield invalid_value("metadata.name", name, 'must be spec.names.plural+"."+spec.group')
    for field in ("group", "scope"):
        if not spec.get(field):
            yield required(f"spec.{field}")
    versions = list(objects(spec.get("versions")))
    if sum(bool(version.get("storage")) for version in versions) != 1:
        why = "must have exactly one version marked as storage version"
        yield invalid_value("spec.versions", [version.get("name") for version in versions], why)
    for index, version in enumerate(versions):
        yield from _version_causes(version, f"spec.versions[{index}]")
    if view.old is not None and view.old["spec"]["scope"] != spec.get("scope"):
        yield invalid_value("spec.scope", spec.get("scope"), "field is immutable")


def _version_causes(version: Object, path: str) -> Iterator[Cause]:
    raw = at(version, "schema", "openAPIV3Schema")
    place = f"{path}.schema.openAPIV3Schema"
    if raw is None:
        yield required(place, "schemas are required")
        return
    yield from _structural(raw, place, root=True)
    try:
        rules.compiled(Schema(raw))
    except ValueError as error:
        yield invalid_value(f"{place}.x-kubernetes-validations", "", f"compilation failed: {error}")


def _structural(raw: Object, path: str, *, root: bool = False) -> Iterator[Cause]:
    """The rules of structural schemas that people break."""
    loose = raw.get("x-kubernetes-int-or-string") or raw.get("x-kubernetes-preserve-unknown-fields")
    if not raw.get("type") and not loose:
        yield required(
            f"{path}.type", "must not be empty for specified " + ("object" if root else "object fields")
        )
    if root and raw.get("type") not in (None, "object"):
        yield invalid_value(f"{path}.type", raw["type"], "must be object at the root")
    if raw.get("type") == "array" and "items" not in raw:
        yield required(f"{path}.items", "must be specified")
    if "properties" in raw and raw.get("additionalProperties"):
        text = "Forbidden: additionalProperties and properties are mutual exclusive"
        yield Cause("FieldValueForbidden", text, f"{path}.additionalProperties")
    for key in raw.get("x-kubernetes-list-map-keys", ()):
        item = raw.get("items", {})
        if key not in item.get("required", ()) and "default" not in at(item, "properties", key):
            why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            yield required(f"{path}.items.properties[{key}].default", why)
    for name, child in (raw.get("properties") or {}).items():
        yield from _structural(child, f"{path}.properties[{name}]")
    for word in ("items", "additionalProperties"):
        if isinstance(raw.get(word), dict):
            yield from _structural(raw[word], f"{path}.{word}")


BEHAVIOUR = Behaviour(default=_default, create=_create, causes=_causes)
