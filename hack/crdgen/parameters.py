"""The custom resource definitions of classic DRA's parameter objects.

Names, versions, scopes and bounds are those that users of Intel's driver have had, so that their manifests apply
as they are. There is no status, and the server fills in no defaults.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from hack.crdgen import docstrings
from hack.crdgen.documents import column
from hack.crdgen.schema import Dialect, Schema, schema_of
from state.classic.parameters import (
    CLAIM_PARAMETERS,
    CLASS_PARAMETERS,
    ClaimParameters,
    ClassParameters,
    FirstClassSpec,
    LaterClassSpec,
    ParameterKind,
)

AnyKind: TypeAlias = ParameterKind[ClaimParameters] | ParameterKind[ClassParameters]
KINDS: tuple[AnyKind, ...] = (*CLAIM_PARAMETERS.values(), *CLASS_PARAMETERS.values())

MOST_SELECTORS = 64
_ADDED: Mapping[tuple[type, str], Schema] = MappingProxyType(
    {(owner, "deviceSelector"): {"maxItems": MOST_SELECTORS} for owner in (FirstClassSpec, LaterClassSpec)}
)

_COLUMNS: Mapping[str, Schema] = MappingProxyType(
    {
        "count": column("Count", "integer", ".spec.count", "How many devices."),
        "type": column("Type", "string", ".spec.type", "Of what type."),
        "memory": column("Memory", "integer", ".spec.memory", "MiB of each, at least."),
        "millicores": column("Millicores", "integer", ".spec.millicores", "Thousandths of a GPU, at least."),
        "shareable": column("Shareable", "boolean", ".spec.shareable", "Whether pods may share a claim."),
        "shared": column("Shared", "boolean", ".spec.shared", "Whether claims may share a GPU."),
        "monitor": column("Monitor", "boolean", ".spec.monitor", "Whether claims only look on."),
    }
)
_AGE = column("Age", "date", ".metadata.creationTimestamp", "Since when the object exists.")


def name_of(kind: AnyKind) -> str:
    """The name of the definition of ``kind``, also that of its file."""
    return f"{kind.plural}.{kind.group}"


def definition_of(kind: AnyKind) -> Schema:
    """The definition, apiextensions.k8s.io/v1, with nothing that API servers of 1.26 do not know."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name_of(kind)},
        "spec": {
            "group": kind.group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.plural,
            },
            "versions": [
                {
                    "name": kind.version,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": _columns(kind),
                    "schema": {"openAPIV3Schema": _root_schema(kind)},
                }
            ],
        },
    }


def _root_schema(kind: AnyKind) -> Schema:
    dialect = Dialect(strict=True, added=lambda owner, field: _ADDED.get((owner, field), {}))
    spec = schema_of(kind.spec, dialect)
    return {
        "description": docstrings.of_type(kind.spec),
        "type": "object",
        **({"required": ["spec"]} if "required" in spec else {}),
        "properties": {
            "apiVersion": {"description": f"Always {kind.api_version}.", "type": "string"},
            "kind": {"description": f"Always {kind.kind}.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": {"description": "The parameters.", **spec},
        },
    }


def _columns(kind: AnyKind) -> list[Schema]:
    return [_COLUMNS[field] for field in kind.spec.__struct_encode_fields__ if field in _COLUMNS] + [_AGE]
