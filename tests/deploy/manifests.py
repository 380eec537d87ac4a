"""Manifests as an operator's kubectl renders them."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
OVERLAYS = tuple(sorted(path.parent.name for path in (DEPLOY / "overlays").glob("*/kustomization.yaml")))
NAMESPACE = "intel-gpu-resource-driver"

JsonObject = dict[str, Any]


def rendered(directory: str) -> tuple[JsonObject, ...]:
    """The objects of a kustomization, named from ``deploy``."""
    return tuple(each for each in yaml.load_all(rendered_text(directory), Loader=yaml.CSafeLoader) if each)


@functools.cache
def rendered_text(directory: str) -> str:
    """Raises CalledProcessError where kustomize refuses it."""
    done = subprocess.run(
        ("kubectl", "kustomize", str(DEPLOY / directory)), capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def only(objects: tuple[JsonObject, ...], kind: str, name: str = "") -> JsonObject:
    """The one object of a kind (and name). Raises ValueError if there is none, or several."""
    (found,) = (each for each in objects if each["kind"] == kind and name in ("", each["metadata"]["name"]))
    return found
