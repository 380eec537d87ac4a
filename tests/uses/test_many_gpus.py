"""Uses that choose among GPUs: two that are near each other, one of a family, all of a node to look on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.uses.examples import Examples, dri

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

TWO_ON_ONE_ROOT = ["0000-4d-00-0-0x56c1", "0000-50-00-0-0x56c1"]
OTHERS_ON_ONE_ROOT = ["0000-29-00-0-0x56c1", "0000-2c-00-0-0x56c1"]
FLEX_170 = "0000-1a-00-0-0x56c0"


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path) -> Iterator[Town]:
    """A card with two GPUs; and eight GPUs of many kinds, two of them below one root, one without a driver."""
    with running_town(where, {"node-a": "flex140", "node-b": "mixed"}) as town:
        yield town


def test_two_gpus_on_one_pcie_root(examples: Examples) -> None:
    examples.apply("two-gpus-on-one-pcie-root.yaml", "two-gpus")
    assert examples.pod("two-gpus")["spec"]["nodeName"] == "node-a"
    assert sorted(examples.given("two-gpus")) == TWO_ON_ONE_ROOT
    assert examples.nodes("two-gpus") == dri(0, 1)
    assert len({examples.gpu("node-a", gpu)["pcieRoot"] for gpu in TWO_ON_ONE_ROOT}) == 1
    examples.apply_pod_again("two-gpus-on-one-pcie-root.yaml", "two-gpus", to="next")
    examples.until_running("next")
    assert sorted(examples.given("next")) == OTHERS_ON_ONE_ROOT
    examples.apply_pod_again("two-gpus-on-one-pcie-root.yaml", "two-gpus", to="third")
    examples.until_unschedulable("third")  # though many more are free, each below a root of its own
    examples.delete_pod("two-gpus")
    examples.until_running("third")


def test_gpu_by_family_and_memory(examples: Examples) -> None:
    examples.apply("gpu-by-family-and-memory.yaml", "flex-12gi")
    assert examples.given("flex-12gi") == [FLEX_170]
    gpu = examples.gpu("node-b", FLEX_170)
    assert examples.nodes("flex-12gi") == {f"/dev/{path}" for path in gpu["nodes"]["drm"]}
    examples.apply_pod_again("gpu-by-family-and-memory.yaml", "flex-12gi", to="next")
    examples.until_unschedulable("next")  # the others of the family have 6 GiB


def test_monitor_of_all_gpus(examples: Examples) -> None:
    examples.apply("gpu-by-family-and-memory.yaml", "flex-12gi")
    examples.apply("two-gpus-on-one-pcie-root.yaml", "two-gpus")
    examples.apply("monitor.yaml", "monitor", namespace="gpu-monitoring")
    assert examples.pod("monitor", "gpu-monitoring")["spec"]["nodeName"] == "node-a"
    assert sorted(examples.given("monitor", "gpu-monitoring")) == [f"{gpu}-monitor" for gpu in TWO_ON_ONE_ROOT]
    seen = examples.nodes("monitor", namespace="gpu-monitoring")
    assert seen == dri(0, 1) | {"/dev/mei0", "/dev/mei1"}
    assert examples.nodes("two-gpus") == dri(0, 1)
    examples.delete("monitor.yaml")
    assert examples.given("two-gpus") == TWO_ON_ONE_ROOT
