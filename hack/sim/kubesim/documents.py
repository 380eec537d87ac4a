"""The OpenAPI documents of built-in types, as real servers of each release serve them (package data)."""

import functools
import gzip
from importlib import resources

from kubesim.schema import Schema, closed_over
from kubesim.values import Object, decode

GROUP_VERSION_KIND = "x-kubernetes-group-version-kind"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


@functools.cache
def document(file: str) -> Object:
    """A document of the package, by its file name without ".json.gz". Read-only."""
    data: Object = decode(
        gzip.decompress((resources.files("kubesim") / "openapi" / f"{file}.json.gz").read_bytes())
    )
    return data


@functools.cache
def available() -> frozenset[str]:
    """The names that `document` knows."""
    folder = resources.files("kubesim") / "openapi"
    return frozenset(each.name.removesuffix(".json.gz") for each in folder.iterdir() if each.name.endswith(".gz"))


@functools.cache
def _definitions(file: str) -> dict[str, Object]:
    return closed_over(document(file)["components"]["schemas"])


@functools.cache
def kind_schema(file: str, kind: str) -> Schema | None:
    """The schema of a kind in a document, None if it has none."""
    definitions = _definitions(file)
    for name, raw in definitions.items():
        if any(each["kind"] == kind for each in raw.get(GROUP_VERSION_KIND, ())):
            return Schema({"$ref": f"#/components/schemas/{name}"}, definitions)
    for name in definitions:
        if name.rpartition(".")[2] == kind:
            return Schema({"$ref": f"#/components/schemas/{name}"}, definitions)
    return None


@functools.cache
def pod_with_claim_statuses(file: str) -> Schema:
    """The schema of pods in a document of 1.26 or 1.27, with the status field that 1.28 added."""
    status = "io.k8s.api.core.v1.PodStatus"
    text: Object = {"type": "string"}
    entry: Object = {"type": "object", "properties": {"name": text, "resourceClaimName": text}}
    entries: Object = {
        "type": "array",
        "items": entry,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "x-kubernetes-patch-merge-key": "name",
        "x-kubernetes-patch-strategy": "merge,retainKeys",
    }
    definitions = _definitions(file)
    properties = {**definitions[status]["properties"], "resourceClaimStatuses": entries}
    changed = {**definitions, status: {**definitions[status], "properties": properties}}
    return Schema({"$ref": "#/components/schemas/io.k8s.api.core.v1.Pod"}, changed)


@functools.cache
def object_meta(file: str = "k1.36.3-core-v1") -> Schema:
    """The schema of metadata; releases differ in descriptions only."""
    return Schema({"$ref": f"#/components/schemas/{OBJECT_META}"}, _definitions(file))
