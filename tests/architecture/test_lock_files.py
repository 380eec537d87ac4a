"""The lock files pin everything, agree with each other and do not say where packages come from."""

import re
import tomllib

import pytest

from tests.contract_files import REPOSITORY

LOCK_FILES = ("requirements.lock", "requirements-dev.lock")


def pins(lock_file: str) -> dict[str, str]:
    """Package name to the rest of its line: version and environment marker."""
    text = (REPOSITORY / lock_file).read_text()
    return dict(re.findall(r"^([\w.-]+)==([^\\\n]+)", text, re.MULTILINE))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", r, maxsplit=1)[0].lower().replace("_", "-") for r in requirements}


def test_the_tools_are_tested_with_what_ships() -> None:
    assert pins("requirements.lock").items() <= pins("requirements-dev.lock").items()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert names(project["project"]["dependencies"]) <= pins("requirements.lock").keys()
    assert names(project["dependency-groups"]["dev"]) <= pins("requirements-dev.lock").keys()


@pytest.mark.parametrize("lock_file", LOCK_FILES)
def test_every_pin_has_hashes_and_none_a_url(lock_file: str) -> None:
    text = (REPOSITORY / lock_file).read_text()
    assert len(re.findall(r"^\S+==.*\\\n +--hash=sha256:", text, re.MULTILINE)) == len(pins(lock_file)) > 0
    assert "://" not in text
