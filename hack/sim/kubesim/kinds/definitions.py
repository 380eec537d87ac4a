"""CustomResourceDefinition: its defaults and what is checked of it."""

from collections.abc import Iterator

from kubesim.kinds import structural
from kubesim.kinds.behaviour import Behaviour, View
from kubesim.refusals import Cause, invalid_value, required
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
    yield from structural.causes(raw, place)


BEHAVIOUR = Behaviour(default=_default, create=_create, causes=_causes)
