"""What comes from outside may be anything: no reader crashes, or takes unbounded time or memory.

A bounded sample; `hack/fuzz` searches for as long as one likes, guided by coverage.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract_files import REPOSITORY
from tests.fuzz.campaign import LAST_INPUT
from tests.fuzz.corpora import corpus
from tests.fuzz.targets import TARGETS

EXAMPLES = {"manifest": 200, "cdi": 150, "sysfs": 25}
OTHERS = 400
KEPT = [(target, name) for target in sorted(TARGETS) for name in corpus(target)]


@pytest.mark.parametrize(("target", "name"), KEPT, ids=[f"{target}-{name}" for target, name in KEPT])
def test_kept_input(target: str, name: str, tmp_path: Path) -> None:
    TARGETS[target](tmp_path)(corpus(target)[name])


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_strange_inputs(target: str, tmp_path: Path) -> None:
    run_campaign(tmp_path, target, "--examples", str(EXAMPLES.get(target, OTHERS)))


def test_spoilt_sysfs(tmp_path: Path) -> None:
    run_campaign(tmp_path, "sysfs", "--every", "--step", "199")


def run_campaign(report: Path, *words: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz.campaign", *words, "--report", str(report)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    last = report / LAST_INPUT
    tried = last.read_bytes() if last.exists() else b""
    ended = f"exit status {done.returncode}"
    if done.returncode < 0:
        ended = f"signal {signal.Signals(-done.returncode).name} (SIGXCPU: too much processor time)"
    pytest.fail(f"{ended} with input {tried!r}\n{done.stderr[-6000:]}", pytrace=False)
