"""What a command was asked to do: the words of the command line and the environment, judged and typed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from reconciler.node.roots import Roots


class Format(Enum):
    """How a result is shown: for people (``table``, and ``wide`` for more of it) or for programs."""

    TABLE = "table"
    WIDE = "wide"
    YAML = "yaml"
    JSON = "json"

    @property
    def for_people(self) -> bool:
        return self in (Format.TABLE, Format.WIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One command with all it takes; fields that a command doesn't have keep their defaults.

    ``notes`` are things to tell the person before the command runs. ``file`` is "-" for standard input. An
    empty ``kubeconfig`` or ``context`` means the usual one. Times in seconds.
    """

    command: str
    roots: Roots
    notes: tuple[str, ...] = ()
    format: Format = Format.TABLE
    file: str = ""
    name: str = ""
    linger_seconds: int = 0
    force_release: frozenset[str] = frozenset()
    processes: str = "auto"
    timeout: float = 60.0
    resync_seconds: float = 60.0
    uevents: str = "kernel"
    node_name: str = ""
    kubeconfig: str = ""
    context: str = ""
    layout: str = "Auto"
    profiles: tuple[str, ...] | None = None
    shared_memory: bool = True
    binding_conditions: str = "Never"
    reorder: bool = False
    metrics_listen: str = ""
    probes_listen: str = ""
    lease_namespace: str = ""
    preferred_allocation_policy: str = "none"
    allocation_policy_resource: str = "memory"
    kubelet_root: str = ""
    instance: str = ""
    log_format: str = "text"
    log_level: str = "info"
