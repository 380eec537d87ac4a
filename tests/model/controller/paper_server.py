"""As much of an API server as the controller's decisions meet: claims, GpuNodeStates, conflicts, and faults."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec

from reconciler.controller.node_states import NODE_STATES
from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.transport import Request, Response, Stream

_CLAIM = re.compile(r"/apis/resource\.k8s\.io/v1/namespaces/(?P<namespace>[^/]+)/resourceclaims/(?P<name>[^/]+)")
_CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
_NODE = re.compile(re.escape(NODE_STATES) + "/(?P<name>[^/]+)")

Ref = tuple[str, str]


@dataclass
class Fault:
    """What befalls one request whose path holds `only`: an answer instead of the deed, or the deed without one."""

    status: int = 0
    lost_answer: bool = False
    only: str = "/"


@dataclass
class PaperServer:
    """Objects as JSON values. `on_spec` hears of each spec that a write is about to change; the last of
    `before_write` is called before the next write is judged, the first of `faults` that fits befalls a request.
    """

    on_spec: Callable[[str, dict[str, Any], dict[str, Any]], None]
    claims: dict[Ref, dict[str, Any]] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    foreign: dict[str, set[str]] = field(default_factory=dict)
    watchers: list[Callable[[str, Any, bytes | None], None]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    before_write: list[Callable[[], None]] = field(default_factory=list)
    version: int = 0
    page: int = 2

    def put_claim(self, raw: dict[str, Any]) -> None:
        ref = raw["metadata"]["namespace"], raw["metadata"]["name"]
        self.claims[ref] = self._stamped(raw)
        self._tell("claim", ref, self.claims[ref])

    def drop_claim(self, ref: Ref) -> None:
        del self.claims[ref]
        self._tell("claim", ref, None)

    def put_node(self, raw: dict[str, Any]) -> None:
        name = raw["metadata"]["name"]
        before = self.nodes.get(name)
        raw["metadata"].setdefault("generation", 1)
        if before is not None and before["spec"] != raw["spec"]:
            raw["metadata"]["generation"] += 1
        self.nodes[name] = self._stamped(raw)
        self._tell("node", name, self.nodes[name])

    def drop_node(self, name: str) -> None:
        del self.nodes[name]
        self.foreign.pop(name, None)
        self._tell("node", name, None)

    def send(self, request: Request) -> Response:
        """Answer one request, unless a fault was ordered."""
        if request.method != "GET" and self.before_write:
            self.before_write.pop()()
        fault = next((fault for fault in self.faults if fault.only in request.path), None) or Fault()
        if fault in self.faults:
            self.faults.remove(fault)
        if fault.status:
            return self._status(fault.status, "a fault")
        response = self._handle(request)
        if fault.lost_answer:
            raise Unreachable("the answer was lost")
        return response

    def stream(self, request: Request) -> AbstractContextManager[Stream]:
        """No watch is to be had: replicas on paper are told of changes by ``watchers``."""
        raise Unreachable(f"{request.path}: nothing on paper can be watched")

    def close(self) -> None:
        """Nothing is open."""

    def _handle(self, request: Request) -> Response:
        if request.path == _CLAIMS:
            return self._list(dict(request.query))
        if claim := _CLAIM.fullmatch(request.path):
            ref = unquote(claim["namespace"]), unquote(claim["name"])
            return self._answer(self.claims.get(ref), ref[1])
        node = _NODE.fullmatch(request.path)
        assert node, request.path
        if request.method == "GET":
            return self._answer(self.nodes.get(node["name"]), node["name"])
        return self._write(node["name"], request)

    def _list(self, query: dict[str, str]) -> Response:
        assert "resourceVersion" not in query, "only a list without a version is consistent"
        everything = [self.claims[ref] for ref in sorted(self.claims)]
        start = int(query.get("continue", "0"))
        end = min(start + int(query.get("limit", "1000000")), start + self.page)
        onwards = str(end) if end < len(everything) else ""
        listed = {"metadata": {"resourceVersion": "1", "continue": onwards}, "items": everything[start:end]}
        return Response(status=200, body=msgspec.json.encode(listed))

    def _write(self, name: str, request: Request) -> Response:
        assert dict(request.query)["fieldManager"] == "gpu-controller"
        body, node = msgspec.json.decode(request.body), self.nodes.get(name)
        if node is None:
            return self._status(409, "no such object, but a uid was given")
        for precondition in ("uid", "resourceVersion"):
            if body["metadata"][precondition] != node["metadata"][precondition]:
                return self._status(409, f"another {precondition}")
        spec = dict(node["spec"])
        if request.content_type == "application/apply-patch+yaml":
            applied = {entry["name"] for entry in body["spec"]["allocations"]}
            others = [
                entry for entry in spec.get("allocations", ()) if entry["name"] in self.foreign.get(name, ())
            ]
            left = [entry for entry in others if entry["name"] not in applied]
            spec |= body["spec"] | {"allocations": body["spec"]["allocations"] + left}
        else:
            self.foreign.pop(name, None)
            spec |= body["spec"]
        assert None not in spec["withdrawalsConfirmed"].values()
        if spec != node["spec"]:
            self.on_spec(name, node, spec)
            self.put_node({**node, "spec": spec, "metadata": dict(node["metadata"])})
        return self._answer(self.nodes[name], name)

    def _stamped(self, raw: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        return {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self.version)}}

    def _tell(self, kind: str, key: Any, raw: dict[str, Any] | None) -> None:
        for watcher in self.watchers:
            watcher(kind, key, None if raw is None else msgspec.json.encode(raw))

    def _answer(self, raw: dict[str, Any] | None, name: str) -> Response:
        if raw is None:
            return self._status(404, "not found", name)
        return Response(status=200, body=msgspec.json.encode(raw))

    def _status(self, code: int, message: str, name: str = "") -> Response:
        body = {"kind": "Status", "code": code, "message": message, "details": {"name": name}}
        return Response(status=code, body=msgspec.json.encode(body))
