"""Everything an image installs has a wheel for x86-64 and for arm64, whose hash is in the lock file."""

import re
from collections.abc import Iterator

import pytest
from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from tests.contract_files import REPOSITORY
from tests.image import dockerfile

LOCK_FILES = ("requirements.lock", "hack/image/build.lock", "hack/image/simulator.lock")
PIN = re.compile(
    r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\\n]+))? \\\n((?: +--hash=sha256:\w+(?: \\)?\n)+)", re.MULTILINE
)
GLIBC = range(5, 37)  # Debian 12 has 2.36


def image_python() -> tuple[int, int]:
    """Of the default base image."""
    matched = re.search(r"python:3\.(\d+)-", dockerfile.arguments()["BASE_IMAGE"])
    assert matched
    return 3, int(matched[1])


def tags(python: tuple[int, int], machine: str) -> set[Tag]:
    old = ["manylinux2014", *(["manylinux1", "manylinux2010"] if machine == "x86_64" else [])]
    platforms = [f"{name}_{machine}" for name in (*(f"manylinux_2_{minor}" for minor in GLIBC), *old)]
    interpreter = f"cp{python[0]}{python[1]}"
    return {*cpython_tags(python, platforms=platforms), *compatible_tags(python, interpreter, platforms)}


def pins(lock_file: str, environment: dict[str, str]) -> Iterator[tuple[str, str, set[str]]]:
    """Name, version and hashes of what is installed in such an environment."""
    text = (REPOSITORY / lock_file).read_text()
    assert len(PIN.findall(text)) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)) > 0
    for name, version, marker, hashes in PIN.findall(text):
        if not marker or Marker(marker).evaluate(environment):
            yield canonicalize_name(name), version, set(re.findall(r"sha256:(\w+)", hashes))


@pytest.mark.parametrize("python", sorted({(3, 11), (3, 12), (3, 13), (3, 14), image_python()}))
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("lock_file", LOCK_FILES)
def test_every_pin_has_a_wheel(lock_file: str, machine: str, python: tuple[int, int]) -> None:
    lines = (REPOSITORY / "hack/image/wheels.sha256").read_text().splitlines()
    usable = tags(python, machine)
    wheels: dict[tuple[str, str], set[str]] = {}
    for digest, file in (line.split("  ") for line in lines):
        name, version, _, fits = parse_wheel_filename(file)
        if fits & usable:
            wheels.setdefault((name, str(version)), set()).add(digest)
    release = f"{python[0]}.{python[1]}"
    environment = {
        "platform_machine": machine, "python_version": release, "python_full_version": f"{release}.1",
        "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix",
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": "",
    }  # fmt: skip
    without = [
        name
        for name, version, hashes in pins(lock_file, environment)
        if not wheels.get((name, version), set()) & hashes
    ]
    assert without == []


def test_the_images_have_what_is_tested() -> None:
    """Apart from the simulator's own, the versions are those of requirements-dev.lock."""

    def versions(lock_file: str) -> set[tuple[str, str]]:
        return {(name, version) for name, version, _, _ in PIN.findall((REPOSITORY / lock_file).read_text())}

    tested = versions("requirements-dev.lock")
    for lock_file in LOCK_FILES:
        assert versions(lock_file) <= tested
        assert "://" not in (REPOSITORY / lock_file).read_text()
    assert versions("requirements.lock") <= versions("hack/image/simulator.lock")
