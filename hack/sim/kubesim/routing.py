"""From a URL to what it names."""

from dataclasses import dataclass

from kubesim.access import Attributes
from kubesim.messages import Request
from kubesim.refusals import no_such_group, no_such_path
from kubesim.resources import Target
from kubesim.state import State

VERB_OF = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class ResourcePath:
    """A URL below a group and version, taken apart; nothing in it needs to exist."""

    group: str
    version: str
    plural: str
    namespace: str
    name: str
    subresource: str


def split(path: str) -> ResourcePath | None:
    """None for a path that can't name a resource: discovery, health, documents."""
    steps = path.strip("/").split("/")
    match steps:
        case ["api", version, *rest] if rest:
            group = ""
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            return None
    match rest:
        case ["namespaces", namespace, plural, *more] if not (plural in ("status", "finalize") and not more):
            inside = namespace
        case [plural, *more]:
            inside = ""
        case _:
            return None
    name, subresource = (*more, "", "")[:2]
    if len(more) > 2:
        return None
    return ResourcePath(group, version, plural, inside, name, subresource)


def target_of(found: ResourcePath, state: State) -> Target:
    """What a path names. Raises Refusal (404), in plain text for a group that nobody serves."""
    resource = state.resources.get((found.group, found.plural))
    if resource is None or found.version not in resource.versions:
        known = {each.group for each in state.served()}
        raise no_such_path() if found.group in known else no_such_group()
    if found.subresource and found.subresource not in resource.subresources:
        raise no_such_path()
    if bool(found.namespace) and not resource.namespaced:
        raise no_such_path()
    return Target(
        resource=resource,
        version=found.version,
        namespace=found.namespace,
        name=found.name,
        subresource=found.subresource,
    )


def attributes(request: Request, found: ResourcePath | None) -> Attributes:
    """What an authorizer is asked."""
    if found is None:
        return Attributes(verb=request.method.lower(), path=request.path)
    verb = VERB_OF.get(request.method, "get")
    if request.method == "GET":
        verb = "watch" if request.watches else "get" if found.name else "list"
    elif request.method == "DELETE" and not found.name:
        verb = "deletecollection"
    return Attributes(
        verb=verb,
        group=found.group,
        version=found.version,
        resource=found.plural,
        subresource=found.subresource,
        namespace=found.namespace,
        name=found.name,
    )
