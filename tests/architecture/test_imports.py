"""Who may import whom: the contracts in pyproject.toml, and what they cannot say."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.contract_files import REPOSITORY

PRODUCT = ("state", "reconciler", "plugin")
SIMULATOR = ("hack/sim/gpusim", "hack/sim/kubesim")
TESTING = {"conftest", "gpusim", "hack", "kubesim", "hypothesis", "pytest", "tests"}


def modules_below(folders: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((REPOSITORY / folder).rglob("*.py"))


def imported_packages(module: Path) -> set[str]:
    """The top-level names that a module imports anywhere in it; relative imports stay at home."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(), module)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def offenders(folders: tuple[str, ...], forbidden: set[str], but: str | None = None) -> list[str]:
    """Modules that import something forbidden; those whose path begins with `but` may."""
    paths = [(module.relative_to(REPOSITORY).as_posix(), module) for module in modules_below(folders)]
    assert paths, f"no modules below {folders}"
    return [
        f"{path} imports {', '.join(sorted(imported))}"
        for path, module in paths
        if not (but and path.startswith(but)) and (imported := imported_packages(module) & forbidden)
    ]


def test_import_contracts_hold() -> None:
    """In a process of its own: the linter sets up logging anew and switches off the loggers that there are."""
    script = "import sys; from importlinter.cli import lint_imports; "
    script += "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True, no_logo=True))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def test_the_product_does_not_import_tests_or_hack() -> None:
    assert offenders(PRODUCT, TESTING) == []


def test_the_simulator_does_not_import_the_product() -> None:
    assert offenders(SIMULATOR, {*PRODUCT, "tests"}) == []


def test_only_the_kubernetes_edge_imports_the_kubernetes_client() -> None:
    assert offenders(PRODUCT, {"kubernetes"}, but="reconciler/runtime/kube") == []


def test_only_the_plugin_imports_grpc() -> None:
    assert offenders(PRODUCT, {"grpc"}, but="plugin/") == []


def test_no_module_needs_itself() -> None:
    """Imports within functions count: they hide a circle rather than break it."""
    graph = grimp.build_graph(*PRODUCT, cache_dir=None)
    needs = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" needs ".join(error.args[1]), pytrace=False)
