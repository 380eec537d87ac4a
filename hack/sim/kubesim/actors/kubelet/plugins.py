"""Connections to drivers, and which instance of a driver is called."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote

import grpc

from kubesim.actors.kubelet import messages
from kubesim.actors.kubelet.messages import ClaimName, Prepared
from kubesim.actors.kubelet.versions import Rules, Service
from kubesim.actors.kubelet.wire import Malformed

LONGEST_PROBE = 0.5
"""Seconds to wait for a socket that neither takes nor refuses a connection."""
Answer = TypeVar("Answer")


class CallFailed(Exception):
    """A call to a driver failed; the text is what the kubelet tells people."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        said = "context deadline exceeded" if code is grpc.StatusCode.DEADLINE_EXCEEDED else details
        name = "".join(word.capitalize() for word in code.name.split("_"))
        super().__init__(f"rpc error: code = {name} desc = {said}")


class NotRegistered(Exception):
    """No driver of this name is registered."""

    def __init__(self, driver: str) -> None:
        self.driver = driver
        super().__init__(f"DRA driver {driver} is not registered")


class Messages(Protocol):
    """A stream of messages that can be ended from another thread."""

    def __iter__(self) -> Iterator[bytes]: ...

    def cancel(self) -> object: ...


class Connection:
    """One gRPC connection over a unix socket. Closing it ends calls in flight."""

    def __init__(self, path: Path, authority: str, agent: str) -> None:
        options = [("grpc.default_authority", authority), ("grpc.primary_user_agent", agent)]
        self._channel = grpc.insecure_channel(f"unix:{path}", options=options)

    def call(self, method: str, request: bytes, seconds: float | None) -> bytes:
        """Wait so many seconds, None for ever. Raises CallFailed."""
        unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            method, request_serializer=None, response_deserializer=None
        )
        try:
            answer: bytes = unary(request, timeout=seconds)
        except (grpc.RpcError, ValueError) as error:
            raise _failure(error) from error
        return answer

    def stream(self, method: str, request: bytes) -> Messages:
        """Reading it raises grpc.RpcError when it ends with an error. Raises CallFailed."""
        opened: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(
            method, request_serializer=None, response_deserializer=None
        )
        try:
            stream: Messages = opened(request)
        except ValueError as error:
            raise _failure(error) from error
        return stream

    def close(self) -> None:
        self._channel.close()


def _failure(error: Exception) -> CallFailed:
    if isinstance(error, grpc.Call):
        return CallFailed(error.code(), error.details() or "")
    return CallFailed(grpc.StatusCode.CANCELLED, f"{error}")  # grpc's word for a channel that was closed


def registration_connection(path: Path, rules: Rules) -> Connection:
    """A connection as the kubelet makes it to a registration socket."""
    return Connection(path, f"{path}" if rules.raw_authority else quote(f"{path}", safe=""), rules.agent)


def driver_connection(path: Path, rules: Rules) -> Connection:
    """A connection as the kubelet makes it to a driver's own socket."""
    return Connection(path, f"{path}" if rules.raw_authority else "localhost", rules.agent)


@dataclass(slots=True, kw_only=True, eq=False)
class Plugin:
    """One registered instance of a driver."""

    driver: str
    endpoint: Path
    versions: tuple[str, ...]
    service: Service
    connection: Connection

    @property
    def connected(self) -> bool:
        """Whether somebody listens at its socket. (grpc's own word on that breaks when a channel is closed.)"""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(LONGEST_PROBE)
            try:
                probe.connect(str(self.endpoint))
            except OSError:
                return False
        return True

    def prepare(self, claims: Sequence[ClaimName], seconds: float) -> Mapping[str, Prepared]:
        """Answers by claim UID. Raises CallFailed."""
        service = self.service
        if not service.together:
            return {each.uid: self._prepare_alone(service, each, seconds) for each in claims}
        try:
            answer = self._call_for_all("NodePrepareResources", claims, seconds)
        except CallFailed as failure:
            older = service.fallback
            if older is None or failure.code is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            return {each.uid: self._prepared_or_error(older, each, seconds) for each in claims}
        return _read(partial(messages.prepared, plain=service.plain), answer)

    def unprepare(self, claims: Mapping[ClaimName, Sequence[str]], seconds: float) -> Mapping[str, str]:
        """Give claims back, of each its CDI ids; errors by claim UID, "" for none. Raises CallFailed."""
        service = self.service
        if not service.together:
            for each, ids in claims.items():
                self._unprepare_alone(service, each, ids, seconds)
            return dict.fromkeys((each.uid for each in claims), "")
        try:
            answer = self._call_for_all("NodeUnprepareResources", claims, seconds)
        except CallFailed as failure:
            older = service.fallback
            if older is None or failure.code is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            return {each.uid: self._unprepared_or_error(older, each, ids, seconds) for each, ids in claims.items()}
        return _read(messages.unprepared, answer)

    def _call_for_all(self, method: str, claims: Iterable[ClaimName], seconds: float) -> bytes:
        request = messages.claims_request(claims)
        return self.connection.call(f"{self.service.path}/{method}", request, _limit(self.service, seconds))

    def _prepare_alone(self, service: Service, claim: ClaimName, seconds: float) -> Prepared:
        method = f"{service.path}/NodePrepareResource"
        answer = self.connection.call(method, claim.encode(), _limit(service, seconds))
        return _read(messages.prepared_alone, answer)

    def _unprepare_alone(self, service: Service, claim: ClaimName, ids: Sequence[str], seconds: float) -> None:
        request = claim.encode_with_ids(ids) if service.returns_ids else claim.encode()
        self.connection.call(f"{service.path}/NodeUnprepareResource", request, _limit(service, seconds))

    def _prepared_or_error(self, service: Service, claim: ClaimName, seconds: float) -> Prepared:
        try:
            return self._prepare_alone(service, claim, seconds)
        except CallFailed as failure:
            return Prepared(error=f"{failure}")

    def _unprepared_or_error(self, service: Service, claim: ClaimName, ids: Sequence[str], seconds: float) -> str:
        try:
            self._unprepare_alone(service, claim, ids, seconds)
        except CallFailed as failure:
            return f"{failure}"
        return ""


def _limit(service: Service, seconds: float) -> float | None:
    """How long to wait for an answer."""
    if service.deadline is None:
        return seconds
    return min(service.deadline, seconds) or None


def _read(decode: Callable[[bytes], Answer], answer: bytes) -> Answer:
    try:
        return decode(answer)
    except Malformed as error:
        text = f"grpc: failed to unmarshal the received message: {error}"
        raise CallFailed(grpc.StatusCode.INTERNAL, text) from error


@dataclass(slots=True, kw_only=True)
class Plugins:
    """The registered instances, oldest first. From any thread."""

    _instances: list[Plugin] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, plugin: Plugin) -> None:
        """Register an instance; an older one at the same endpoint is forgotten."""
        with self._lock:
            self._instances = [each for each in self._instances if each.endpoint != plugin.endpoint]
            self._instances.append(plugin)

    def remove(self, plugin: Plugin) -> None:
        with self._lock:
            self._instances = [each for each in self._instances if each is not plugin]

    def of(self, driver: str) -> tuple[Plugin, ...]:
        with self._lock:
            return tuple(each for each in self._instances if each.driver == driver)

    def connected(self) -> frozenset[str]:
        """The drivers of which an instance is connected."""
        with self._lock:
            instances = tuple(self._instances)
        return frozenset(each.driver for each in instances if each.connected)

    def need(self, driver: str) -> Plugin:
        """The instance to call: the latest that is connected, else the latest. Raises NotRegistered."""
        instances = self.of(driver)
        if not instances:
            raise NotRegistered(driver)
        return next((each for each in reversed(instances) if each.connected), instances[-1])
