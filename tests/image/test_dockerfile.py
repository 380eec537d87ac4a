"""The Dockerfile fits what it builds from; hack/image-check builds and runs it."""

import importlib
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from setuptools import find_namespace_packages  # type: ignore[import-untyped]

from tests.contract_files import REPOSITORY
from tests.image import dockerfile
from tests.image.dockerfile import Stage, lineage, stages, words

PRODUCT, SIMULATOR = "gpu-reconciler", "simulator"


def project(path: str) -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / path).read_text())


def final(name: str) -> list[Stage]:
    return lineage(stages()[name])


@pytest.mark.parametrize("stage", stages().values(), ids=stages())
def test_what_is_copied_exists_and_reaches_the_build(stage: Stage) -> None:
    ignored = (REPOSITORY / ".containerignore").read_text().split("\n")
    assert "*" in ignored
    for source, _ in stage.copied():
        assert (REPOSITORY / source).exists(), source
        parents = {str(p) for p in (Path(source), *Path(source).parents)}
        assert parents & {line.removeprefix("!") for line in ignored if line.startswith("!")}, source


def test_nothing_else_reaches_the_build() -> None:
    allowed = {line[1:] for line in (REPOSITORY / ".containerignore").read_text().split("\n") if line[:1] == "!"}
    copied = {source for stage in stages().values() for source, _ in stage.copied()}
    assert {entry for entry in allowed if not any(Path(c).is_relative_to(entry) for c in copied)} == set()


def test_docker_ignores_the_same_as_the_others() -> None:
    assert (REPOSITORY / ".dockerignore").read_text() == (REPOSITORY / ".containerignore").read_text()


@pytest.mark.parametrize(("root", "target"), [(".", "/source/"), ("hack/sim", "/source/sim")])
def test_every_package_is_in_the_wheel_and_in_the_build(root: str, target: str) -> None:
    patterns = project(f"{root}/pyproject.toml")["tool"]["setuptools"]["packages"]["find"]["include"]
    listed = {name.replace(".", "/") for name in find_namespace_packages(str(REPOSITORY / root), include=patterns)}
    copied = {source for stage in stages().values() for source, to in stage.copied() if to.startswith(target)}
    for package in listed:
        path = Path(root, package)
        assert any(path.is_relative_to(source) for source in copied), f"{path} is not copied"
    on_disk = {
        found.parent.relative_to(REPOSITORY / root).as_posix()
        for first in {name.split("/")[0] for name in listed}
        for found in (REPOSITORY / root / first).rglob("*.py")
    }
    assert on_disk <= listed


@pytest.mark.parametrize("root", [".", "hack/sim"])
def test_every_data_file_is_in_the_wheel(root: str) -> None:
    settings = project(f"{root}/pyproject.toml")["tool"]["setuptools"]
    taken = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (REPOSITORY / root / package.replace(".", "/")).glob(pattern)
    }
    present = {
        path
        for package in settings["packages"]["find"]["include"]
        for path in (REPOSITORY / root / package.rstrip("*")).rglob("*")
        if path.suffix in {".yaml", ".gz", ".json", ".service", ".typed"}
    }
    assert present
    assert present <= taken


def test_the_entry_points_exist() -> None:
    scripts = project("pyproject.toml")["project"]["scripts"]
    assert words(*stages()[PRODUCT].all("ENTRYPOINT"))[0] in scripts
    assert {"gpu-reconciler", "kubectl-gpu"} <= scripts.keys()
    for target in [*scripts.values(), *project("hack/sim/pyproject.toml")["project"]["scripts"].values()]:
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_simulator_shows_the_tour() -> None:
    stage = stages()[SIMULATOR]
    program, script = words(*stage.all("CMD"))
    assert program == "python3"
    targets = {to + Path(source).name if to.endswith("/") else to for source, to in stage.copied()}
    assert script in targets
    assert "/demo/hack/lab" in targets
    assert stage.pairs("ENV")["PYTHONPATH"] == "/demo"


def test_the_base_image_is_an_argument() -> None:
    base = dockerfile.arguments()["BASE_IMAGE"]
    assert re.fullmatch(r"\S+/python:3\.\d+-slim-[a-z]+", base), base
    known = stages()
    assert {s.base for s in known.values()} - known.keys() == {"${BASE_IMAGE}"}


@pytest.mark.parametrize("name", [PRODUCT, SIMULATOR])
def test_what_ships_is_built_elsewhere(name: str) -> None:
    commands = " ".join(rest for stage in final(name) for rest in stage.all("RUN"))
    assert not re.search(
        r"\b(gcc|g\+\+|clang|build-essential|make|\w+-dev|pip install|-m pip|pip wheel)\b", commands
    )
    assert "ensurepip" in commands
    assert not {stage.name for stage in final(name)} & {"build", "build-product", "build-simulator"}


def test_every_installation_is_by_hash() -> None:
    installed = [
        words_of
        for stage in stages().values()
        for rest in stage.all("RUN")
        for words_of in rest.split("&&")
        if " install --quiet" in words_of and "apt-get" not in words_of
    ]
    assert len(installed) >= 5
    for command in installed:
        own_wheel = "--no-deps /wheels/" in command
        assert own_wheel or "--require-hashes --only-binary :all: -r /locks/" in " ".join(command.split()), command


def test_labels_environment_and_user() -> None:
    labels: dict[str, str] = {}
    environment: dict[str, str] = {}
    for stage in reversed(final(PRODUCT)):
        labels |= stage.pairs("LABEL")
        environment |= stage.pairs("ENV")
    known = {"title", "description", "licenses", "version", "revision", "base.name"}
    assert labels.keys() == {f"org.opencontainers.image.{name}" for name in known}
    assert labels["org.opencontainers.image.licenses"] == project("pyproject.toml")["project"]["license"]
    assert environment["PYTHONSAFEPATH"] == "1"
    assert environment["PATH"].startswith("/opt/gpu-reconciler/bin:")
    (user,) = stages()[PRODUCT].all("USER")
    assert int(user.split(":")[0]) > 0


def test_the_product_is_what_is_built_by_default() -> None:
    assert [*stages()][-1] == PRODUCT


def test_make_passes_names_on(tmp_path: Path) -> None:
    """The tool's command line, as a program that only prints it gets it."""
    tool = tmp_path / "tool"
    tool.write_text('#!/bin/sh\n[ "$1" = info ] || echo "$@"\n')
    tool.chmod(0o755)

    def printed(*asked: str) -> str:
        command = ["make", "--silent", "--directory", str(REPOSITORY), f"CONTAINER_TOOL={tool}", *asked]
        environment = {"PATH": os.environ["PATH"]}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    version = project("pyproject.toml")["project"]["version"]
    words = printed("container-build").split()
    assert words[0] == "build"
    assert f"registry.local/intel-gpu-resource-driver:v{version}" in words
    assert f"BASE_IMAGE={dockerfile.arguments()['BASE_IMAGE']}" in words
    names = ["REGISTRY=r.example:5000", "IMAGENAME=n", "IMAGE_VERSION=v9"]
    assert printed("container-push", *names) == "push r.example:5000/n:v9\n"
    whole = ["IMAGE_TAG=r.example:5000/n:v8", "IMAGE_TARGET=simulator"]
    assert printed("container-push", *whole) == "push r.example:5000/n-simulator:v8\n"
    built = printed("container-build", *whole, "BASE_IMAGE=b:1", "CONTAINER_BUILD_FLAGS=--pull").split()
    assert {"r.example:5000/n-simulator:v8", "BASE_IMAGE=b:1", "VERSION=v8", "--pull", "simulator"} <= {*built}
