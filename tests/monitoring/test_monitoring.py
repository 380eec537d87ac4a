"""Alert rules and dashboard speak of metrics that there are, in words that Prometheus understands."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.lab.processes import REPOSITORY
from plugin import plugin_metrics
from reconciler.controller import controller_metrics
from reconciler.node import agent_metrics
from reconciler.runtime.kube import measures
from reconciler.runtime.metrics import Kind, Metric
from state.outcomes import Phase

MONITORING = REPOSITORY / "deploy/monitoring"
DECLARED = {
    metric.name: metric
    for metrics in (
        agent_metrics.DECLARED,
        measures.DECLARED,
        controller_metrics.DECLARED,
        plugin_metrics.DECLARED,
    )
    for metric in metrics
}
OF_THE_PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
"""What prometheus_client shows of any process, as far as the dashboard has it."""
OF_THE_SCRAPE = {"job", "instance", "node", "pod", "namespace", "le"}
"""Labels that come with the scrape, or with histograms."""

_METRIC = re.compile(r"\b((?:gpu_|kube_|process_)\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")
_GROUPED = re.compile(r"\b(?:by|without|on)\s*\(([^)]*)\)")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return found


def queries() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel.get("targets", ()))


def metric_of(name: str) -> Metric:
    """The declared metric behind a series' name. KeyError if there is none."""
    bare = re.sub(r"_(bucket|sum|count)$", "", name)
    metric = DECLARED[bare]
    assert (metric.kind is Kind.HISTOGRAM) == (bare != name), name
    return metric


def values_of(label: str) -> set[str] | None:
    """The values a label can have, where they are few."""
    healths = {"Healthy", "Unhealthy", "Unknown"}
    results = {"ok", "failed", "crashed", "prepared", "given back", "conflict"}
    return {"phase": {phase.value for phase in Phase}, "health": healths, "result": results}.get(label)


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_metrics_and_labels_exist(query: str) -> None:
    labels = set(OF_THE_SCRAPE)
    for name, matchers in _METRIC.findall(query):
        own: set[str] = set() if name in OF_THE_PROCESS else set(metric_of(name).labels)
        labels |= own
        for label, value in _MATCHER.findall(matchers):
            assert label in own | OF_THE_SCRAPE, (name, label)
            known = values_of(label)
            assert known is None or set(value.split("|")) <= known, (label, value)
    for grouped in _GROUPED.findall(query):
        assert {label.strip() for label in grouped.split(",")} <= labels, grouped


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for panel in panels() for target in panel.get("targets", ()) for name in _names(target["expr"])}
    assert shown == set(DECLARED)


def _names(query: str) -> set[str]:
    return {metric_of(name).name for name, _ in _METRIC.findall(query) if name not in OF_THE_PROCESS}


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(0 <= column < 24 for column, _ in cells), panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alerts_say_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert len(rule["annotations"]["description"]) > 80
    labels = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert labels <= OF_THE_SCRAPE | {"path"}


def test_every_alert_is_tried() -> None:
    tried = yaml.safe_load((REPOSITORY / "tests/monitoring/alerts_test.yaml").read_text())["tests"][0]
    samples = [sample["labels"] for test in tried["promql_expr_test"] for sample in test["exp_samples"]]
    assert set(re.findall(r'alertname="(\w+)"', " ".join(samples))) == {rule["alert"] for rule in rules()}


def test_prometheus_understands_the_rules_and_fires_them(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (Debian package prometheus)")
    shutil.copy(MONITORING / "alerts.yaml", tmp_path)
    shutil.copy(REPOSITORY / "tests/monitoring/alerts_test.yaml", tmp_path)
    (tmp_path / "dashboard.yaml").write_text(yaml.safe_dump(_as_rules()))
    for words in (("check", "rules", "alerts.yaml", "dashboard.yaml"), ("test", "rules", "alerts_test.yaml")):
        done = subprocess.run((promtool, *words), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _as_rules() -> dict[str, Any]:
    """The dashboard's queries as recording rules, so that promtool parses them too."""
    found = sorted({target["expr"] for panel in panels() for target in panel.get("targets", ())})
    rules = [
        {"record": f"dashboard:query{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(found)
    ]
    return {"groups": [{"name": "dashboard", "rules": rules}]}
