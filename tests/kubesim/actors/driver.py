"""A driver that answers as it is told, over real sockets, and notes what it was asked."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from kubesim.actors.kubelet import messages, wire

NAME = "rec.gpu.intel.com"
VERSIONS = ("v1.DRAPlugin", "v1beta1.DRAPlugin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: the method's name, the claims in it by name, and when."""

    method: str
    service: str
    claims: tuple[str, ...]
    claim_uids: tuple[str, ...]
    at: float
    deadline: float | None
    request: bytes
    answered_by: str = ""

    @property
    def short(self) -> str:
        return f"{self.method}{list(self.claims) if self.claims else ''}"


Answer = Callable[[str, Mapping[str, str]], bytes]
"""A method's answer to claims (names by UID); may raise Failure."""


class Failure(Exception):
    """Answer with a gRPC error."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        self.details = details
        super().__init__(details)


def prepared(
    devices: Mapping[str, tuple[str, ...]], *, request: str = "gpu", errors: Mapping[str, str] | None = None
) -> bytes:
    """NodePrepareResourcesResponse: by claim UID CDI ids of one device for a request, or an error."""
    out = b""
    for uid, ids in devices.items():
        device = wire.text(1, request) + wire.text(2, "node-b") + wire.text(3, "gpu-0")
        device += b"".join(wire.text(4, each) for each in ids)
        out += _entry(uid, wire.nested(1, device))
    for uid, error in (errors or {}).items():
        out += _entry(uid, wire.text(2, error))
    return out


def plainly_prepared(devices: Mapping[str, tuple[str, ...]], *, errors: Mapping[str, str] | None = None) -> bytes:
    """NodePrepareResourcesResponse up to 1.30: CDI ids by claim UID, or an error."""
    out = b"".join(_entry(uid, b"".join(wire.text(1, each) for each in ids)) for uid, ids in devices.items())
    return out + b"".join(_entry(uid, wire.text(2, error)) for uid, error in (errors or {}).items())


def prepared_alone(*ids: str) -> bytes:
    """NodePrepareResourceResponse."""
    return b"".join(wire.text(1, each) for each in ids)


def unprepared(uids: tuple[str, ...], *, errors: Mapping[str, str] | None = None) -> bytes:
    """NodeUnprepareResourcesResponse."""
    known = errors or {}
    return b"".join(_entry(uid, wire.text(1, known.get(uid, ""))) for uid in uids)


def _entry(uid: str, content: bytes) -> bytes:
    return wire.nested(1, wire.text(1, uid) + wire.nested(2, content))


def health_list(states: Mapping[str, tuple[int, str]], *, timeout: int = 0) -> bytes:
    """NodeWatchResourcesResponse: health (0 unknown, 1 good, 2 bad) and message by device of pool node-b."""
    out = b""
    for device, (state, message) in states.items():
        identity = wire.text(1, "node-b") + wire.text(2, device)
        numbers = b"".join(
            wire.varint(field << 3) + wire.varint(value) for field, value in ((2, state), (4, timeout)) if value
        )
        out += wire.nested(1, wire.nested(1, identity) + numbers + wire.text(5, message))
    return out


@dataclass(slots=True, kw_only=True)
class Driver:
    """One instance. `answers` by method name are consulted first; otherwise every claim gets one CDI device.

    `cdi` is the directory for CDI specs. `services` are the gRPC services it serves, all if None; `plain` is
    whether it answers with CDI ids alone, as up to 1.30.
    """

    root: Path
    cdi: Path
    name: str = NAME
    type: str = "DRAPlugin"
    versions: tuple[str, ...] = VERSIONS
    services: tuple[str, ...] | None = None
    plain: bool = False
    endpoint: str | None = None
    suffix: str = ""
    information_delay: float = 0.0
    answers: dict[str, Answer] = field(default_factory=dict)
    health: queue.Queue[bytes | None] | None = None
    calls: list[Call] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    _servers: list[grpc.Server] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def registration_socket(self) -> Path:
        return self.root / "plugins_registry" / f"{self.name}{self.suffix}-reg.sock"

    @property
    def dra_socket(self) -> Path:
        return self.root / "plugins" / self.name / f"dra{self.suffix}.sock"

    def start(self) -> None:
        """The driver's socket first, then that of registration."""
        for path in (self.dra_socket, self.registration_socket):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            server = grpc.server(ThreadPoolExecutor(max_workers=16))
            server.add_generic_rpc_handlers((_Handler(self),))
            server.add_insecure_port(f"unix:{path}")
            server.start()
            self._servers.append(server)

    def stop(self, *, leave_sockets: bool = False) -> None:
        for server in self._servers:
            server.stop(0).wait()
        self._servers.clear()
        for path in (self.registration_socket, self.dra_socket):
            path.unlink(missing_ok=True)
        if leave_sockets:
            for path in (self.dra_socket, self.registration_socket):
                _dead_socket(path)

    def told(self) -> list[str]:
        """Prepares and Unprepares so far."""
        with self._lock:
            return [each.short for each in self.calls if each.method.startswith("Node") and each.claims]

    def answer(self, method: str, service: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        claims = dict(_claims(method, request))
        call = Call(
            method=method,
            service=service,
            claims=tuple(claims.values()),
            claim_uids=tuple(claims),
            at=time.monotonic(),
            deadline=context.time_remaining(),
            request=request,
        )
        with self._lock:
            self.calls.append(call)
        try:
            return self._answer(method, request, claims)
        except Failure as failure:
            context.abort(failure.code, failure.details)
            raise AssertionError("abort raises") from failure

    def _answer(self, method: str, request: bytes, claims: Mapping[str, str]) -> bytes:
        if method in self.answers:
            return self.answers[method](method, claims)
        match method:
            case "GetInfo":
                time.sleep(self.information_delay)
                endpoint = str(self.dra_socket) if self.endpoint is None else self.endpoint
                listed = b"".join(wire.text(4, each) for each in self.versions)
                return wire.text(1, self.type) + wire.text(2, self.name) + wire.text(3, endpoint) + listed
            case "NotifyRegistrationStatus":
                found = wire.fields(request)
                self.notices.append(wire.string(found.get(2, [])) or f"registered {bool(found.get(1))}")
                return b""
            case "NodeUnprepareResources":
                return unprepared(tuple(claims))
            case "NodePrepareResources":
                for uid in claims:
                    self.write_cdi(uid)
                ids: Mapping[str, tuple[str, ...]] = {uid: (f"{self.name}/gpu={uid}",) for uid in claims}
                return plainly_prepared(ids) if self.plain else prepared(ids)
            case "NodePrepareResource":
                [uid] = claims
                self.write_cdi(uid)
                return prepared_alone(f"{self.name}/gpu={uid}")
            case "NodeUnprepareResource":
                return b""
            case _:
                raise Failure(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    def say_health(self, states: Mapping[str, tuple[int, str]]) -> None:
        """Serve health, and send this list next."""
        if self.health is None:
            self.health = queue.Queue()
        self.health.put(health_list(states))

    def end_health(self) -> None:
        """End the stream that is open."""
        if self.health is not None:
            self.health.put(None)

    def write_cdi(self, uid: str) -> None:
        """A CDI spec with one device for a claim."""
        device = {"name": uid, "containerEdits": {"deviceNodes": [{"path": f"/dev/dri/{uid}"}]}}
        spec = {"cdiVersion": "0.5.0", "kind": f"{self.name}/gpu", "devices": [device]}
        (self.cdi / f"{uid}.json").write_text(json.dumps(spec))


def _claims(method: str, request: bytes) -> Iterator[tuple[str, str]]:
    """UID and name of each claim in a request: one, or several."""
    if method in ("GetInfo", "NotifyRegistrationStatus"):
        return
    alone = method.endswith("Resource")
    for each in (request,) if alone else wire.messages(wire.fields(request).get(1, [])):
        found = wire.fields(each)
        yield wire.string(found.get(2, [])), wire.string(found.get(3, []))


def _dead_socket(path: Path) -> None:
    """What a crashed process leaves behind."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        service, _, method = details.method.lstrip("/").rpartition("/")
        if details.method == messages.HEALTH:
            if self._driver.health is None:
                return None
            said = self._driver.health
            return grpc.unary_stream_rpc_method_handler(lambda _request, _context: iter(said.get, None))
        if (
            self._driver.services is not None
            and method.startswith("Node")
            and service not in self._driver.services
        ):
            return None
        if service.endswith("DRAPlugin") and f"{service.split('.')[-2]}.DRAPlugin" not in self._driver.versions:
            return None

        def answer(request: Any, context: grpc.ServicerContext) -> bytes:
            return self._driver.answer(method, service, request, context)

        return grpc.unary_unary_rpc_method_handler(answer)
