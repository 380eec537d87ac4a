"""Kubeconfig files and certificates for tests, and clients made of them."""

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.config import Cluster
from reconciler.runtime.kube.connecting import connect

NOWHERE: Mapping[str, str] = {}
"""An environment that names no cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """An authority, a server it vouches for (by the name localhost and 127.0.0.1), and a client."""

    authority: trustme.CA
    client: trustme.LeafCert

    def server_context(self, *names: str, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
        if ask_client:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    @property
    def authority_pem(self) -> bytes:
        return self.authority.cert_pem.bytes()

    @property
    def client_pem(self) -> bytes:
        return b"".join(blob.bytes() for blob in self.client.cert_chain_pems)

    @property
    def key_pem(self) -> bytes:
        return self.client.private_key_pem.bytes()


def make_certificates() -> Certificates:
    authority = trustme.CA()
    return Certificates(
        authority=authority, client=authority.issue_cert("tester@example.org", common_name="tester")
    )


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def kubeconfig(
    directory: Path,
    server: str,
    *,
    cluster: dict[str, object] | None = None,
    user: dict[str, object] | None = None,
    name: str = "config",
) -> Path:
    """Write a kubeconfig with one context, `main`."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "there", "user": "me"}}],
        "clusters": [{"name": "there", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "me", "user": user or {}}],
    }
    path = directory / name
    path.write_text(json.dumps(document))
    return path


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def connected(
    kubeconfig: Path | None = None,
    *,
    environment: Mapping[str, str] = NOWHERE,
    service_account: Path = Path("/nonexistent"),
    context: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[KubeClient]:
    cluster = Cluster(
        user_agent="tester/1", kubeconfig=kubeconfig, context=context, service_account=service_account
    )
    client = connect(cluster, environment=environment, retries=NO_RETRIES, timeout=10, clock=clock)
    try:
        yield client
    finally:
        client.close()
