"""What a container runtime makes of CDI device ids: device nodes and environment, from the specs it finds."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from kubesim.values import Object, objects


class Unresolvable(Exception):
    """There is no such CDI device; a container that wants it can't be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What a container gets: paths of device nodes inside it, and variables as NAME=value."""

    nodes: tuple[str, ...]
    environment: tuple[str, ...]

    def shown(self) -> Object:
        return {"nodes": list(self.nodes), "env": list(self.environment)}


def edits(ids: Iterable[str], directories: Iterable[Path]) -> Edits:
    """What these ids add to a container. Raises Unresolvable, naming all ids there are no devices for."""
    specs = [spec for directory in directories for spec in _specs(directory)]
    nodes: list[str] = []
    environment: list[str] = []
    missing: list[str] = []
    for name in ids:
        found = _device(name, specs)
        if found is None:
            missing.append(name)
            continue
        for part in found:
            nodes += [each["path"] for each in objects(part.get("deviceNodes"))]
            environment += part.get("env") or []
    if missing:
        raise Unresolvable(f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}")
    return Edits(nodes=tuple(dict.fromkeys(nodes)), environment=tuple(dict.fromkeys(environment)))


def _device(name: str, specs: list[Object]) -> list[Object] | None:
    """The edits of a device and of its spec; of several specs with this device the last counts."""
    kind, _, short = name.partition("=")
    for spec in reversed(specs):
        if spec.get("kind") == kind:
            for device in objects(spec.get("devices")):
                if device.get("name") == short:
                    return [spec.get("containerEdits") or {}, device.get("containerEdits") or {}]
    return None


def _specs(directory: Path) -> Iterator[Object]:
    """The specs of a directory; like runtimes, skip what can't be read."""
    for path in sorted(directory.glob("*")):
        try:
            if path.suffix == ".json":
                spec = json.loads(path.read_bytes())
            elif path.suffix in (".yaml", ".yml"):
                spec = yaml.safe_load(path.read_bytes())
            else:
                continue
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(spec, dict):
            yield spec
