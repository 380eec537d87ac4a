"""The classic mode of Kubernetes 1.31, where a claim names its controller and bears its parameters itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.uses.examples import Examples, dri

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

GPU = "0000-03-00-0-0x56c0"


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path) -> Iterator[Town]:
    with running_town(where, {"node-a": "flex170"}, release="1.31", classic=True, flags=()) as town:
        yield town


def test_two_vfs(examples: Examples) -> None:
    examples.apply("classic/two-vfs-1.31.yaml", "two-vfs")
    assert examples.given("two-vfs") == [f"{GPU}-m8-vf0", f"{GPU}-m8-vf1"]
    assert examples.nodes("two-vfs") == dri(1, 2)
