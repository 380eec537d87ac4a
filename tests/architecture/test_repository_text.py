"""No file of the repository names a place on somebody's machine or a package registry."""

import re
import shutil
import subprocess

import pytest

from tests.contract_files import REPOSITORY

LOCAL_PLACES = re.compile(
    r"(?<![\w.$}-])/(?:work|farm|home/\w+|opt/pypi[\w-]*|Users/\w+)/"  # a path that only one machine has
    r"|https?://\S+/simple\b|\bindex-url\b\S*[ =]+\S*://"  # a package index
    r"|\bpypi\.org\b|\bpythonhosted\.org\b|\bregistry\.npmjs\b"
)


def committed_files() -> list[str]:
    """Paths that git tracks; skips the test where there is no git or no repository."""
    if not shutil.which("git") or not (REPOSITORY / ".git").exists():
        pytest.skip("needs git and a git repository: looks at the files that git tracks")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.split("\0") if path]


def test_no_local_places() -> None:
    found = []
    for path in committed_files():
        content = (REPOSITORY / path).read_bytes() if (REPOSITORY / path).is_file() else b""
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            if match := LOCAL_PLACES.search(line):
                found.append(f"{path}:{number}: {match[0]}")
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "cd /wo" + "rk/main",
        "file:///op" + "t/pypi/simple",
        "--index-ur" + "l https://mirror.example/root",
        "https://mirror.example/root/simp" + "le/",
        "see https://py" + "pi.org/project/x",
    ],
)
def test_local_places_are_recognised(text: str) -> None:
    assert LOCAL_PLACES.search(text)


@pytest.mark.parametrize(
    "text", ["/sys/kernel/work/x", "docs/work/plan.md", "$HOME/work/x", "a simple https://x.example/"]
)
def test_other_text_is_not(text: str) -> None:
    assert not LOCAL_PLACES.search(text)
