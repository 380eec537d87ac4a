"""Which API server, and what is said when that is not to be made out."""

from dataclasses import dataclass
from pathlib import Path

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ConfigError(Exception):
    """The configuration of the connection can't be used; one line that names file and field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Which API server. In this order: `kubeconfig` if given, the pod's service account if in a pod, the files
    named by KUBECONFIG, `~/.kube/config`. `context` chooses among those of a kubeconfig (default: its current
    one).

    Connections kept open are at most `connections`: give at least the number of watches and four more.
    """

    user_agent: str
    kubeconfig: Path | None = None
    context: str | None = None
    connections: int = 16
    service_account: Path = SERVICE_ACCOUNT
