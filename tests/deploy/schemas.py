"""What releases of Kubernetes say of the kinds that are deployed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

from tests.contract.openapi import OPENAPI, Document
from tests.contract_files import copy_of
from tests.deploy.manifests import JsonObject

RELEASES = {"1.26": "k1.26.5", "1.36": "k1.36.3"}
FOREIGN = {
    "NodeFeatureRule": "Node Feature Discovery",
    "PodMonitor": "the Prometheus operator",
    "SecurityContextConstraints": "OpenShift",
}
"""Kinds of other projects, of which there is no schema here."""


def mistakes(objects: tuple[JsonObject, ...], release: str) -> Iterator[str]:
    """What is wrong with objects, one line each; ``release`` as in RELEASES."""
    for each in objects:
        if each["kind"] in FOREIGN:
            continue
        for mistake in _document(each, release).mistakes(each):
            yield f"{each['kind']} {each['metadata']['name']}: {mistake}"


def _document(manifest: JsonObject, release: str) -> Document:
    group, _, version = manifest["apiVersion"].rpartition("/")
    name = f"{group or 'core'}-{version}"
    if name == "policy-v1":
        return _disruption_budgets()
    if name in ("gpu.dra.intel.com-v1alpha", "gpu.resource.intel.com-v1alpha2"):
        raise ValueError(f"{manifest['kind']} is a custom resource: tests/contract looks at those")
    kept = RELEASES[release]
    if group == "resource.k8s.io" and not (OPENAPI / f"{kept}-{name}.json.gz").exists():
        kept = {"v1alpha2": "k1.27.7"}[version]
    return Document.read(kept, name)


def _disruption_budgets() -> Document:
    """1.36's for all releases: of 1.26 there is no recording, and the kind has not changed since 1.21."""
    text = gzip.decompress(gzip.decompress(copy_of("openapi/k1.36.3-policy-v1.json.gz").read_bytes()))
    schemas = json.loads(text)["components"]["schemas"]
    for schema in schemas.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return Document(schemas)
