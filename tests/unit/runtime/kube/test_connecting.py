"""Ways to reach an API server and to prove who one is, against servers that check."""

import json
import logging
import stat
import sys
from pathlib import Path

import pytest

from reconciler.runtime.kube.config import ConfigError
from reconciler.runtime.kube.errors import Unauthorized, Unreachable
from tests.unit.runtime.kube.kubeconfigs import (
    Certificates,
    Clock,
    connected,
    encoded,
    kubeconfig,
    make_certificates,
)
from tests.unit.runtime.kube.wire_server import Answer, Asked, Connection, always, reply, serving

pytestmark = pytest.mark.usefixtures("no_proxies")


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return make_certificates()


def test_a_server_of_a_private_authority(certificates: Certificates, tmp_path: Path) -> None:
    with serving(always(reply(200, b"[]")), certificates.server_context()) as server:
        data: dict[str, object] = {"certificate-authority-data": encoded(certificates.authority_pem)}
        with connected(kubeconfig(tmp_path, server.url, cluster=data)) as client:
            assert client.get("/api") == b"[]"
        (tmp_path / "ca.pem").write_bytes(certificates.authority_pem)
        with connected(kubeconfig(tmp_path, server.url, cluster={"certificate-authority": "ca.pem"})) as client:
            assert client.get("/api") == b"[]"
    assert "authorization" not in server.asked[0].headers


def test_a_server_nobody_vouches_for_is_not_spoken_to(certificates: Certificates, tmp_path: Path) -> None:
    other: dict[str, object] = {"certificate-authority-data": encoded(make_certificates().authority_pem)}
    with serving(always(reply(200)), certificates.server_context()) as server:
        for cluster in ({}, other):
            distrusting = connected(kubeconfig(tmp_path, server.url, cluster=cluster))
            with distrusting as client, pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                client.get("/api")
    assert server.asked == []


def test_a_server_of_another_name(certificates: Certificates, tmp_path: Path) -> None:
    cluster: dict[str, object] = {"certificate-authority-data": encoded(certificates.authority_pem)}
    with serving(always(reply(200)), certificates.server_context("kubernetes.example")) as server:
        unnamed = connected(kubeconfig(tmp_path, server.url, cluster=cluster))
        with unnamed as client, pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            client.get("/api")
        named = {**cluster, "tls-server-name": "kubernetes.example"}
        with connected(kubeconfig(tmp_path, server.url, cluster=named)) as client:
            client.get("/api")


def test_not_verifying_is_possible_and_warned_of(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = kubeconfig(tmp_path, "https://127.0.0.1:1", cluster={"insecure-skip-tls-verify": True})
    with serving(always(reply(200)), certificates.server_context()) as server:
        path = kubeconfig(tmp_path, server.url, cluster={"insecure-skip-tls-verify": True})
        with caplog.at_level(logging.WARNING), connected(path) as client:
            client.get("/api")
    assert caplog.messages == ["the API server's certificate is not verified"]


def test_a_client_certificate(certificates: Certificates, tmp_path: Path) -> None:
    cluster: dict[str, object] = {"certificate-authority-data": encoded(certificates.authority_pem)}
    (tmp_path / "me.pem").write_bytes(certificates.client_pem)
    (tmp_path / "me.key").write_bytes(certificates.key_pem)
    users: tuple[dict[str, object], ...] = (
        {"client-certificate": "me.pem", "client-key": "me.key"},
        {
            "client-certificate-data": encoded(certificates.client_pem),
            "client-key-data": encoded(certificates.key_pem),
        },
    )
    with serving(always(reply(200, b"[]")), certificates.server_context(ask_client=True)) as server:
        for user in users:
            with connected(kubeconfig(tmp_path, server.url, cluster=cluster, user=user)) as client:
                assert client.get("/api") == b"[]"
        without = connected(kubeconfig(tmp_path, server.url, cluster=cluster))
        with without as client, pytest.raises(Unreachable):
            client.get("/api")


def expecting(*tokens: str) -> Answer:
    """Let in who brings one of these."""

    def check(asked: Asked, connection: Connection) -> None:
        known = asked.headers.get("authorization", "") in tokens
        connection.say(reply(200 if known else 401))

    return check


@pytest.mark.parametrize(
    ("user", "header"),
    [({"token": "secret"}, "Bearer secret"), ({"username": "me", "password": "pw"}, "Basic bWU6cHc=")],
)
def test_tokens_and_passwords(user: dict[str, object], header: str, tmp_path: Path) -> None:
    with serving(expecting(header)) as server:
        with connected(kubeconfig(tmp_path, server.url, user=user)) as client:
            client.get("/api")
        with connected(kubeconfig(tmp_path, server.url)) as client, pytest.raises(Unauthorized):
            client.get("/api")


def test_a_token_file_is_read_again_after_a_minute_and_at_once_when_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    clock = Clock()
    good = ["Bearer first"]

    def check(asked: Asked, connection: Connection) -> None:
        expecting(*good)(asked, connection)  # those good now

    with serving(check) as server:
        path = kubeconfig(tmp_path, server.url, user={"tokenFile": "token", "token": "other"})
        with connected(path, clock=clock) as client:
            client.get("/api")
            token.write_text("second\n")
            good.append("Bearer second")
            client.get("/api")
            clock.now += 60
            client.get("/api")
            token.write_text("third\n")
            good[:] = ["Bearer third"]
            client.get("/api")
            token.write_text("")  # not readable for a moment: the last one is used on
            clock.now += 60
            client.get("/api")
            good.clear()
            with pytest.raises(Unauthorized):
                client.get("/api")
    tokens = [asked.headers["authorization"].removeprefix("Bearer ") for asked in server.asked]
    assert tokens == ["first", "first", "second", "second", "third", "third", "third"]


def service_account(directory: Path, certificates: Certificates) -> Path:
    (directory / "token").write_text("pod-token\n")
    (directory / "ca.crt").write_bytes(certificates.authority_pem)
    return directory


def test_within_a_pod(certificates: Certificates, tmp_path: Path) -> None:
    mount = service_account(tmp_path, certificates)
    with serving(expecting("Bearer pod-token", "Bearer new"), certificates.server_context()) as server:
        pod = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
        clock = Clock()
        with connected(environment=pod, service_account=mount, clock=clock) as client:
            client.get("/api")
            (mount / "token").write_text("new")
            clock.now += 60
            client.get("/api")
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer pod-token", "Bearer new"]


def test_a_kubeconfig_asked_for_counts_more_than_the_pod(tmp_path: Path) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    with (
        serving(always(reply(200))) as server,
        connected(kubeconfig(tmp_path, server.url), environment=pod) as client,
    ):
        client.get("/api")


def test_files_named_by_the_environment_the_first_counting_most(tmp_path: Path) -> None:
    with serving(always(reply(200, b"1"))) as one, serving(always(reply(200, b"2"))) as two:
        first, second = kubeconfig(tmp_path, one.url, name="1"), kubeconfig(tmp_path, two.url, name="2")
        for names, body in (((first, second), b"1"), ((tmp_path / "absent", second), b"2")):
            environment = {"KUBECONFIG": ":".join(map(str, names))}
            with connected(environment=environment) as client:
                assert client.get("/api") == body


def test_the_default_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    with serving(always(reply(200))) as server:
        kubeconfig(tmp_path / ".kube", server.url)
        with connected() as client:
            client.get("/api")


def test_another_context_than_the_current_one(tmp_path: Path) -> None:
    with serving(always(reply(200, b"1"))) as one, serving(expecting("Bearer t")) as two:
        path = kubeconfig(tmp_path, one.url)
        document = json.loads(path.read_text())
        document["contexts"].append({"name": "second", "context": {"cluster": "two", "user": "other"}})
        document["clusters"].append({"name": "two", "cluster": {"server": two.url}})
        document["users"].append({"name": "other", "user": {"token": "t"}})
        path.write_text(json.dumps(document))
        with connected(path) as client:
            assert client.get("/api") == b"1"
        with connected(path, context="second") as client:
            assert client.get("/api") == b"{}"


def plugin(directory: Path, script: str) -> dict[str, object]:
    path = directory / "plugin"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    api = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": api, "command": str(path), "interactiveMode": "Never"}}


def test_a_credential_plugin_is_run_again_when_its_token_is_refused(tmp_path: Path) -> None:
    counter = tmp_path / "runs"
    counter.write_text("0")
    script = f"""
import json, pathlib
counter = pathlib.Path({str(counter)!r})
runs = int(counter.read_text()) + 1
counter.write_text(str(runs))
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                   "status": {{"token": f"token-{{runs}}"}}}}))
"""
    with serving(expecting("Bearer token-2")) as server:
        path = kubeconfig(tmp_path, server.url, user=plugin(tmp_path, script))
        with connected(path) as client:
            client.get("/api")
            client.get("/api")
    assert counter.read_text() == "2"
    assert len(server.asked) == 3


def test_a_credential_plugin_that_fails_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = kubeconfig(
        tmp_path, "http://127.0.0.1:1", user=plugin(tmp_path, "import sys; sys.exit('no smartcard')")
    )
    told = r"config: users\[name=me\]\.user\.exec: gave no credentials"
    with pytest.raises(ConfigError, match=told), connected(path):
        pass
