"""Whether objects are what a Kubernetes release says in its OpenAPI that they are, unknown fields included."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from tests.contract_files import REPOSITORY

OPENAPI = REPOSITORY / "hack" / "sim" / "kubesim" / "openapi"

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """The OpenAPI of one group and version of one release."""

    schemas: Mapping[str, JsonObject]

    @staticmethod
    @cache
    def read(release: str, group_version: str) -> Document:
        """That of, for one, ("k1.26.5", "apiextensions.k8s.io-v1")."""
        text = gzip.decompress((OPENAPI / f"{release}-{group_version}.json.gz").read_bytes())
        schemas = json.loads(text)["components"]["schemas"]
        for schema in schemas.values():
            if "properties" in schema:
                schema["additionalProperties"] = False
        return Document(schemas)

    def mistakes(self, manifest: JsonObject) -> tuple[str, ...]:
        """What is wrong with a manifest of one of the document's kinds."""
        sought = f".{manifest['apiVersion'].rpartition('/')[2]}.{manifest['kind']}"
        (name,) = (name for name in self.schemas if name.endswith(sought))
        whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": self.schemas}}
        return tuple(error.message for error in Draft202012Validator(whole).iter_errors(manifest))
