"""Starting up: a question is answered with no more than it needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract_files import REPOSITORY
from tests.unit.cli.statuses import write_status

SLOW = (
    "asyncio",
    "kubernetes",
    "prometheus_client",
    "pyudev",
    "reconciler.node.agent",
    "state.planning",
    "tenacity",
)
"""Modules that take long to import, and that neither help nor ``status`` needs."""


def imported(*words: str) -> set[str]:
    """The modules that a run of the command line imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "reconciler.cli", *words],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
    }


@pytest.mark.parametrize("command", ["--help", "status --help", "status", "status -o json"])
def test_quick_answers_import_little(command: str, tmp_path: Path) -> None:
    modules = imported(*write_status(tmp_path), *command.split())
    assert "reconciler.cli.entry" in modules
    assert modules.isdisjoint((*SLOW, "yaml"))


def test_the_installed_command_runs_main() -> None:
    script = (REPOSITORY / "pyproject.toml").read_text()
    assert 'gpu-reconciler = "reconciler.cli:main"' in script
