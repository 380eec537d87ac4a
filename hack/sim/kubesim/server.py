"""The simulated API server over HTTP or TLS, in a thread of its own (aiohttp)."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web

from kubesim.access import ADMIN
from kubesim.certificates import Authority, Credentials, user_of, write_kubeconfig
from kubesim.cluster import Cluster
from kubesim.faults import Fault, Rule
from kubesim.messages import Request, Response
from kubesim.watching import Watch

HOST = "127.0.0.1"
BODY_LIMIT = 64 * 1024 * 1024
"""The cluster has a limit of its own, and words for it."""
START_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server: where it is, and how to get in (None without TLS)."""

    url: str
    kubeconfig: Path
    credentials: Credentials | None
    server: "Server"


@contextmanager
def serving(cluster: Cluster, directory: Path, *, tls: bool = True, port: int = 0) -> Iterator[Served]:
    """Serve a cluster; `directory` receives a kubeconfig. Port 0 takes any that is free.

    Raises OSError if the port is taken.
    """
    credentials, context = None, None
    if tls:
        authority = Authority()
        token = f"{cluster.state.new_uid()}"
        cluster.tokens[token] = ADMIN
        credentials, context = authority.credentials(token), authority.server_context()
    server = Server(cluster, context, port)
    server.start()
    try:
        kubeconfig = directory / "kubeconfig"
        write_kubeconfig(kubeconfig, server.url, credentials)
        yield Served(url=server.url, kubeconfig=kubeconfig, credentials=credentials, server=server)
    finally:
        server.stop()


class Server:
    """One listening socket and its event loop. `pause` makes connections be refused until `resume`."""

    def __init__(self, cluster: Cluster, context: ssl.SSLContext | None, port: int = 0) -> None:
        self._cluster = cluster
        self._context = context
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="kubesim", daemon=True)
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://{HOST}:{self._port}"

    def start(self) -> None:
        """Raises OSError if the port is taken."""
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(START_SECONDS)
        except OSError:
            self.stop()
            raise

    def stop(self) -> None:
        """Break all connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    def pause(self) -> None:
        """Close the listening socket and break what is open, as a server that is down."""
        asyncio.run_coroutine_threadsafe(self._unlisten(), self._loop).result(START_SECONDS)
        self._cluster.drop_watches()

    def resume(self) -> None:
        """Listen again, on the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(START_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _open(self) -> None:
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        assert self._runner is not None, "started"
        self._site = web.TCPSite(self._runner, HOST, self._port, ssl_context=self._context, reuse_address=True)
        await self._site.start()
        if not self._port:
            self._port = self._runner.addresses[0][1]

    async def _unlisten(self) -> None:
        if self._site is not None:
            await self._site.stop()
            self._site = None
        server = self._runner.server if self._runner else None
        for connection in list(server.connections) if isinstance(server, web.Server) else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def _close(self) -> None:
        await self._unlisten()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._loop.shutdown_asyncgens()

    async def _answer(self, received: web.Request) -> web.StreamResponse:
        request = await _request(received)
        rule = self._cluster.strike(request)
        if rule is not None and rule.fault is Fault.SLOW:
            await asyncio.sleep(rule.seconds)
        try:
            if request.watches:
                return await self._stream(received, request, rule)
            return _response(self._cluster.answer(request, rule))
        except ConnectionError:
            return _break(received)

    def _wake(self, news: asyncio.Event) -> None:
        """From any thread; after the end there is nobody to wake."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(news.set)

    async def _stream(self, received: web.Request, request: Request, rule: Rule | None) -> web.StreamResponse:
        watch = self._cluster.open(request, rule)
        response = web.StreamResponse(status=watch.status, headers=watch.headers)
        news = asyncio.Event()
        watch.listen(partial(self._wake, news))
        try:
            await response.prepare(received)
            await _copy(watch, response, news)
            await response.write_eof()
        finally:
            watch.close()
        return response


async def _copy(watch: Watch, response: web.StreamResponse, news: asyncio.Event) -> None:
    """Pass lines on as they come. Raises Dropped."""
    while True:
        news.clear()
        lines, more = watch.poll()
        if lines:
            await response.write(b"".join(lines))
        if not more:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), watch.nap())


async def _request(received: web.Request) -> Request:
    transport = received.transport
    certificate = transport.get_extra_info("peercert") if transport else None
    return Request(
        method=received.method,
        path=received.path,
        query=tuple((key, value) for key, value in received.query.items()),
        headers={key.lower(): value for key, value in received.headers.items()},
        body=await received.read(),
        user=user_of(certificate),
    )


def _response(answer: Response) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body)
    for name, value in answer.headers:
        if name.lower() == "content-type":
            response.headers[name] = value
        else:
            response.headers.add(name, value)
    return response


def _break(received: web.Request) -> web.Response:
    """Break the connection without an answer."""
    if received.transport is not None:
        received.transport.abort()
    return web.Response(status=500)
