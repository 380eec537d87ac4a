"""Who asks, and whether they may. The authorizer is a seam: by default everybody may do everything."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An authenticated user, as an admission or authorization rule sees it."""

    name: str
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ADMIN = User(name="kubernetes-admin", groups=("system:masters", "system:authenticated"))
ANONYMOUS = User(name="system:anonymous", groups=("system:unauthenticated",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What is asked for, in the words of a Role: `path` instead of the rest for non-resource URLs."""

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Authorizer(Protocol):
    """Decides on a request; also asked by SelfSubjectAccessReview."""

    def allows(self, user: User, attributes: Attributes) -> bool: ...


class AllowAll:
    """Everybody may do everything."""

    def allows(self, user: User, attributes: Attributes) -> bool:
        return True


def forbidden_message(user: User, wanted: Attributes) -> str:
    """The server's words for a refusal."""
    if wanted.path:
        return f'forbidden: User "{user.name}" cannot {wanted.verb} path "{wanted.path}"'
    kind = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
    whole = f"{wanted.resource}.{wanted.group}" if wanted.group else wanted.resource
    named = f' "{wanted.name}"' if wanted.name else ""
    where = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
    return (
        f'{whole}{named} is forbidden: User "{user.name}" cannot {wanted.verb} resource "{kind}" '
        f'in API group "{wanted.group}" {where}'
    )
