"""Through a proxy: named by the environment or the kubeconfig, with and without a password, or not at all."""

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from reconciler.runtime.kube.config import ConfigError
from reconciler.runtime.kube.errors import Unreachable
from tests.unit.runtime.kube.kubeconfigs import Certificates, connected, encoded, kubeconfig, make_certificates
from tests.unit.runtime.kube.wire_server import Answer, Asked, Connection, always, reply, serving

pytestmark = pytest.mark.usefixtures("no_proxies")


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return make_certificates()


def tunnel_to(port: int) -> Answer:
    """A proxy that connects everything to one port of this machine, whatever host was asked for."""

    def proxy(asked: Asked, connection: Connection) -> None:
        assert asked.method == "CONNECT"
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            connection.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=copy, args=(upstream, connection.sock))
            back.start()
            copy(connection.sock, upstream)
            with contextlib.suppress(OSError):
                upstream.shutdown(socket.SHUT_RDWR)
            back.join(10)

    return proxy


def copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def trusting(certificates: Certificates, **more: object) -> dict[str, object]:
    return {"certificate-authority-data": encoded(certificates.authority_pem), **more}


def test_a_tunnel_to_a_server_by_the_environment(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = certificates.server_context("kubernetes.example")
    with serving(always(reply(200, b"[]")), tls) as server, serving(tunnel_to(server.port)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        path = kubeconfig(tmp_path, "https://kubernetes.example:6443", cluster=trusting(certificates))
        with connected(path) as client:
            assert client.get("/api") == b"[]"
    assert [(asked.method, asked.target) for asked in proxy.asked] == [("CONNECT", "kubernetes.example:6443")]


def test_a_proxy_in_the_kubeconfig_that_wants_a_password(certificates: Certificates, tmp_path: Path) -> None:
    tls = certificates.server_context("kubernetes.example")
    with serving(always(reply(200, b"[]")), tls) as server, serving(tunnel_to(server.port)) as proxy:
        url = f"http://me:p%40ss@127.0.0.1:{proxy.port}"
        cluster = trusting(certificates, **{"proxy-url": url})
        with connected(kubeconfig(tmp_path, "https://kubernetes.example:6443", cluster=cluster)) as client:
            assert client.get("/api") == b"[]"
    assert proxy.asked[0].headers["proxy-authorization"] == "Basic bWU6cEBzcw=="
    assert "proxy-authorization" not in server.asked[0].headers


@pytest.mark.parametrize("exempt", ["127.0.0.1", "127.0.0.0/8", "*", "example.org,127.0.0.1"])
def test_servers_exempted_are_reached_directly(
    exempt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", exempt)
    with serving(always(reply(200, b"[]"))) as server, connected(kubeconfig(tmp_path, server.url)) as client:
        assert client.get("/api") == b"[]"


def test_a_proxy_for_servers_without_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always(reply(200, b"by proxy"))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with connected(kubeconfig(tmp_path, "http://kubernetes.example")) as client:
            assert client.get("/api") == b"by proxy"
    assert proxy.asked[0].target == "http://kubernetes.example/api"


def test_a_proxy_that_refuses(certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always(reply(407))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        path = kubeconfig(tmp_path, "https://kubernetes.example", cluster=trusting(certificates))
        with connected(path) as client, pytest.raises(Unreachable, match="407") as caught:
            client.get("/api")
    assert caught.value.never_sent


@pytest.mark.parametrize("url", ["127.0.0.1:3128", "gopher://127.0.0.1", "http://"])
def test_a_proxy_that_is_no_url(url: str, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "https://kubernetes.example", cluster={"proxy-url": url})
    with pytest.raises(ConfigError, match="proxy"), connected(path):
        pass
