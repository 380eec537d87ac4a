"""The custom resource definition of GpuNodeState as a whole: names, columns, the schemas of spec and status."""

from hack.crdgen import admission, docstrings
from hack.crdgen.documents import column, text_of
from hack.crdgen.schema import Dialect, Schema, schema_of
from state.manifest import API_VERSION, KIND, NodeState, Spec
from state.status import NodeStatus

PLURAL = "gpunodestates"

STRICT = Dialect(strict=True, added=admission.added, defaulted=admission.DEFAULTED)
LENIENT = Dialect(strict=False, added=lambda owner, field: {})


def as_yaml() -> str:
    """The definition as it stands in deploy/crd."""
    return text_of(definition())


def definition() -> Schema:
    """The definition, apiextensions.k8s.io/v1, with nothing that API servers of 1.26 do not know."""
    group, _, version = API_VERSION.partition("/")
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["gns"],
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns(),
                    "schema": {"openAPIV3Schema": root_schema()},
                }
            ],
        },
    }


def root_schema() -> Schema:
    """The schema of a whole object."""
    told = docstrings.of_fields(NodeState)
    return {
        "description": docstrings.of_type(NodeState),
        "type": "object",
        "properties": {
            "apiVersion": {"description": f"Always {API_VERSION}.", "type": "string"},
            "kind": {"description": f"Always {KIND}.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": {"description": told["spec"], **schema_of(Spec, STRICT)},
            "status": {"description": told["status"], **schema_of(NodeStatus, LENIENT)},
        },
    }


def columns() -> list[Schema]:
    """What ``kubectl get`` shows; from Reason on only with ``-o wide``."""
    ready = '.status.conditions[?(@.type=="Ready")]'
    return [
        column("Ready", "string", f"{ready}.status", "Whether the node is as wanted."),
        column("GPUs", "integer", ".status.summary.gpus", "Physical GPUs."),
        column("VFs", "integer", ".status.summary.virtualFunctions", "Virtual functions enabled on them."),
        column("Claims", "integer", ".status.summary.claims", "Allocations of ResourceClaims."),
        column("Blocked", "integer", ".status.summary.blocked", "How many things wait: status.plan.blocked."),
        column("Age", "date", ".metadata.creationTimestamp", "Since when the object exists."),
        _wide("Reason", "string", f"{ready}.reason", "Why it is or is not as wanted."),
        _wide("Manual", "integer", ".status.summary.manualAllocations", "Manual allocations."),
        _wide("Paused", "boolean", ".spec.paused", "Whether nothing is changed."),
        _wide("Generation", "integer", ".metadata.generation", "How often spec has been changed."),
        _wide("Observed", "integer", ".status.observedGeneration", "The generation that the agent has read."),
        _wide("Version", "string", ".status.version", "Version of the node's agent."),
        _wide("Message", "string", f"{ready}.message", "What it waits for, or what went wrong."),
    ]


def _wide(name: str, kind: str, path: str, told: str) -> Schema:
    return {**column(name, kind, path, told), "priority": 1}
