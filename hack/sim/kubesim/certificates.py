"""A certificate authority of its own for each server, and files in the form clients want."""

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
import yaml

from kubesim.access import ADMIN, User
from kubesim.values import Object

CONTEXT = "kubesim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How a client gets in: by token, or by a certificate (PEM: certificate and key)."""

    authority: bytes
    token: str
    certificate: bytes
    key: bytes


class Authority:
    """Issues the server's certificate and those of clients."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    @property
    def certificate(self) -> bytes:
        return self._ca.cert_pem.bytes()

    def server_context(self) -> ssl.SSLContext:
        """TLS for the server; a client may show a certificate of this authority."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        self._ca.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def credentials(self, token: str, user: User = ADMIN) -> Credentials:
        """The user's name is the certificate's common name, its first group the organisation."""
        group = user.groups[0] if user.groups else None
        issued = self._ca.issue_cert("client.invalid", common_name=user.name, organization_name=group)
        return Credentials(
            authority=self.certificate,
            token=token,
            certificate=issued.cert_chain_pems[0].bytes(),
            key=issued.private_key_pem.bytes(),
        )


def user_of(certificate: Object | None) -> User | None:
    """The user that a verified certificate (ssl.getpeercert) stands for."""
    if not certificate:
        return None
    parts = [pair for relative in certificate.get("subject", ()) for pair in relative]
    names = [value for key, value in parts if key == "commonName"]
    groups = tuple(value for key, value in parts if key == "organizationName")
    return User(name=names[0], groups=(*groups, "system:authenticated")) if names else None


def write_kubeconfig(path: Path, url: str, credentials: Credentials | None) -> None:
    """A kubeconfig with two contexts: CONTEXT uses the token, CONTEXT-certificate the client certificate."""
    cluster: Object = {"server": url}
    users: list[Object] = [{"name": CONTEXT, "user": {}}]
    names = [CONTEXT]
    if credentials is not None:
        cluster["certificate-authority-data"] = _encoded(credentials.authority)
        pair = {
            "client-certificate-data": _encoded(credentials.certificate),
            "client-key-data": _encoded(credentials.key),
        }
        names.append(f"{CONTEXT}-certificate")
        users = [{"name": names[0], "user": {"token": credentials.token}}, {"name": names[1], "user": pair}]
    contexts = [{"name": name, "context": {"cluster": CONTEXT, "user": name}} for name in names]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": cluster}],
        "contexts": contexts,
        "users": users,
        "current-context": CONTEXT,
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def _encoded(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
