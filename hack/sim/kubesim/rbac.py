"""Rights by roles (rbac.authorization.k8s.io/v1), as a cluster's authorizer; keeps account of which were used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kubesim.access import Attributes, User
from kubesim.values import Object

MASTERS = "system:masters"
_READING = (
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
)
_FOR_ALL: Object = {
    "kind": "ClusterRole",
    "metadata": {"name": "system:discovery and system:basic-user"},
    "rules": [
        {"nonResourceURLs": list(_READING), "verbs": ["get"]},
        {
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            "verbs": ["create"],
        },
    ],
}
"""What every authenticated user may on a real server without anybody's doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One verb on one resource ("claims/status" for a subresource), by a role; ``namespace`` "" is everywhere."""

    role: str
    verb: str
    group: str
    resource: str
    namespace: str = ""
    names: tuple[str, ...] = ()

    def covers(self, wanted: Attributes) -> bool:
        asked = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
        return (
            not wanted.path
            and _fits(self.verb, wanted.verb)
            and _fits(self.group, wanted.group)
            and _fits(self.resource, asked)
            and self.namespace in ("", wanted.namespace)
            and (not self.names or wanted.name in self.names)
        )


class RoleBased:
    """Allows what roles grant that are bound to a user, a group of his, or his service account.

    ``documents`` are ClusterRoles, Roles and their bindings; others are passed over. ``used`` are the rights that
    requests were allowed by. Roles aggregated from others have to be spelt out. Raises ValueError for a binding
    of a role that is not among the documents.
    """

    def __init__(self, documents: Iterable[Object]) -> None:
        documents = tuple(documents)
        roles = {_key(each): each for each in documents if each["kind"] in ("ClusterRole", "Role")}
        self._rights: dict[str, list[Right]] = {}
        for binding in documents:
            if binding["kind"] in ("ClusterRoleBinding", "RoleBinding"):
                rights = tuple(_bound(binding, roles))
                for subject in binding.get("subjects", ()):
                    self._rights.setdefault(_subject(subject), []).extend(rights)
        self.used: set[Right] = set()

    @property
    def granted(self) -> frozenset[Right]:
        """All rights of all subjects."""
        return frozenset(right for rights in self._rights.values() for right in rights)

    def allows(self, user: User, attributes: Attributes) -> bool:
        if MASTERS in user.groups or _for_everybody(attributes):
            return True
        rights = [right for who in (user.name, *user.groups) for right in self._rights.get(who, ())]
        found = {right for right in rights if right.covers(attributes)}
        self.used |= found
        return bool(found)


def service_account(namespace: str, name: str, *, node: str = "") -> User:
    """The user that a pod's token stands for; servers from 1.30 on also tell the pod's node."""
    extra = {"authentication.kubernetes.io/node-name": (node,)} if node else {}
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(name=f"system:serviceaccount:{namespace}:{name}", groups=groups, extra=extra)


def _fits(granted: str, asked: str) -> bool:
    return granted in ("*", asked)


def _for_everybody(wanted: Attributes) -> bool:
    reading, reviews = _FOR_ALL["rules"]
    if wanted.path:
        paths = reading["nonResourceURLs"]
        return wanted.verb == "get" and any(
            wanted.path.startswith(each[:-1]) if each.endswith("*") else wanted.path.rstrip("/") == each
            for each in paths
        )
    return (wanted.group, wanted.verb) == ("authorization.k8s.io", "create") and wanted.resource in reviews[
        "resources"
    ]


def _key(role: Object) -> tuple[str, str, str]:
    return role["kind"], role["metadata"].get("namespace", ""), role["metadata"]["name"]


def _subject(subject: Object) -> str:
    if subject["kind"] == "ServiceAccount":
        return f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
    return str(subject["name"])


def _bound(binding: Object, roles: dict[tuple[str, str, str], Object]) -> Iterator[Right]:
    kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
    namespace = binding["metadata"].get("namespace", "") if binding["kind"] == "RoleBinding" else ""
    role = roles.get((kind, namespace if kind == "Role" else "", name))
    if role is None:
        raise ValueError(f"{binding['kind']} {binding['metadata']['name']}: there is no {kind} {name}")
    for rule in role.get("rules", ()):
        for group in rule.get("apiGroups", ()):
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield Right(
                        role=name,
                        verb=verb,
                        group=group,
                        resource=resource,
                        namespace=namespace,
                        names=tuple(rule.get("resourceNames", ())),
                    )
