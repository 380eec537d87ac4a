"""What a directory of CDI spec files must be like so that every runtime takes it.

The JSON schema leaves much open; the rest is in the CDI specification: how kinds and devices may be named, that
each device edits something, which version a feature needs, and that no two files name the same device.
"""

import functools
import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.protocols import Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from tests.contract_files import read_json

KIND = "intel.com/gpu"
_DEVICE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
_DIGIT_FIRST, _HOST_PATH, _ANNOTATIONS = "0.5.0", "0.5.0", "0.6.0"
_SPEC_FIELDS = frozenset(("cdiVersion", "kind", "devices"))
_NODE_FIELDS = frozenset(("path", "hostPath", "type", "major", "minor", "permissions"))
_MODE = 0o644

Spec = Mapping[str, Any]


def specs_in(directory: Path) -> dict[str, Spec]:
    """Our spec files by name, decoded."""
    return {path.name: json.loads(path.read_bytes()) for path in sorted(directory.glob("intel.com-gpu_*.json"))}


def broken_rules(directory: Path) -> list[str]:
    """What is wrong with the directory, in words; empty if nothing is."""
    problems: list[str] = []
    owners: dict[str, str] = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            problems.append(f"{path.name}: a temporary was left behind")
            continue
        try:
            spec = json.loads(path.read_bytes())
        except ValueError as error:
            problems.append(f"{path.name}: no JSON: {error}")
            continue
        problems += [f"{path.name}: {problem}" for problem in _problems(path, spec)]
        for device in spec.get("devices", ()):
            before = owners.setdefault(device["name"], path.name)
            if before != path.name:
                problems.append(f"{path.name}: {device['name']} is in {before} too")
    return problems


def _problems(path: Path, spec: Spec) -> Iterator[str]:
    yield from (error.message for error in _schema().iter_errors(spec))
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode != _MODE:
        yield f"mode {mode:o}: runtimes of other users could not read it, or others could write it"
    if spec["kind"] != KIND:
        yield f"kind {spec['kind']!r}"
    if spec["cdiVersion"] not in _VERSIONS:
        yield f"unknown cdiVersion {spec['cdiVersion']!r}"
    if unknown := spec.keys() - _SPEC_FIELDS:
        yield f"fields that we do not write: {sorted(unknown)}"
    names = [device["name"] for device in spec["devices"]]
    if not names or len(names) != len(set(names)):
        yield f"no devices, or some twice: {names}"
    needed = max((_needed_version(device) for device in spec["devices"]), default=_VERSIONS[0])
    if spec["cdiVersion"] != needed:
        yield f"cdiVersion {spec['cdiVersion']}, though {needed} is what its content needs"
    for device in spec["devices"]:
        yield from (f"{device['name']}: {problem}" for problem in _device_problems(device))


def _needed_version(device: Spec) -> str:
    needed = _VERSIONS[0]
    if any("hostPath" in node for node in device["containerEdits"].get("deviceNodes", ())):
        needed = max(needed, _HOST_PATH)
    if not device["name"][:1].isalpha():
        needed = max(needed, _DIGIT_FIRST)
    if "annotations" in device:
        needed = max(needed, _ANNOTATIONS)
    return needed


def _device_problems(device: Spec) -> Iterator[str]:
    if not _DEVICE_NAME.fullmatch(device["name"]):
        yield "is no name for a device"
    if "annotations" in device:
        yield "has annotations"
    edits = device["containerEdits"]
    if edits.keys() != {"deviceNodes"} or not edits["deviceNodes"]:
        yield f"edits {sorted(edits)} instead of some device nodes"
    nodes = edits.get("deviceNodes", ())
    paths = [node["path"] for node in nodes]
    if len(paths) != len(set(paths)):
        yield f"the same path twice: {paths}"
    for node in nodes:
        yield from (f"{node['path']}: {problem}" for problem in _node_problems(node))


def _node_problems(node: Spec) -> Iterator[str]:
    if not node["path"].startswith("/dev/") or ".." in node["path"]:
        yield "is not below /dev"
    if unknown := node.keys() - _NODE_FIELDS:
        yield f"unknown fields {sorted(unknown)}"
    if node.get("type") != "c" or node.get("major", 0) <= 0 or node.get("minor", -1) < 0:
        yield f"is no character device: {node}"
    if not set(node.get("permissions", "rw")) <= set("rwm"):
        yield f"permissions {node['permissions']!r}"


@functools.cache
def _schema() -> Validator:
    registry: Registry[Any] = Registry().with_resource(
        "defs.json", Resource.from_contents(read_json("cdi/defs.json"), default_specification=DRAFT7)
    )
    return jsonschema.Draft7Validator(read_json("cdi/schema.json"), registry=registry)


def nodes_of(spec: Spec, device: str) -> list[str]:
    """The paths that one device of a spec injects."""
    (found,) = (known for known in spec["devices"] if known["name"] == device)
    return [node["path"] for node in found["containerEdits"]["deviceNodes"]]


def names_of(specs: Iterable[Spec]) -> set[str]:
    """The names of all devices in some specs."""
    return {device["name"] for spec in specs for device in spec["devices"]}
