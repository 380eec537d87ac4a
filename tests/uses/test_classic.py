"""Classic dynamic resource allocation: every example, from kubectl to device nodes and back to nothing left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town
from tests.uses.classic_towns import GPU, OTHER, all_given, town_of_two_gpus
from tests.uses.examples import Examples, dri

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path) -> Iterator[Town]:
    with town_of_two_gpus(where, "classic") as town:
        yield town


def test_one_gpu(examples: Examples) -> None:
    examples.apply("classic/one-gpu.yaml", "one-gpu")
    assert examples.given("one-gpu") == [GPU]
    assert examples.nodes("one-gpu", "with-gpu") == dri(0)
    assert examples.nodes("one-gpu", "without-gpu") == frozenset()
    entry = examples.on_node("one-gpu")
    assert entry["cdiDevices"] == [f"intel.com/gpu=claim-{entry['name']}-0"]
    examples.apply_pod_again("classic/one-gpu.yaml", "one-gpu", to="next")
    examples.until_running("next")
    examples.apply_pod_again("classic/one-gpu.yaml", "one-gpu", to="third")
    examples.until_unschedulable("third")
    examples.delete_pod("one-gpu")
    examples.until_running("third")


def test_vfs_of_different_pods_share_a_gpu(examples: Examples) -> None:
    examples.apply("classic/one-vf.yaml", "one-vf")
    assert examples.given("one-vf") == [f"{GPU}-m16-vf0"]
    assert examples.nodes("one-vf") == dri(2)
    examples.apply_pod_again("classic/one-vf.yaml", "one-vf", to="next")
    examples.until_running("next")
    assert examples.given("next") == [f"{GPU}-m16-vf1"]
    examples.apply("classic/one-gpu.yaml", "one-gpu")
    assert examples.given("one-gpu") == [OTHER]


def test_vfs_by_memory(examples: Examples) -> None:
    examples.apply("classic/vf-by-memory.yaml", "vf-by-memory")
    assert examples.given("vf-by-memory") == [f"{GPU}-m5-vf0"]
    examples.apply("classic/eight-vfs.yaml", "eight-vfs")
    (given,) = all_given(examples, "eight-vfs")  # first those of the GPU that is split already, though bigger
    assert given == [f"{GPU}-m5-vf{index}" for index in range(1, 5)] + [
        f"{OTHER}-m8-vf{index}" for index in range(4)
    ]
    assert len(examples.nodes("eight-vfs")) == 16


def test_several_claims(examples: Examples) -> None:
    examples.apply("classic/several-claims.yaml", "several-claims")
    assert all_given(examples, "several-claims") == [[GPU], [OTHER]]
    assert {examples.nodes("several-claims", one) for one in ("decoder", "model")} == {dri(0), dri(1)}
    examples.delete("classic/several-claims.yaml")
    examples.apply("classic/gpu-and-vfs.yaml", "gpu-and-vfs")
    whole, vfs = sorted(all_given(examples, "gpu-and-vfs"), key=len)
    assert len(vfs) == 2
    assert not any(vf.startswith(whole[0]) for vf in vfs)


def test_claims_that_pods_come_to_and_leave(examples: Examples) -> None:
    examples.apply("classic/external-claim.yaml", "with-my-gpu")
    examples.apply("classic/claim-shared-by-pods.yaml", "encoder", "inference")
    assert examples.given("encoder") == examples.given("inference") == [OTHER]
    assert examples.nodes("encoder") == examples.nodes("inference") == dri(1)
    examples.delete_pod("with-my-gpu")
    examples.apply("classic/one-gpu.yaml")  # the claim keeps its GPU without a pod
    examples.until_unschedulable("one-gpu")
    examples.delete("classic/external-claim.yaml")
    examples.until_running("one-gpu")


def test_immediate(examples: Examples) -> None:
    examples.apply("classic/immediate.yaml", "with-kept-gpu")
    examples.apply("classic/immediate-vf.yaml", "vf-at-once")
    assert examples.given("with-kept-gpu") == [GPU]
    assert examples.given("vf-at-once") == [f"{OTHER}-m16-vf0"]


def test_by_memory_name_and_whatever_there_is(examples: Examples) -> None:
    examples.apply("classic/gpu-by-memory.yaml", "gpu-by-memory")
    assert examples.given("gpu-by-memory") == [GPU, OTHER]
    examples.delete("classic/gpu-by-memory.yaml")
    examples.apply("classic/gpu-or-vf.yaml", "gpu-or-vf")
    assert examples.given("gpu-or-vf") == [f"{GPU}-m5-vf0"]
    examples.apply("classic/gpus-by-name.yaml", "gpu-by-name")
    assert examples.given("gpu-by-name") == [OTHER]


def test_too_big_waits_and_says_why(examples: Examples) -> None:
    examples.apply("classic/too-big.yaml")
    examples.until_unschedulable("too-big")

    def told() -> bool:
        events = examples.town.lab.kubectl("get", "events", "--field-selector", "involvedObject.name=too-big").out
        return "NoSuitableNode" in events

    examples.until("told why", told)
