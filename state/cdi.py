"""CDI spec files: one for each allocation, naming its device nodes.

Source: Container Device Interface specification and JSON schema. The lowest version that has what a file
needs is written, because runtimes refuse newer ones than they know (podman 4.3: above 0.5.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from state.observed import DeviceNode

KIND = "intel.com/gpu"
_FILE = re.compile(r"intel\.com-gpu_(claim|alloc)-[a-z0-9.-]+\.json")
_BASE_VERSION = "0.3.0"
_HOST_PATH_VERSION = "0.5.0"


def is_our_file(name: str) -> bool:
    """Whether ``name`` is that of a spec file of ours. Other drivers' files of the same kind never match."""
    return _FILE.fullmatch(name) is not None


def file_name(key: str) -> str:
    """The spec file of the allocation with this key (``claim-<uid>`` or ``alloc-<name>``)."""
    return f"intel.com-gpu_{key}.json"


def key_of(file: str) -> str:
    """The key of the allocation that a spec file of ours is for."""
    return file.removeprefix("intel.com-gpu_").removesuffix(".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class CdiDevice:
    """One device of a spec file: its name, unique on the machine, and the nodes that it injects."""

    name: str
    nodes: tuple[DeviceNode, ...]

    @property
    def qualified(self) -> str:
        """What a runtime is asked for."""
        return f"{KIND}={self.name}"


def render(devices: Sequence[CdiDevice], *, devfs: str) -> bytes:
    """The spec file with these devices, as deterministic JSON.

    With major and minor given a runtime needs no host path; it is only written when devices live elsewhere
    than in /dev.
    """
    spec = {
        "cdiVersion": _BASE_VERSION if devfs == "/dev" else _HOST_PATH_VERSION,
        "kind": KIND,
        "devices": [
            {"name": device.name, "containerEdits": {"deviceNodes": _nodes(device.nodes, devfs)}}
            for device in devices
        ],
    }
    return msgspec.json.format(msgspec.json.encode(spec), indent=2) + b"\n"


def _nodes(nodes: Iterable[DeviceNode], devfs: str) -> list[dict[str, object]]:
    rendered: dict[str, dict[str, object]] = {}
    for node in nodes:
        entry: dict[str, object] = {"path": f"/dev/{node.path}"}
        if devfs != "/dev":
            entry["hostPath"] = f"{devfs}/{node.path}"
        rendered[node.path] = {**entry, "type": "c", "major": node.major, "minor": node.minor}
    return [rendered[path] for path in sorted(rendered)]
