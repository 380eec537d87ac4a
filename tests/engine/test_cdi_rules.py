"""The checker of CDI directories finds what it is there to find."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cdi_rules import broken_rules

NAME = "intel.com-gpu_alloc-a.json"
GOOD: dict[str, Any] = {
    "cdiVersion": "0.3.0",
    "kind": "intel.com/gpu",
    "devices": [
        {
            "name": "a",
            "containerEdits": {
                "deviceNodes": [{"path": "/dev/dri/card0", "type": "c", "major": 226, "minor": 0}],
            },
        }
    ],
}


def write(directory: Path, spec: object, name: str = NAME) -> Path:
    path = directory / name
    path.write_text(json.dumps(spec))
    path.chmod(0o644)
    return path


def device(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec["devices"][0]
    return found


def node(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = device(spec)["containerEdits"]["deviceNodes"][0]
    return found


def test_a_good_directory(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert broken_rules(tmp_path) == []


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda spec: spec.update(kind="intel.com/npu"), id="kind"),
        pytest.param(lambda spec: spec.update(cdiVersion="0.5.0"), id="higher-version-than-needed"),
        pytest.param(lambda spec: spec.update(cdiVersion=3), id="schema"),
        pytest.param(lambda spec: spec.update(containerEdits={}), id="edits-for-all"),
        pytest.param(lambda spec: spec.update(devices=[]), id="no-devices"),
        pytest.param(lambda spec: spec["devices"].append(device(spec)), id="a-name-twice"),
        pytest.param(lambda spec: device(spec).update(name="a/b"), id="name"),
        pytest.param(lambda spec: device(spec).update(annotations={"a": "b"}), id="annotations"),
        pytest.param(lambda spec: device(spec).update(containerEdits={}), id="no-edits"),
        pytest.param(lambda spec: node(spec).update(path="/sys/x"), id="path"),
        pytest.param(lambda spec: node(spec).update(hostPath="/elsewhere/dri/card0"), id="host-path-at-0.3.0"),
        pytest.param(lambda spec: node(spec).update(major=0), id="no-device"),
        pytest.param(lambda spec: node(spec).update(permissions="rwx"), id="permissions"),
    ],
)
def test_a_bad_file(spoil: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    spec = copy.deepcopy(GOOD)
    spoil(spec)
    write(tmp_path, spec)
    assert broken_rules(tmp_path) != []


def test_a_bad_directory(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    other = write(tmp_path, GOOD, "intel.com-gpu_alloc-b.json")
    assert broken_rules(tmp_path) == [f"{other.name}: a is in {NAME} too"]
    other.unlink()
    (tmp_path / NAME).chmod(0o600)
    assert "mode 600" in broken_rules(tmp_path)[0]
    (tmp_path / NAME).chmod(0o644)
    (tmp_path / ".tmp-1").touch()
    assert broken_rules(tmp_path) == [".tmp-1: a temporary was left behind"]
