"""Every name in the documentation is that of something: a file, link, flag, command, metric, value or function."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from gpusim import cli as simulator
from plugin import plugin_metrics
from reconciler.cli import arguments, kubectl_gpu_arguments
from reconciler.controller import controller_metrics
from reconciler.node import agent_metrics
from reconciler.runtime.kube import measures
from reconciler.runtime.metrics import Metric
from state import happenings
from tests.contract_files import REPOSITORY
from tests.docs.documents import OURS, document, in_code, rows

CHART = REPOSITORY / "deploy/helm/intel-gpu-resource-driver"
FOREIGN_FLAGS = {
    "pip": {"--require-hashes", "--no-deps", "--only-binary"},
    "kubectl and helm": {"--clusterrole", "--group", "--create-namespace", "--set"},
    "podman": {"--device"},
    "hack/demo": {"--cluster"},
    "Intel's Go driver, for those who come from it": {
        "--cdi-root",
        "--health-monitoring",
        "--healthcheck-port",
        "--manage-binding",
    },
}
"""Flags of other programs."""
OTHER_FILES = {"node.yaml", "gns.yaml", "desired.yaml", "plan.yaml"}
"""Files of the reader's own, and of tests."""

_PATH = re.compile(r"(?<![\w./-])(?:deploy|doc|hack|plugin|proto|reconciler|state|tests)/[\w./-]+")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


@pytest.mark.parametrize("path", [*OURS, "doc/BENCHMARKS.md"])
def test_links_lead_somewhere(path: str) -> None:
    for target in document(path).links():
        file, _, anchor = target.partition("#")
        there = (REPOSITORY / path).parent / file if file else REPOSITORY / path
        assert there.exists(), target
        if anchor:
            assert anchor in document(str(there.resolve().relative_to(REPOSITORY))).anchors(), target


@pytest.mark.parametrize("path", OURS)
def test_files_exist(path: str) -> None:
    named = {found.rstrip(".") for code in document(path).code() for found in _PATH.findall(code)}
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []


@pytest.mark.parametrize("path", OURS)
def test_examples_exist(path: str) -> None:
    """Manifests that are named without their folder."""
    known = {file.name for file in (REPOSITORY / "deploy").rglob("*.yaml")} | OTHER_FILES
    named = {code for code in document(path).code() if re.fullmatch(r"[\w.-]+\.yaml", code)}
    assert sorted(named - known) == []


def test_the_manual_has_every_example() -> None:
    named = set(re.findall(r"[\w.-]+\.yaml", document("doc/USAGE.md").prose))
    assert sorted({file.name for file in (REPOSITORY / "deploy/examples").rglob("*.yaml")} - named) == []


def test_the_manual_has_every_overlay() -> None:
    named = {word for code in document("doc/USAGE.md").code() for word in re.split(r"[\s/]", code)}
    assert {file.parent.name for file in (REPOSITORY / "deploy/overlays").glob("*/kustomization.yaml")} <= named


def _flags_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _flags_of(command)


@cache
def _flags() -> frozenset[str]:
    parsers = (arguments._parser(), kubectl_gpu_arguments._parser(), simulator._parser())
    return frozenset(flag for parser in parsers for flag in _flags_of(parser))


@pytest.mark.parametrize("path", OURS)
def test_flags_exist(path: str) -> None:
    known = _flags().union(*FOREIGN_FLAGS.values())
    found = {flag for code in document(path).code() for flag in _FLAG.findall(code)}
    assert sorted(found - known) == []


def _commands_of(parser: argparse.ArgumentParser) -> set[str]:
    subparsers = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name for action in subparsers for name in action.choices}


@pytest.mark.parametrize("path", OURS)
def test_commands_exist(path: str) -> None:
    for program, parser in (
        ("gpu-reconciler", arguments._parser()),
        ("kubectl gpu", kubectl_gpu_arguments._parser()),
    ):
        said = {
            word
            for code in document(path).code()
            for word in re.findall(rf"(?<![\w/.-]){program} ([a-z]+)\b(?![/:.])", code)
        }
        assert sorted(said - _commands_of(parser)) == []


def test_the_readme_has_every_command() -> None:
    listed = " ".join(document("README.md").code())
    assert [name for name in _commands_of(arguments._parser()) if name not in listed.split()] == []


@pytest.mark.parametrize("path", OURS)
def test_make_targets_exist(path: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    lines = [code.split() for code in document(path).code() if code.startswith("make ")]
    assert [word for line in lines for word in line[1:] if "=" not in word and word not in targets] == []


METRICS: tuple[Metric, ...] = (
    *agent_metrics.DECLARED,
    *plugin_metrics.DECLARED,
    *(metric for metric in controller_metrics.DECLARED if metric not in measures.DECLARED),
    *measures.DECLARED,
)


def test_every_metric_is_described_with_its_labels() -> None:
    described = {
        in_code(name)[0]: tuple(in_code(labels))
        for name, labels, _ in (row for row in rows(document("doc/OPERATIONS.md").section("Metrics")))
    }
    assert described == {metric.name: metric.labels for metric in METRICS}


@pytest.mark.parametrize("path", OURS)
def test_metrics_exist(path: str) -> None:
    prefixes = r"gpu_reconciler|gpu_plugin|gpu_controller|kube_requests|kube_watch|kube_relists"
    named = set(re.findall(rf"\b(?:{prefixes})_\w+", document(path).text))
    assert sorted(named - {metric.name for metric in METRICS}) == []


def test_every_alert_is_described() -> None:
    groups = yaml.safe_load((REPOSITORY / "deploy/monitoring/alerts.yaml").read_text())["groups"]
    alerts = sorted(rule["alert"] for group in groups for rule in group["rules"])
    described = rows(document("doc/OPERATIONS.md").section("Alerts"))
    assert sorted(name for alert, _ in described for name in in_code(alert)) == alerts


def test_every_reason_of_an_event_exists() -> None:
    table = rows(document("doc/OPERATIONS.md").section("Logs and events"))
    named = {name for _, reasons in table for name in in_code(reasons)}
    sources = [*(REPOSITORY / "reconciler").rglob("*.py"), Path(happenings.__file__)]
    words = {word for file in sources for word in re.findall(r'"([A-Z]\w+)"', file.read_text())}
    made_up = {f"Device{health}" for health in ("Healthy", "Unhealthy", "Unknown")}
    assert named - made_up - words == set()
    assert made_up < named


def test_values_of_the_chart_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    table = document("doc/USAGE.md").section("Installing in a cluster").partition("| value |")[2]
    for name in (name for row in rows("| value |" + table) for name in in_code(row[0])):
        found = values
        for part in name.split("."):
            found = found[part]  # a KeyError names it


def test_policies_exist() -> None:
    texts = "".join(file.read_text() for file in (REPOSITORY / "deploy/policies").glob("*.yaml"))
    kinds = (one for one in yaml.safe_load_all(texts.replace("\napiVersion:", "\n---\napiVersion:")) if one)
    policies = {one["metadata"]["name"] for one in kinds if one["kind"] == "ValidatingAdmissionPolicy"}
    assert set(re.findall(r"`(gpu-[\w.-]+\.gpu\.dra\.intel\.com)`", document("doc/SECURITY.md").text)) == policies


_DOTTED = re.compile(r"(?:state|reconciler|plugin)(?:\.[a-z_]+)+(?:\.\w+)*")


@cache
def _defined(file: Path) -> frozenset[str]:
    """Names that a module defines, methods as Class.method."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.ClassDef():
                names |= {node.name} | {
                    f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)
                }
            case ast.FunctionDef():
                names.add(node.name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case _:
                pass
    return frozenset(names)


def _is_there(dotted: str) -> bool:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        where, name = REPOSITORY.joinpath(*parts[:length]), ".".join(parts[length:])
        if not name and (where.is_dir() or where.with_suffix(".py").exists()):
            return True
        if name and where.with_suffix(".py").exists():
            return name in _defined(where.with_suffix(".py"))
    return False


def test_the_code_that_is_walked_through_exists() -> None:
    text = document("doc/ARCHITECTURE.md")
    dotted = [code for code in text.code() if _DOTTED.fullmatch(code)]
    assert len(dotted) > 20
    assert [name for name in dotted if not _is_there(name)] == []
    methods = [code for code in text.code() if re.fullmatch(r"[A-Z]\w+\.[a-z_]+", code)]
    modules = [file for folder in ("reconciler", "plugin") for file in (REPOSITORY / folder).rglob("*.py")]
    known = frozenset[str]().union(*(_defined(file) for file in modules))
    assert sorted(set(methods) - known) == []
