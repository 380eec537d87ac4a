"""One GPU on older servers, where fewer fields are known and GPUs are published whole."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.uses.examples import Examples, dri

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

ROWS = {"1.31": "one-gpu-1.31.yaml", "1.32": "one-gpu-1.32.yaml", "1.34": "one-gpu.yaml"}
GPU = "0000-03-00-0-0x56c0"


@pytest.fixture(name="release", scope="module", params=ROWS)
def fixture_release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path, release: str) -> Iterator[Town]:
    with running_town(where / release, {"node-a": "flex170"}, release=release, flags=()) as town:
        yield town


def test_one_gpu(examples: Examples, release: str) -> None:
    file = ROWS[release]
    examples.apply(file, "one-gpu")
    assert examples.given("one-gpu") == [GPU]
    assert examples.nodes("one-gpu") == dri(0)
    examples.apply_pod_again(file, "one-gpu", to="next")
    examples.until_unschedulable("next")
    examples.delete_pod("one-gpu")
    examples.until_running("next")
