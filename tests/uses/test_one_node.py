"""What one Flex 170 can be to pods: whole, shared, or split, one after the other, by the examples as they are."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.uses.examples import Examples, dri

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

GPU, ADDRESS = "0000-03-00-0-0x56c0", "0000:03:00.0"


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path) -> Iterator[Town]:
    with running_town(where, {"node-a": "flex170"}) as town:
        yield town


def num_vfs(examples: Examples) -> int:
    return examples.town.lab.machines["node-a"].num_vfs(ADDRESS)


def is_passthrough(nodes: frozenset[str]) -> bool:
    """Whether a container has one group's node, one device's, VFIO's own, and nothing else."""
    return sorted(re.sub(r"\d+$", "N", path) for path in nodes) == [
        "/dev/vfio/N",
        "/dev/vfio/devices/vfioN",
        "/dev/vfio/vfio",
    ]


def test_one_gpu(examples: Examples) -> None:
    examples.apply("one-gpu.yaml", "one-gpu")
    assert examples.devices("one-gpu") == [GPU]
    assert examples.nodes("one-gpu") == dri(0)
    assert examples.given("one-gpu") == [GPU]
    entry = examples.on_node("one-gpu")
    assert entry["cdiDevices"] == [f"intel.com/gpu=claim-{entry['name']}-0"]
    examples.apply_pod_again("one-gpu.yaml", "one-gpu", to="next")
    examples.until_unschedulable("next")
    examples.delete_pod("one-gpu")
    examples.until_running("next")


def test_shared_by_memory(examples: Examples) -> None:
    examples.apply("shared-by-memory.yaml", "share-a", "share-b")
    for pod in ("share-a", "share-b"):
        assert examples.devices(pod) == [f"{GPU}-shared"]
        assert examples.nodes(pod) == dri(0)
        assert examples.given(pod) == [f"{GPU}-shared"]
    examples.apply_pod_again("shared-by-memory.yaml", "share-a", to="third")
    examples.until_running("third")
    examples.apply_pod_again("shared-by-memory.yaml", "share-a", to="fourth")  # 16 GiB are more than there is
    examples.until_unschedulable("fourth")
    examples.delete_pod("share-b")
    examples.until_running("fourth")


def test_one_vf(examples: Examples) -> None:
    examples.apply("one-vf.yaml", "one-vf")
    assert examples.devices("one-vf") == [f"{GPU}-m16"]
    assert examples.nodes("one-vf") == dri(1)
    assert examples.given("one-vf") == [f"{GPU}-m16-vf0"]
    assert num_vfs(examples) == 16
    examples.apply_pod_again("one-vf.yaml", "one-vf", to="next")
    examples.until_running("next")
    assert examples.nodes("next") == dri(2)
    examples.apply("one-gpu.yaml")
    examples.until_unschedulable("one-gpu")


def test_eight_vfs_of_one_gpu(examples: Examples) -> None:
    examples.apply("eight-vfs-of-one-gpu.yaml", "eight-vfs")
    assert examples.devices("eight-vfs") == [f"{GPU}-m8"] * 8
    assert examples.nodes("eight-vfs") == dri(*range(1, 9))
    assert examples.given("eight-vfs") == [f"{GPU}-m8-vf{index}" for index in range(8)]
    assert num_vfs(examples) == 8
    examples.apply("one-vf.yaml")
    examples.until_unschedulable("one-vf")


def test_vf_by_memory(examples: Examples) -> None:
    examples.apply("vf-by-memory.yaml", "vf-3gi")
    assert examples.devices("vf-3gi") == [f"{GPU}-m5"]
    assert examples.nodes("vf-3gi") == dri(1)
    assert num_vfs(examples) == 5
    for number in range(2, 6):
        examples.apply_pod_again("vf-by-memory.yaml", "vf-3gi", to=f"vf-{number}")
        examples.until_running(f"vf-{number}")
    examples.apply_pod_again("vf-by-memory.yaml", "vf-3gi", to="vf-6")
    examples.until_unschedulable("vf-6")


def test_gpu_or_else_vf(examples: Examples) -> None:
    examples.apply("gpu-or-else-vf.yaml", "gpu-or-vf")
    assert examples.devices("gpu-or-vf") == [GPU]
    assert examples.on_node("gpu-or-vf")["devices"][0]["request"] == "gpu/whole"
    examples.delete("gpu-or-else-vf.yaml")
    examples.apply("one-vf.yaml", "one-vf")
    examples.delete("one-vf.yaml")
    examples.apply("vf-by-memory.yaml", "vf-3gi")  # now the GPU is split
    examples.apply("gpu-or-else-vf.yaml", "gpu-or-vf")
    assert examples.devices("gpu-or-vf") == [f"{GPU}-m5"]
    assert examples.nodes("gpu-or-vf") == dri(2)
    assert examples.on_node("gpu-or-vf")["devices"][0]["request"] == "gpu/vf"


def test_claim_shared_by_containers(examples: Examples) -> None:
    examples.apply("claim-shared-by-containers.yaml", "between-containers")
    for container in ("encoder", "inference"):
        assert examples.nodes("between-containers", container) == dri(0)
    assert examples.nodes("between-containers", "web") == frozenset()


def test_claim_shared_by_pods(examples: Examples) -> None:
    examples.apply("claim-shared-by-pods.yaml", "encoder", "inference")
    (claim,) = examples.claims("encoder")
    assert examples.claims("inference") == [claim]
    assert examples.nodes("encoder") == examples.nodes("inference") == dri(0)
    examples.delete_pod("encoder")
    assert examples.given("inference") == [GPU]
    assert examples.nodes("inference") == dri(0)
    examples.apply("one-gpu.yaml")
    examples.until_unschedulable("one-gpu")
    examples.delete_pod("inference")  # the claim is there still, but has no GPU any more
    examples.until_running("one-gpu")


def test_deployment(examples: Examples) -> None:
    examples.apply("deployment.yaml")
    examples.until("three pods", lambda: len(examples.pods_of("streaming")) == 3)
    pods = examples.pods_of("streaming")
    examples.until_running(*pods)
    assert [examples.devices(pod) for pod in pods] == [[f"{GPU}-m8"]] * 3
    assert sorted(min(examples.nodes(pod)) for pod in pods) == [f"/dev/dri/card{number}" for number in (1, 2, 3)]
    examples.delete_pod(pods[0])  # another takes its place, with a claim and a function of its own
    examples.until("three pods again", lambda: len(set(examples.pods_of("streaming")) - {pods[0]}) == 3)
    pods = examples.pods_of("streaming")
    examples.until_running(*pods)
    assert len({min(examples.nodes(pod)) for pod in pods}) == 3


def test_extended_resource(examples: Examples) -> None:
    examples.apply("extended-resource.yaml", "plain-limit")
    assert examples.devices("plain-limit") == [GPU]
    assert examples.nodes("plain-limit") == dri(0)
    examples.apply("one-gpu.yaml")
    examples.until_unschedulable("one-gpu")


def test_passthrough_of_the_gpu(examples: Examples) -> None:
    machine = examples.town.lab.machines["node-a"]
    examples.apply("passthrough-gpu.yaml", "vm-gpu")
    assert machine.driver(ADDRESS) == "vfio-pci"
    assert is_passthrough(examples.nodes("vm-gpu"))
    assert examples.on_node("vm-gpu")["devices"][0]["kernelDriver"] == "vfio"
    examples.delete("passthrough-gpu.yaml")
    examples.until("given back", lambda: machine.driver(ADDRESS) == "i915")
    examples.apply("one-gpu.yaml", "one-gpu")
    assert len(examples.nodes("one-gpu")) == 2


def test_passthrough_of_a_vf(examples: Examples) -> None:
    machine = examples.town.lab.machines["node-a"]
    examples.apply("passthrough-vf.yaml", "vm-vf")
    assert machine.driver(ADDRESS) == "i915"
    assert is_passthrough(examples.nodes("vm-vf"))
    examples.apply("one-vf.yaml", "one-vf")  # beside it, a function that i915 has
    assert all(path.startswith("/dev/dri/") for path in examples.nodes("one-vf"))
    assert num_vfs(examples) == 16


def test_override_before_use(examples: Examples) -> None:
    examples.override("override-fixed.yaml")
    examples.until("made", lambda: num_vfs(examples) == 4)
    examples.apply("one-gpu.yaml")
    examples.until_unschedulable("one-gpu")
    examples.apply("vf-by-memory.yaml", "vf-3gi")
    assert examples.nodes("vf-3gi") == dri(1)
    examples.delete("vf-by-memory.yaml")
    examples.override("override-none.yaml")
    examples.until_running("one-gpu")
    assert num_vfs(examples) == 0


def test_override_during_use(examples: Examples) -> None:
    examples.apply("one-gpu.yaml", "one-gpu")
    examples.override("override-fixed.yaml")
    examples.until("waits", lambda: examples.blocked("node-a"))
    assert (num_vfs(examples), examples.nodes("one-gpu")) == (0, dri(0))
    examples.delete("one-gpu.yaml")
    examples.until("made", lambda: num_vfs(examples) == 4)
    examples.apply("one-gpu.yaml")
    examples.until_unschedulable("one-gpu")
    examples.override("override-none.yaml")
    examples.until_running("one-gpu")
