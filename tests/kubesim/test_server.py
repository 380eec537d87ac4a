"""The server over HTTP and TLS: credentials, streams, broken connections, the command line."""

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from kubesim import ANONYMOUS, Attributes, Cluster, Fault, Rule, Served, User, serving

MAPS = "/api/v1/namespaces/default/configmaps"


class Known:
    """Lets those in who are somebody, and remembers them."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def allows(self, user: User, attributes: Attributes) -> bool:
        self.names.append(user.name)
        return user != ANONYMOUS


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def cluster(known: Known) -> Cluster:
    return Cluster(authorizer=known, anonymous=ANONYMOUS)


@pytest.fixture
def served(cluster: Cluster, tmp_path: Path) -> Iterator[Served]:
    with serving(cluster, tmp_path) as running:
        yield running


def connection(served: Served, *, certificate: Path | None = None) -> http.client.HTTPSConnection:
    assert served.credentials is not None
    context = ssl.create_default_context(cadata=served.credentials.authority.decode())
    if certificate is not None:
        context.load_cert_chain(certificate)
    return http.client.HTTPSConnection("127.0.0.1", urlsplit(served.url).port, context=context, timeout=10)


def asked(client: http.client.HTTPConnection, path: str, token: str = "") -> http.client.HTTPResponse:
    client.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    return client.getresponse()


def test_tokens_certificates_and_nobody(served: Served, known: Known, tmp_path: Path) -> None:
    assert served.credentials is not None
    pair = tmp_path / "pair.pem"
    pair.write_bytes(served.credentials.certificate + served.credentials.key)
    statuses = []
    for token, certificate in ((served.credentials.token, None), ("", pair), ("", None), ("stolen", None)):
        client = connection(served, certificate=certificate)
        statuses.append(asked(client, MAPS, token).status)
        client.close()
    assert statuses == [200, 200, 403, 401]
    assert known.names == ["kubernetes-admin", "kubernetes-admin", "system:anonymous"]


def test_a_watch_streams_until_the_client_goes(served: Served, cluster: Cluster) -> None:
    assert served.credentials is not None
    client = connection(served)
    stream = asked(client, f"{MAPS}?watch=true", served.credentials.token)
    cluster.create(MAPS, {"metadata": {"name": "a"}})
    assert json.loads(stream.readline())["object"]["metadata"]["name"] == "a"
    assert cluster.open_watches == 1
    stream.close()
    client.close()
    for _ in range(100):
        if cluster.open_watches == 0:
            break
        cluster.create(MAPS, {"metadata": {"generateName": "more-"}})
        threading.Event().wait(0.02)
    assert cluster.open_watches == 0


def test_a_dropped_watch_breaks_the_connection(served: Served, cluster: Cluster) -> None:
    assert served.credentials is not None
    client = connection(served)
    stream = asked(client, f"{MAPS}?watch=true", served.credentials.token)
    cluster.drop_watches()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        stream.read()
    client.close()


def test_a_dropped_answer_breaks_the_connection(served: Served, cluster: Cluster) -> None:
    assert served.credentials is not None
    cluster.add_fault(Rule(fault=Fault.DROPPED, count=1))
    client = connection(served)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        asked(client, MAPS, served.credentials.token)
    assert asked(client, MAPS, served.credentials.token).status == 200
    client.close()


def test_a_paused_server_refuses_connections(served: Served) -> None:
    assert served.credentials is not None
    served.server.pause()
    client = connection(served)
    with pytest.raises(ConnectionRefusedError):
        asked(client, "/healthz")
    client.close()
    served.server.resume()
    client = connection(served)
    assert asked(client, "/healthz", served.credentials.token).read() == b"ok"
    client.close()


def test_slowness_holds_up_one_request_only(served: Served, cluster: Cluster) -> None:
    assert served.credentials is not None
    cluster.add_fault(Rule(fault=Fault.SLOW, path="/secrets", seconds=30))
    slow, quick = connection(served), connection(served)
    slow.request("GET", "/api/v1/secrets", headers={"Authorization": f"Bearer {served.credentials.token}"})
    assert asked(quick, MAPS, served.credentials.token).status == 200
    slow.close()
    quick.close()


def test_plain_http_needs_no_credentials(tmp_path: Path) -> None:
    with serving(Cluster(), tmp_path, tls=False) as served:
        config = yaml.safe_load(served.kubeconfig.read_text())
        assert config["clusters"][0]["cluster"]["server"] == served.url
        client = http.client.HTTPConnection("127.0.0.1", urlsplit(served.url).port, timeout=10)
        assert asked(client, "/readyz").read() == b"ok"
        client.close()


def test_a_port_that_is_taken_is_an_error(served: Served, tmp_path: Path) -> None:
    port = urlsplit(served.url).port
    assert port is not None
    with pytest.raises(OSError, match="address already in use"), serving(Cluster(), tmp_path, port=port):
        pass


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    manifest, log = tmp_path / "objects.yaml", tmp_path / "log.jsonl"
    manifest.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: given}\n")
    command = [sys.executable, "-m", "kubesim", "serve", "--plain", "--directory", str(tmp_path / "k")]
    command += ["--apply", str(manifest), "--log", str(log), "--fault", "internal,path=secrets,count=1"]
    path = os.pathsep.join(each for each in sys.path if each)
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    assert running.stdout is not None
    url = running.stdout.readline().split()[-1]
    assert running.stdout.readline().startswith("export KUBECONFIG=")
    client = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=10)
    statuses = []
    for wanted in (f"{MAPS}/given", "/api/v1/secrets"):
        answer = asked(client, wanted)
        statuses.append(answer.status)
        answer.read()
    client.close()
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 0
    running.stdout.close()
    assert statuses == [200, 500]
    assert [json.loads(line)["fault"] for line in log.read_text().splitlines()] == [None, "INTERNAL"]
