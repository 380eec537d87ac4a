"""What servers older than 1.37 offer unasked, and what people have to say to be offered virtual functions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.uses.examples import EXAMPLES, Examples, dri

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

GPU, ADDRESS = "0000-03-00-0-0x56c0", "0000:03:00.0"


@pytest.fixture(name="release", scope="module", params=("1.34", "1.36"))
def fixture_release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path, release: str) -> Iterator[Town]:
    flags = ("--linger-seconds", "1")
    with running_town(where / release, {"node-a": "flex170"}, release=release, flags=flags) as town:
        yield town


@pytest.fixture(name="examples")
def fixture_examples(town: Town) -> Iterator[Examples]:
    """Takes back what a test said of the node."""
    examples = Examples(town)
    yield examples
    examples.override("override-none.yaml")
    examples.tidy()


def test_vf_of_a_layout_that_an_override_fixes(examples: Examples) -> None:
    examples.apply("one-vf.yaml")
    examples.until_unschedulable("one-vf")
    examples.override("override-fixed.yaml")
    examples.until_running("one-vf")
    assert examples.devices("one-vf") == [f"{GPU}-m4-vf0"]
    assert examples.given("one-vf") == [f"{GPU}-m4-vf0"]
    assert examples.nodes("one-vf") == dri(1)


def test_vf_where_the_policy_says_dynamic(examples: Examples, release: str) -> None:
    examples.override("policy-dynamic.yaml")
    examples.apply("one-vf.yaml")
    if release == "1.34":  # no counters there: the policy can't be followed
        examples.until_unschedulable("one-vf")
        return
    examples.until_running("one-vf")
    assert examples.given("one-vf") == [f"{GPU}-m16-vf0"]


ANY_LAYOUT = {
    "one-gpu.yaml": "one-gpu",
    "claim-shared-by-containers.yaml": "between-containers",
    "passthrough-gpu.yaml": "vm-gpu",
    "extended-resource.yaml": "plain-limit",
}


@pytest.mark.parametrize("file", ANY_LAYOUT)
def test_whole_gpu_in_any_layout(examples: Examples, release: str, file: str) -> None:
    if release == "1.34" and file == "extended-resource.yaml":
        pytest.skip("behind a gate that is off in 1.34")
    examples.apply(file, ANY_LAYOUT[file])
    assert examples.devices(ANY_LAYOUT[file]) == examples.given(ANY_LAYOUT[file]) == [GPU]
    if file != "one-gpu.yaml":
        examples.apply("one-gpu.yaml")
        examples.until_unschedulable("one-gpu")


def test_shares_where_one_device_is_the_whole_gpu(examples: Examples, release: str) -> None:
    if release == "1.34":
        pytest.skip("no consumable capacity without a gate in 1.34")
    shares = (EXAMPLES / "shared-by-memory.yaml").read_text()
    for found, changed in {"shared.gpu": "gpu", "memory: 4Gi": 'memory: 4Gi, millicores: "250"'}.items():
        assert found in shares
        shares = shares.replace(found, changed)
    examples.town.lab.apply(shares)
    examples.until_running("share-a", "share-b")
    for pod in ("share-a", "share-b"):
        assert examples.given(pod) == [GPU]
        assert examples.nodes(pod) == dri(0)
    examples.apply("one-gpu.yaml")  # which wants all of it
    examples.until_unschedulable("one-gpu")


def test_monitor_where_the_server_knows_taints(examples: Examples, release: str) -> None:
    if release == "1.34":
        pytest.skip("no taints without a gate in 1.34")
    examples.apply("one-gpu.yaml", "one-gpu")
    examples.apply("monitor.yaml", "monitor", namespace="gpu-monitoring")
    assert examples.given("monitor", "gpu-monitoring") == [f"{GPU}-monitor"]
