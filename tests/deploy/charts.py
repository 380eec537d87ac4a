"""The Helm chart, linted and rendered by Helm's own engine (package helm-python-sdk), in a process of its own.

Not in this one: the engine brings Go's runtime and threads along.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.deploy.manifests import DEPLOY, NAMESPACE, JsonObject

CHART = DEPLOY / "helm/intel-gpu-resource-driver"
HELM_IS_HERE = importlib.util.find_spec("helm_python") is not None
RELEASE_NAME = "gpu"

_PROGRAM = """
import json, sys
import helm_python
chart, namespace, release, kubernetes, values = *sys.argv[1:5], json.loads(sys.argv[5])
lint = helm_python.lint(chart, values, strict=True, namespace=namespace, kube_version=f"v{kubernetes}.0")
with helm_python.Chart.load(chart) as loaded:
    try:
        loaded.validate_schema(values)
        found = loaded.render(values, name=release, namespace=namespace)
        problem = ""
    except helm_python.HelmError as error:
        found, problem = {}, str(error)
print(json.dumps({"lint": lint, "rendered": found, "problem": problem}))
"""

_BY_HELM = frozenset({"app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "helm.sh/chart"})


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a chart and values come to; ``problem`` says why they come to nothing."""

    objects: tuple[JsonObject, ...]
    notes: str
    complaints: tuple[str, ...]
    problem: str


def rendering(
    values: Mapping[str, Any] | None = None, namespace: str = NAMESPACE, release: str = "1.36"
) -> Rendering:
    """Lint the chart for a release of Kubernetes, and render it with these values over its own."""
    return _rendering(json.dumps(values or {}), namespace, release)


@functools.cache
def _rendering(values: str, namespace: str, release: str) -> Rendering:
    command = (sys.executable, "-c", _PROGRAM, str(CHART), namespace, RELEASE_NAME, release, values)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    files: dict[str, str] = found["rendered"]
    manifests = [text for name, text in sorted(files.items()) if not name.endswith("NOTES.txt")]
    objects = [each for text in manifests for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]
    severe = [each for each in found["lint"]["messages"] if each["severity"] > 1]
    return Rendering(
        objects=tuple(objects),
        notes="".join(text for name, text in files.items() if name.endswith("NOTES.txt")),
        complaints=(*(each["error"] for each in severe), *found["lint"]["errors"]),
        problem=found["problem"],
    )


def without_helms_labels(objects: tuple[JsonObject, ...]) -> dict[tuple[str, str], JsonObject]:
    """Objects by kind and name as kustomize would render them: no labels of Helm's, arguments in one order."""
    found = {}
    for each in objects:
        bare: JsonObject = json.loads(json.dumps(each))
        labels = {k: v for k, v in bare["metadata"].pop("labels", {}).items() if k not in _BY_HELM}
        bare["metadata"]["labels"] = labels
        pod = bare.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", ()):
            container["args"].sort()
            container.pop("imagePullPolicy", None)
        found[bare["kind"], bare["metadata"]["name"]] = bare
    return found
