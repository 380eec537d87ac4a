"""The product's Kubernetes client on a simulated API server, without a network in between."""

from collections.abc import Iterator
from contextlib import contextmanager

import kubesim
from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.transport import Request, Response, Stream


class InMemory:
    """A Transport whose other end is a simulated cluster."""

    def __init__(self, cluster: kubesim.Cluster) -> None:
        self._cluster = cluster

    def send(self, request: Request) -> Response:
        try:
            answer = self._cluster.handle(_translated(request))
        except ConnectionError as error:
            raise _unreachable(error) from error
        return Response(status=answer.status, headers=_lowered(answer.headers), body=answer.body)

    @contextmanager
    def stream(self, request: Request) -> Iterator[Stream]:
        try:
            watch = self._cluster.watch(_translated(request))
        except ConnectionError as error:
            raise _unreachable(error) from error
        try:
            yield _Lines(watch)
        finally:
            watch.close()

    def close(self) -> None:
        """Nothing is open."""


class _Lines:
    def __init__(self, watch: kubesim.Watch) -> None:
        self._watch = watch
        refused = watch.status != 200
        self.head = Response(status=watch.status, body=b"".join(watch) if refused else b"")

    def __iter__(self) -> Iterator[bytes]:
        try:
            for line in self._watch:
                yield line.rstrip(b"\n")
        except ConnectionError as error:
            raise _unreachable(error) from error

    def close(self) -> None:
        self._watch.close()


def _translated(request: Request) -> kubesim.Request:
    headers = {"accept": request.accept, "content-type": request.content_type}
    return kubesim.Request(
        method=request.method, path=request.path, query=request.query, headers=headers, body=request.body
    )


def _lowered(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


def _unreachable(error: ConnectionError) -> Unreachable:
    return Unreachable(str(error), never_sent=isinstance(error, ConnectionRefusedError))
