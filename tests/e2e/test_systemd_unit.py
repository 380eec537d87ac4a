"""The unit file, as far as systemd's own checker can judge it without running it."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy/systemd/gpu-reconciler.service"


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian package systemd)")
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_systemd_takes_every_line() -> None:
    checked = verify(UNIT)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_systemd_would_tell(tmp_path: Path) -> None:
    """The counter-check: a misspelt directive does not go unnoticed."""
    wrong = tmp_path / UNIT.name
    wrong.write_text(UNIT.read_text().replace("RestartSec=", "RestartSeconds="))
    assert "RestartSeconds" in verify(wrong).stderr


def test_a_stop_outlasts_the_slowest_kernel_write() -> None:
    """Turning off 63 VFs takes over half a minute, and the daemon waits for that."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    assert unit["Service"]["Type"] == "notify"
    assert int(unit["Service"]["TimeoutStopSec"]) > 63 * 0.5 + 1
