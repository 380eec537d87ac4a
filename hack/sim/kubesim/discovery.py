"""/api, /apis and what is below them: which resources there are, in the plain and the aggregated form."""

import base64
import hashlib
from collections.abc import Iterable

from kubesim.messages import Request, Response, json_response
from kubesim.refusals import no_such_group, no_such_path
from kubesim.resources import VERBS, Resource
from kubesim.state import State
from kubesim.values import Object, encode

AGGREGATED = "as=APIGroupDiscoveryList"
REVIEW = "selfsubjectaccessreviews"
GROUP_ORDER = (
    "apps",
    "events.k8s.io",
    "authorization.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "coordination.k8s.io",
    "resource.k8s.io",
)
"""Groups of the server itself come in its order, custom ones by name."""


def answer(request: Request, state: State) -> Response:
    """The answer to any discovery request. Raises Refusal (404)."""
    steps = request.path.strip("/").split("/")
    if len(steps) == 1:
        if AGGREGATED in request.accept and state.release.aggregated_discovery:
            return _aggregated(request, state, core=steps[0] == "api")
        return json_response(200, _versions() if steps[0] == "api" else _group_list(state))
    if steps[0] == "api":
        if steps[1] != "v1":
            raise no_such_path()
        return json_response(200, _resource_list(state, "", "v1"))
    group = _group(state, steps[1])
    if group is None:
        raise no_such_group()
    if len(steps) == 2:
        return json_response(200, {"kind": "APIGroup", "apiVersion": "v1", **group})
    if not any(each["version"] == steps[2] for each in group["versions"]):
        raise no_such_path()
    return json_response(200, _resource_list(state, steps[1], steps[2]))


def _versions() -> Object:
    address = {"clientCIDR": "0.0.0.0/0", "serverAddress": "192.0.2.2:6443"}
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [address]}


def _of_group(state: State, group: str) -> list[Resource]:
    return sorted((each for each in state.served() if each.group == group), key=lambda each: each.plural)


def _group_names(state: State) -> list[str]:
    present = {each.group for each in state.served()} - {""} | {"authorization.k8s.io"}
    order = {name: index for index, name in enumerate(GROUP_ORDER)}
    return sorted(present, key=lambda name: (order.get(name, len(order)), name))


def _group_versions(state: State, group: str) -> list[str]:
    if group == "authorization.k8s.io":
        return ["v1"]
    versions = {version: None for each in _of_group(state, group) for version in each.versions}
    longest = max((each.versions for each in _of_group(state, group)), key=len, default=())
    return sorted(versions, key=lambda version: _rank(version, longest))


def _rank(version: str, order: tuple[str, ...]) -> tuple[int, str]:
    return (order.index(version), "") if version in order else (len(order), version)


def _group(state: State, name: str) -> Object | None:
    if name not in _group_names(state):
        return None
    versions = [{"groupVersion": f"{name}/{each}", "version": each} for each in _group_versions(state, name)]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _group_list(state: State) -> Object:
    groups = [_group(state, name) for name in _group_names(state)]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _resource_list(state: State, group: str, version: str) -> Object:
    served = [each for each in _of_group(state, group) if version in each.versions]
    listed = [entry for each in served for entry in _listed(each)]
    if group == "authorization.k8s.io":
        listed = [
            {
                "name": REVIEW,
                "singularName": REVIEW.removesuffix("s"),
                "namespaced": False,
                "kind": "SelfSubjectAccessReview",
                "verbs": ["create"],
            }
        ]
    body: Object = {"kind": "APIResourceList", "groupVersion": f"{group}/{version}" if group else version}
    return body | ({"apiVersion": "v1"} if group else {}) | {"resources": listed}


def _listed(resource: Resource) -> Iterable[Object]:
    kind = {"kind": resource.kind}
    words = {"shortNames": list(resource.short_names), "categories": list(resource.categories)}
    yield {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        **kind,
        "verbs": _verbs(resource),
        **{key: value for key, value in words.items() if value},
        "storageVersionHash": _storage_hash(resource),
    }
    for part in resource.subresources:
        yield {
            "name": f"{resource.plural}/{part}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": ["get", "patch", "update"],
        }


def _verbs(resource: Resource) -> list[str]:
    """A custom resource's verbs come in another order, since another part of the server lists them."""
    if not resource.custom:
        return [verb for verb in VERBS if (resource.plural, verb) != ("namespaces", "deletecollection")]
    return ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]


def _storage_hash(resource: Resource) -> str:
    """Eight bytes of a hash of group, version and kind, as the real server makes it."""
    text = f"{resource.group}/{resource.internal}/{resource.kind}"
    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:8]).decode()


def _aggregated(request: Request, state: State, *, core: bool) -> Response:
    version = "v2" if "v=v2;" in request.accept else "v2beta1"
    names = [""] if core else _group_names(state)
    items = [
        {
            "metadata": {"name": name} if name else {},
            "versions": [_discovered(state, name, each) for each in _group_versions(state, name)],
        }
        for name in names
    ]
    body = {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }
    content_type = f"application/json;g=apidiscovery.k8s.io;v={version};{AGGREGATED}"
    text = encode(body)
    tag = f'"{hashlib.sha512(text).hexdigest().upper()}"'
    headers = (("Content-Type", content_type), ("Etag", tag), ("Vary", "Accept"), ("Cache-Control", "public"))
    if request.headers.get("if-none-match") == tag:
        return Response(status=304, headers=headers[1:])
    return Response(status=200, headers=headers, body=text)


def _discovered(state: State, group: str, version: str) -> Object:
    resources = [
        _discovered_resource(each, version) for each in _of_group(state, group) if version in each.versions
    ]
    if group == "authorization.k8s.io":
        resources = [
            {
                "resource": REVIEW,
                "responseKind": {"group": "", "version": "", "kind": "SelfSubjectAccessReview"},
                "scope": "Cluster",
                "singularResource": REVIEW.removesuffix("s"),
                "verbs": ["create"],
            }
        ]
    return {"version": version, "resources": resources, "freshness": "Current"}


def _discovered_resource(resource: Resource, version: str) -> Object:
    kind = {"group": "", "version": "", "kind": resource.kind}
    if resource.custom:
        kind |= {"group": resource.group, "version": version}
    parts = [
        {"subresource": part, "responseKind": dict(kind), "verbs": ["get", "patch", "update"]}
        for part in resource.subresources
    ]
    optional = {
        "shortNames": list(resource.short_names),
        "categories": list(resource.categories),
        "subresources": parts,
    }
    return {
        "resource": resource.plural,
        "responseKind": kind,
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": _verbs(resource),
        **{key: value for key, value in optional.items() if value},
    }
