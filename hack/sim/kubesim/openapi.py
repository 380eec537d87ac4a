"""/openapi/v3: recorded documents of built-in groups, and ones made for custom resources. /openapi/v2 is empty."""

import gzip
import hashlib
from importlib import resources

from kubesim import protobuf
from kubesim.documents import GROUP_VERSION_KIND, document, object_meta
from kubesim.messages import Request, Response
from kubesim.refusals import no_such_path
from kubesim.resources import Resource
from kubesim.state import State
from kubesim.values import Object, copy, encode

PROTOBUF = "application/com.github.proto-openapi.spec.v2{}v1.0+protobuf"
"""openapi.v2.Document: 1 swagger, 2 Info{1 title, 2 version}, ..., 9 definitions."""
QUERY = ("dryRun", "fieldManager", "fieldValidation")


def answer(request: Request, state: State) -> Response:
    """The index or one document. Raises Refusal (404)."""
    path = request.path.rstrip("/")
    if path == "/openapi/v3":
        return _tagged(request, encode(_index(state)), "text/plain; charset=utf-8")
    wanted = path.removeprefix("/openapi/v3/")
    for group, version in _group_versions(state):
        if wanted == _path(group, version):
            return _tagged(request, _document(state, group, version), "application/json")
    raise no_such_path()


def answer_older(request: Request, state: State) -> Response:
    """/openapi/v2 without any definitions.

    kubectl reads it for a v1 List only, as it lets the server check all other kinds. Items of a List whose kinds
    it doesn't find here it passes on to the server, which checks them one by one.
    """
    version = f"v{state.release.full.removeprefix('k')}"
    if PROTOBUF.format("@") in request.accept:  # which is no media type, so the answer has a dot there
        body = protobuf.message({1: "2.0", 2: {1: "Kubernetes", 2: version}})
        return _tagged(request, body, PROTOBUF.format("."))
    document = {"swagger": "2.0", "info": {"title": "Kubernetes", "version": version}, "paths": {}}
    return _tagged(request, encode(document), "application/json")


def _path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _group_versions(state: State) -> list[tuple[str, str]]:
    return sorted({(each.group, version) for each in state.served() for version in each.versions})


def _tagged(request: Request, body: bytes, content_type: str) -> Response:
    tag = f'"{hashlib.sha512(body).hexdigest().upper()}"'
    headers = (("Content-Type", content_type), ("Etag", tag), ("Cache-Control", "no-cache, private"))
    if request.headers.get("if-none-match") == tag:
        return Response(status=304, headers=headers[1:])
    return Response(status=200, headers=headers, body=body)


def _index(state: State) -> Object:
    paths = {}
    for group, version in _group_versions(state):
        path, of_group = _path(group, version), _custom(state, group, version)
        seed = (
            encode([each.definition for each in of_group]) if of_group else f"{state.release.full}/{path}".encode()
        )
        mark = hashlib.sha512(seed).hexdigest().upper()
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={mark}"}
    return {"paths": paths}


def _custom(state: State, group: str, version: str) -> list[Resource]:
    return [each for each in state.served() if each.custom and each.group == group and version in each.versions]


def _document(state: State, group: str, version: str) -> bytes:
    custom = _custom(state, group, version)
    if custom:
        return encode(_made(custom, version))
    file = state.release.document(group, version)
    if file is None:
        raise no_such_path()
    if "paths" in document(file):
        return gzip.decompress((resources.files("kubesim") / "openapi" / f"{file}.json.gz").read_bytes())
    known = [each for each in state.served() if each.group == group and version in each.versions]
    return encode({**document(file), "paths": _paths(known, version)})


def _made(served: list[Resource], version: str) -> Object:
    definitions = dict(object_meta().definitions)
    for resource in served:
        definitions[_name(resource, version)] = _schema(resource, version)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
        "paths": _paths(served, version),
        "components": {"schemas": definitions},
    }


def _name(resource: Resource, version: str) -> str:
    if resource.schemas.get(version) is not None and resource.schemas[version].name:
        return resource.schemas[version].name
    return ".".join([*reversed(resource.group.split(".")), version, resource.kind])


def _schema(resource: Resource, version: str) -> Object:
    """A custom resource's schema with the parts that every object has, described as the real server does."""
    raw: Object = copy(resource.schemas[version].raw)
    meta = object_meta()
    described = {
        "apiVersion": {
            "type": "string",
            "description": "APIVersion defines the versioned schema of this representation of an object.",
        },
        "kind": {
            "type": "string",
            "description": "Kind is a string value representing the REST resource this object represents.",
        },
        "metadata": {
            "description": "Standard object's metadata.",
            "allOf": [{"$ref": f"#/components/schemas/{meta.name}"}],
        },
    }
    raw["properties"] = {**raw.get("properties", {}), **described}
    raw[GROUP_VERSION_KIND] = [{"group": resource.group, "version": version, "kind": resource.kind}]
    return raw


def _paths(served: list[Resource], version: str) -> Object:
    paths: Object = {}
    for resource in served:
        inside = "namespaces/{namespace}/" if resource.namespaced else ""
        base = f"/{resource.base_path(version)}/{inside}{resource.plural}"
        paths[base] = {"get": _operation(resource, version, "list"), "post": _operation(resource, version, "post")}
        verbs = ("get", "put", "patch", "delete")
        paths[base + "/{name}"] = {verb: _operation(resource, version, verb) for verb in verbs}
        if resource.has_status:
            parts = {verb: _operation(resource, version, verb) for verb in ("get", "put", "patch")}
            paths[base + "/{name}/status"] = parts
    return paths


def _operation(resource: Resource, version: str, action: str) -> Object:
    reference = {"$ref": f"#/components/schemas/{_name(resource, version)}"}
    content = {"application/json": {"schema": reference}}
    return {
        "x-kubernetes-action": action,
        GROUP_VERSION_KIND: {"group": resource.group, "version": version, "kind": resource.kind},
        "parameters": [{"name": name, "in": "query", "schema": {"type": "string"}} for name in QUERY],
        "responses": {"200": {"description": "OK", "content": content}},
    }
