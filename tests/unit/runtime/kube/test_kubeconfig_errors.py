"""A configuration that can't be used is told in one line, with file and field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.runtime.kube.config import ConfigError
from tests.unit.runtime.kube.kubeconfigs import connected, encoded, kubeconfig, make_certificates

pytestmark = pytest.mark.usefixtures("no_proxies")

Edit = Callable[[dict[str, Any]], object]


def cluster(**fields: object) -> Edit:
    return lambda document: document["clusters"][0]["cluster"].update(fields)


def user(**fields: object) -> Edit:
    return lambda document: document["users"][0]["user"].update(fields)


def error_of(path: Path, context: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught, connected(path, context=context):
        pass
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d.pop("current-context"), ["current-context: is not set"]),
        (lambda d: d.update({"current-context": 7}), ["current-context: is not a text"]),
        (lambda d: d.update({"current-context": "x"}), ["contexts: no 'x'", "there are: main"]),
        (lambda d: d.update({"contexts": {}}), ["contexts: no 'main'", "there are: none"]),
        (lambda d: d.update({"contexts": "x"}), ["contexts: is not a list of mappings"]),
        (lambda d: d.update({"contexts": [{}]}), ["contexts: is not a list of mappings with names"]),
        (
            lambda d: d.update({"clusters": []}),
            ["contexts[name=main].context.cluster: 'there' is not in the list"],
        ),
        (lambda d: d.update({"users": []}), ["contexts[name=main].context.user: 'me' is not in the list"]),
        (lambda d: d["clusters"][0].update({"cluster": "x"}), ["clusters[name=there].cluster: is not a mapping"]),
        (lambda d: d["clusters"][0]["cluster"].pop("server"), ["clusters[name=there].cluster.server"]),
        (cluster(server="10.0.0.1"), ["'10.0.0.1' is not an http:// or https:// URL"]),
        (cluster(server="ftp://x"), ["'ftp://x' is not an http:// or https:// URL"]),
        (cluster(server=7), ["clusters[name=there].cluster.server: is not a text"]),
        (cluster(**{"certificate-authority": "absent.pem"}), ["absent.pem"]),
        (cluster(**{"certificate-authority-data": "!!!"}), ["certificate"]),
        (cluster(**{"certificate-authority-data": encoded(b"not pem")}), ["certificate or key in"]),
        (user(tokenFile="absent"), ["users[name=me].user.tokenFile", "absent: No such file or directory"]),
        (user(tokenFile=7), ["users[name=me].user.tokenFile: is not a text"]),
        (user(token="two\nlines"), ["users[name=me].user: the token is empty, or holds characters"]),
        (user(token="é"), ["users[name=me].user: the token is empty, or holds characters"]),
        (user(exec={"command": "x"}), ["users[name=me].user.exec"]),
        (user(**{"auth-provider": {"name": "azure"}}), ["users[name=me].user.auth-provider"]),
    ],
)
def test_what_is_wrong_in_a_kubeconfig(edit: Edit, words: list[str], tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "https://127.0.0.1:1")
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    message = error_of(path)
    assert str(path) in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is not a mapping"), ("- 1", "is not a mapping"), ("a: [", "not YAML"), ("\x00", "not YAML")],
)
def test_a_file_that_is_no_kubeconfig(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    message = error_of(path)
    assert str(path) in message
    assert words in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "absent: No such file or directory" in error_of(tmp_path / "absent")
    with (
        pytest.raises(ConfigError, match=r"not in a pod, and no kubeconfig at .*/nothing"),
        connected(environment={"KUBECONFIG": str(tmp_path / "nothing")}),
    ):
        pass


def test_a_context_that_is_not_there(tmp_path: Path) -> None:
    assert "no 'other' among them (there are: main)" in error_of(
        kubeconfig(tmp_path, "https://x"), context="other"
    )


def test_a_key_that_does_not_belong_to_the_certificate(tmp_path: Path) -> None:
    mine, other = make_certificates(), make_certificates()
    me: dict[str, object] = {
        "client-certificate-data": encoded(mine.client_pem),
        "client-key-data": encoded(other.key_pem),
    }
    assert "certificate or key in" in error_of(kubeconfig(tmp_path, "https://127.0.0.1:1", user=me))


@pytest.mark.parametrize(
    ("token", "authority", "words"),
    [
        (None, b"x", "token: No such file or directory"),
        (b"", b"x", "token: is empty"),
        (b"two words", b"x", "token: not a token"),
        (b"\xff", b"x", "token: not a token"),
        (b"t", None, "ca.crt"),
        (b"t", b"", "ca.crt"),
        (b"t", b"not pem", "ca.crt"),
    ],
)
def test_a_service_account_that_cannot_be_used(
    token: bytes | None, authority: bytes | None, words: str, tmp_path: Path
) -> None:
    for name, data in (("token", token), ("ca.crt", authority)):
        if data is not None:
            (tmp_path / name).write_bytes(data)
    pod = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    with pytest.raises(ConfigError) as caught, connected(environment=pod, service_account=tmp_path):
        pass
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
