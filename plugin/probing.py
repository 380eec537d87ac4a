"""Answers to the kubelet's gRPC probes of our pod (grpc.health.v1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc

from plugin.pb.probes import health_pb2 as pb
from plugin.rpc import unary
from plugin.sockets import LARGEST_REQUEST
from reconciler.runtime.metrics import Listen

SERVICE = "grpc.health.v1.Health"
LIVENESS, READINESS = "liveness", "readiness"


def handler(checks: Mapping[str, Callable[[], bool]]) -> grpc.GenericRpcHandler:
    """The service. ``checks`` say by name of a part whether it is well; "" is the whole."""

    def check(request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        asked = checks.get(request.service)
        if asked is None:
            known = ", ".join(name for name in checks if name)
            context.abort(grpc.StatusCode.NOT_FOUND, f"no part {request.service[:80]!r} (allowed: {known})")
        status = pb.HealthCheckResponse.SERVING if asked() else pb.HealthCheckResponse.NOT_SERVING
        return pb.HealthCheckResponse(status=status)

    return grpc.method_handlers_generic_handler(SERVICE, {"Check": unary(pb.HealthCheckRequest, check)})


class ProbeServer:
    """Serves the checks over TCP. OSError if the address or port can't be had."""

    def __init__(self, listen: Listen, checks: Mapping[str, Callable[[], bool]]) -> None:
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="probe")
        self._server = grpc.server(
            self._pool,
            handlers=[handler(checks)],
            options=(("grpc.max_receive_message_length", LARGEST_REQUEST), ("grpc.so_reuseport", 0)),
            maximum_concurrent_rpcs=16,
        )
        host = f"[{listen.host}]" if ":" in listen.host else listen.host or "[::]"
        try:
            self.port = self._server.add_insecure_port(f"{host}:{listen.port}")
        except RuntimeError as error:
            self._pool.shutdown(wait=False)
            raise OSError(f"can't listen at {host}:{listen.port}: {error}") from error
        self._server.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.stop(0).wait()
        self._pool.shutdown(wait=False)
