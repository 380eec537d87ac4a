"""As much of a classic API server as the negotiation meets, with nodes on paper; the controller may die in it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec

from reconciler.controller.node_states import NODE_STATES
from reconciler.runtime.kube.transport import Request, Response
from tests.model.controller.paper_server import PaperServer, Ref
from tests.unit.state.dra.objects import raw_node

_GROUP = "/apis/resource.k8s.io/v1alpha1"
NAMESPACE = "ml"
OURS = ("gpu.dra.intel.com", "gpu.resource.intel.com")

Raw = dict[str, Any]


class Crashed(BaseException):
    """The controller is no more: nobody catches that."""


@dataclass
class Crash:
    """The controller dies at the request after `after` others, when it is ``done`` or before."""

    after: int
    done: bool


def merged(target: Any, patch: Any) -> Any:
    """`target` after a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def node_of(claim: Raw) -> str:
    """Where a claim is allocated; empty if it isn't."""
    allocation = claim.get("status", {}).get("allocation")
    if allocation is None:
        return ""
    (term,) = allocation["availableOnNodes"]["nodeSelectorTerms"]
    return str(term["matchFields"][0]["values"][0])


def is_releasing(claim: Raw) -> bool:
    """Whether an allocated claim is to be deallocated."""
    status = claim["status"]
    asked = status.get("deallocationRequested") or "deletionTimestamp" in claim["metadata"]
    return bool(asked) and not status.get("reservedFor")


def entries_of(node: Raw) -> dict[str, Raw]:
    return {entry["name"]: entry for entry in node["spec"].get("allocations", ())}


@dataclass
class ClassicPaper(PaperServer):
    """`on_claim` and `on_answer` hear of each change to a claim or PodScheduling that the controller makes; `sent`
    are paths of requests under way, each sent while the one before was.
    """

    on_claim: Callable[[Raw, Raw], None] = lambda before, after: None
    on_answer: Callable[[Raw, Raw], None] = lambda before, after: None
    schedulings: dict[Ref, Raw] = field(default_factory=dict)
    pods: dict[Ref, Raw] = field(default_factory=dict)
    machines: set[str] = field(default_factory=set)
    parameters: dict[str, Raw] = field(default_factory=dict)
    crash: Crash | None = None
    sent: list[str] = field(default_factory=list)

    def send(self, request: Request) -> Response:
        self.sent.append(request.path)
        try:
            return self._send(request)
        finally:
            self.sent.pop()

    @property
    def lets_others_work(self) -> bool:
        """Whether other threads of whoever is sending a request may work meanwhile: none may, at that node."""
        return not self.sent or (len(self.sent) == 1 and not self.sent[0].startswith(NODE_STATES))

    def _send(self, request: Request) -> Response:
        crash = self.crash
        if crash is None:
            return super().send(request)
        crash.after -= 1
        if crash.after >= 0:
            return super().send(request)
        self.crash = None
        if crash.done:
            super().send(request)
        raise Crashed

    def change_claim(self, ref: Ref, **patch: Any) -> None:
        """Somebody changes a claim, like a merge patch to both of its halves."""
        self.put_claim(merged(self.claims[ref], patch))

    def delete_claim(self, ref: Ref) -> None:
        claim = self.claims[ref]
        if not claim["metadata"].get("finalizers"):
            self.drop_claim(ref)
        elif "deletionTimestamp" not in claim["metadata"]:
            self.change_claim(ref, metadata={"deletionTimestamp": "2026-11-23T00:00:00Z"})

    def put_scheduling(self, raw: Raw) -> None:
        ref = raw["metadata"]["namespace"], raw["metadata"]["name"]
        self.schedulings[ref] = self._stamped(raw)
        self._tell("scheduling", ref, self.schedulings[ref])

    def drop_scheduling(self, ref: Ref) -> None:
        if self.schedulings.pop(ref, None) is not None:
            self._tell("scheduling", ref, None)

    def _handle(self, request: Request) -> Response:
        if request.path == f"{_GROUP}/resourceclaims":
            return self._list(dict(request.query))
        if request.path in self.parameters:
            return self._answer(self.parameters[request.path], "")
        match [unquote(part) for part in request.path.split("/")[1:]]:
            case ["api", "v1", "nodes", name]:
                there = {"metadata": {"name": name}} if name in self.machines else None
                return self._answer(there, name)
            case ["api", "v1", "namespaces", namespace, "pods", name]:
                return self._answer(self.pods.get((namespace, name)), name)
            case ["apis", _, "v1alpha1", "namespaces", namespace, "resourceclaims", name, *sub]:
                return self._claim((namespace, name), request, sub)
            case ["apis", _, "v1alpha1", "namespaces", namespace, "podschedulings", name, "status"]:
                return self._scheduling((namespace, name), request)
            case _:
                return self._node_state(request)

    def _node_state(self, request: Request) -> Response:
        name = request.path.removeprefix(f"{NODE_STATES}/")
        assert "/" not in name, request.path
        if request.method == "GET":
            return self._answer(self.nodes.get(name), name)
        return self._write(name, request)

    def _claim(self, ref: Ref, request: Request, sub: list[str]) -> Response:
        before = self.claims.get(ref)
        if request.method == "GET" or before is None:
            return self._answer(before, ref[1])
        body = msgspec.json.decode(request.body)
        if self._differs(before, body):
            return self._status(409, "another version")
        after = merged(before, body if sub else {**body, "status": before["status"]})
        assert sub or set(body) == {"metadata"}
        if complaint := _complaint(before, after):
            return self._status(422, complaint)
        self.on_claim(before, after)
        if "deletionTimestamp" in after["metadata"] and not after["metadata"].get("finalizers"):
            self.drop_claim(ref)
            return self._answer(after, ref[1])
        self.put_claim(after)
        return self._answer(self.claims[ref], ref[1])

    def _scheduling(self, ref: Ref, request: Request) -> Response:
        before, body = self.schedulings.get(ref), msgspec.json.decode(request.body)
        if before is None:
            return self._answer(None, ref[1])
        if self._differs(before, body):
            return self._status(409, "another version")
        after = merged(before, body)
        self.on_answer(before, after)
        self.put_scheduling(after)
        return self._answer(self.schedulings[ref], ref[1])

    def _differs(self, there: Raw, body: Raw) -> bool:
        return any(body["metadata"][name] != there["metadata"][name] for name in ("uid", "resourceVersion"))


def _complaint(before: Raw, after: Raw) -> str:
    """Why API servers (1.26.5) would refuse the new status of a claim."""
    old, new = before["status"], after["status"]
    users, had = new.get("reservedFor", ()), old.get("reservedFor", ())
    if "allocation" in old and "allocation" in new and old["allocation"] != new["allocation"]:
        return "status.allocation: immutable"
    if users and "allocation" not in new:
        return "status.reservedFor: not allocated"
    if "allocation" in new and not new.get("driverName"):
        return "status.driverName: required"
    if "allocation" not in new and new.get("deallocationRequested"):
        return "status.deallocationRequested: not allocated"
    ending = new.get("deallocationRequested") or "deletionTimestamp" in after["metadata"]
    if ending and any(user not in had for user in users):
        return "status.reservedFor: the claim is to be deallocated"
    if len(users) > 1 and not new["allocation"].get("shareable"):
        return "status.reservedFor: not shareable"
    return ""


@dataclass
class NodeOnPaper:
    """A node agent: `file` is what it was last told of claims, `held` what pods have been given."""

    server: ClassicPaper
    name: str
    gpus: list[Raw]
    file: dict[str, Raw] = field(default_factory=dict)
    held: dict[str, Raw] = field(default_factory=dict)

    def report(self, *, prepare: bool) -> None:
        """Read the spec and write the status; with `prepare` every pod that may start does."""
        raw = self.server.nodes.get(self.name)
        if raw is None:
            return
        if raw["spec"].get("adoptedUID") == raw["metadata"]["uid"]:
            self.file = {uid: _allocation(entry) for uid, entry in entries_of(raw).items()}
        for uid in raw["spec"].get("releases", ()):
            self.held.pop(uid, None)
        if prepare:
            self._prepare()
        status = {
            "observedGeneration": raw["metadata"]["generation"],
            "devices": self.gpus,
            "allocations": list((self.file | self.held).values()),
        }
        self.server.put_node({**raw, "status": status, "metadata": dict(raw["metadata"])})

    def unprepare(self) -> None:
        """Pods whose claims are not reserved any more have ended."""
        used = {
            claim["metadata"]["uid"] for claim in self.server.claims.values() if claim["status"].get("reservedFor")
        }
        self.held = {uid: held for uid, held in self.held.items() if uid in used}

    def has(self, uid: str) -> bool:
        return uid in self.held or uid in self.file

    def forget(self) -> None:
        """The machine is gone with everything on it."""
        self.file.clear()
        self.held.clear()

    def _prepare(self) -> None:
        for claim in self.server.claims.values():
            uid = claim["metadata"]["uid"]
            if node_of(claim) != self.name or not claim["status"].get("reservedFor") or uid not in self.file:
                continue
            taken = {device["device"] for held in self.held.values() for device in held["devices"]}
            if not taken & {device["device"] for device in self.file[uid]["devices"]}:
                self.held.setdefault(uid, self.file[uid])


def _allocation(entry: Raw) -> Raw:
    devices = [{"device": device["device"], "request": "", "shareId": ""} for device in entry.get("devices", ())]
    claim = f"{entry['claimNamespace']}/{entry['claimName']}"
    return {"name": entry["name"], "origin": "claim", "phase": "Ready", "claim": claim, "devices": devices}


def blank_node(name: str, uid: str) -> Raw:
    """A GpuNodeState just created."""
    raw = raw_node({}, {}, name=name, uid=uid)
    del raw["metadata"]["generation"]
    return raw
