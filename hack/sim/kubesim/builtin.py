"""The built-in resources of a release."""

from collections.abc import Iterator, Mapping

from kubesim import documents
from kubesim.releases import Release
from kubesim.resources import Resource
from kubesim.schema import Schema

WITHOUT_STATUSES = range(28, 31)
"""Releases whose pods are described by 1.26's document, which lacks the names of generated claims."""
_WORKLOAD = {"subresources": ("status",), "counts_generations": True, "categories": ("all",)}


class DocumentSchemas(Mapping[str, Schema]):
    """The schemas of a kind by version, read when first asked for."""

    def __init__(self, release: Release, group: str, kind: str, versions: tuple[str, ...]) -> None:
        self._release = release
        self._group = group
        self._kind = kind
        self._versions = versions

    def __getitem__(self, version: str) -> Schema:
        file = self._release.document(self._group, version) if version in self._versions else None
        if file and (self._group, self._kind) == ("", "Pod") and self._release.minor in WITHOUT_STATUSES:
            return documents.pod_with_claim_statuses(file)
        schema = documents.kind_schema(file, self._kind) if file else None
        if schema is None:
            raise KeyError(version)
        return schema

    def __iter__(self) -> Iterator[str]:
        return iter(self._versions)

    def __len__(self) -> int:
        return len(self._versions)


def builtin_resources(release: Release) -> dict[tuple[str, str], Resource]:
    """All built-in resources, by group and plural."""
    table = _Table(release)
    _core(table)
    _workloads(table)
    table.add(
        "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", short_names=("pdb",),
        subresources=("status",), counts_generations=True,
    )  # fmt: skip
    table.add("events.k8s.io", "v1", "Event", "events", short_names=("ev",), stored_as=("", "events"))
    table.add("coordination.k8s.io", "v1", "Lease", "leases", needs_resource_version=True, created_by_update=True)
    for kind, plural in (("ClusterRole", "clusterroles"), ("ClusterRoleBinding", "clusterrolebindings")):
        table.add("rbac.authorization.k8s.io", "v1", kind, plural, namespaced=False, created_by_update=True)
    for kind, plural in (("Role", "roles"), ("RoleBinding", "rolebindings")):
        table.add("rbac.authorization.k8s.io", "v1", kind, plural, created_by_update=True)
    _extensions(table)
    _device_resources(table)
    return table.resources


class _Table:
    """Collects resources, filling in what follows from the kind."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.resources: dict[tuple[str, str], Resource] = {}

    def add(self, group: str, version: str, kind: str, plural: str, **more: object) -> None:
        self.add_versions(group, (version,), kind, plural, internal=version, **more)

    def add_versions(
        self, group: str, versions: tuple[str, ...], kind: str, plural: str, *, internal: str, **more: object
    ) -> None:
        singular = kind.lower() if self.release.minor >= 27 else ""
        self.resources[group, plural] = Resource(
            group=group,
            versions=versions,
            plural=plural,
            kind=kind,
            singular=singular,
            internal=internal,
            schemas=DocumentSchemas(self.release, group, kind, versions),
            **more,  # type: ignore[arg-type]
        )


def _core(table: _Table) -> None:
    table.add("", "v1", "ConfigMap", "configmaps", short_names=("cm",))
    table.add("", "v1", "Event", "events", short_names=("ev",), created_by_update=True)
    table.add(
        "", "v1", "Namespace", "namespaces", short_names=("ns",), namespaced=False, subresources=("status",),
        answers_deleted=True,
    )  # fmt: skip
    table.add("", "v1", "Node", "nodes", short_names=("no",), namespaced=False, subresources=("status",))
    table.add(
        "", "v1", "Pod", "pods", short_names=("po",), categories=("all",), subresources=("status",),
        answers_deleted=True, counts_generations=table.release.minor >= 33,
    )  # fmt: skip
    table.add("", "v1", "Secret", "secrets")
    table.add(
        "", "v1", "ServiceAccount", "serviceaccounts", short_names=("sa",),
        answers_deleted=True,
    )  # fmt: skip


def _workloads(table: _Table) -> None:
    table.add("apps", "v1", "DaemonSet", "daemonsets", short_names=("ds",), **_WORKLOAD)
    table.add("apps", "v1", "Deployment", "deployments", short_names=("deploy",), **_WORKLOAD)
    table.add("apps", "v1", "ReplicaSet", "replicasets", short_names=("rs",), **_WORKLOAD)


def _extensions(table: _Table) -> None:
    common = {"namespaced": False, "counts_generations": True, "categories": ("api-extensions",)}
    group = "admissionregistration.k8s.io"
    if table.release.minor >= 30:
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
            plural = kind.lower().replace("policy", "policies") if kind.endswith("Policy") else f"{kind.lower()}s"
            parts = {"subresources": ("status",)} if kind.endswith("Policy") else {}
            table.add(group, "v1", kind, plural, **common, **parts)
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        table.add(group, "v1", kind, f"{kind.lower()}s", **common)
    table.add(
        "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions",
        short_names=("crd", "crds"), subresources=("status",), needs_resource_version=True, answers_deleted=True,
        **common,
    )  # fmt: skip


_KINDS = {
    "deviceclasses": "DeviceClass",
    "devicetaintrules": "DeviceTaintRule",
    "podschedulingcontexts": "PodSchedulingContext",
    "podschedulings": "PodScheduling",
    "resourceclaimparameters": "ResourceClaimParameters",
    "resourceclaims": "ResourceClaim",
    "resourceclaimtemplates": "ResourceClaimTemplate",
    "resourceclasses": "ResourceClass",
    "resourceclassparameters": "ResourceClassParameters",
    "resourceslices": "ResourceSlice",
}
_CLUSTER_WIDE = frozenset({"deviceclasses", "devicetaintrules", "resourceclasses", "resourceslices"})
_WITH_STATUS = frozenset({"devicetaintrules", "podschedulingcontexts", "podschedulings", "resourceclaims"})
_WITH_GENERATION = frozenset({"deviceclasses", "devicetaintrules", "resourceslices"})


def _device_resources(table: _Table) -> None:
    """resource.k8s.io; structured kinds are stored as v1 says, whether or not the release serves that."""
    structured = table.release.minor >= 31
    for plural, versions in table.release.resource_versions.items():
        kind = _KINDS[plural]
        fixed = not structured or plural in ("devicetaintrules", "podschedulingcontexts")
        table.add_versions(
            "resource.k8s.io", versions, kind, plural,
            internal=versions[0] if fixed else "v1",
            namespaced=plural not in _CLUSTER_WIDE,
            subresources=("status",) if plural in _WITH_STATUS else (),
            counts_generations=structured and plural in _WITH_GENERATION,
            answers_deleted=True,
            plain_capacities=table.release.minor == 31 and plural == "resourceslices",
            deprecated=_deprecations(table.release, kind, versions),
        )  # fmt: skip


def _deprecations(release: Release, kind: str, versions: tuple[str, ...]) -> dict[str, str]:
    if release.minor < 35:
        return {}
    text = "resource.k8s.io/{} {} is deprecated in v1.35+, unavailable in v1.38+"
    return {version: text.format(version, kind) for version in versions if version in ("v1beta1", "v1beta2")}
