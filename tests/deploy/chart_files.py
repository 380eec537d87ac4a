"""The chart's copies of what the kustomizations have: Helm takes nothing from outside of a chart.

To renew them: ``python -m tests.deploy.chart_files``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.deploy.charts import CHART
from tests.deploy.manifests import DEPLOY

PLACES: Mapping[str, tuple[str, ...]] = {
    "crds": ("crd/*.yaml",),
    "files": (
        "base/bindings.yaml",
        "base/people-roles.yaml",
        "overlays/health-monitoring/pod-monitors.yaml",
        "overlays/nfd/node-feature-rule.yaml",
        "overlays/openshift/security-context-constraints.yaml",
    ),
    "files/classes": ("classes/*.yaml",),
    "files/classic": ("overlays/classic-1.26/*-role.yaml",),
    "files/policies": ("policies/node-*.yaml",),
    "files/structured": ("base/controller-role.yaml", "base/node-role.yaml"),
}
"""Directories of the chart, and what is copied there, from below ``deploy``."""


def copies() -> dict[Path, Path]:
    """Every copy with its original."""
    return {
        CHART / place / source.name: source
        for place, patterns in PLACES.items()
        for pattern in patterns
        for source in sorted(DEPLOY.glob(pattern))
    }


if __name__ == "__main__":
    for place in PLACES:
        for old in (CHART / place).glob("*.yaml"):
            old.unlink()
    for copy, original in copies().items():
        copy.write_text(original.read_text())
