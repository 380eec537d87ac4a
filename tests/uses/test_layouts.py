"""What servers older than 1.37 offer unasked, and what people have to say to be offered virtual functions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.uses.examples import Examples, dri

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


def test_one_gpu(examples: Examples) -> None:
    examples.apply("one-gpu.yaml", "one-gpu")
    assert examples.devices("one-gpu") == [GPU]
    examples.apply_pod_again("one-gpu.yaml", "one-gpu", to="next")
    examples.until_unschedulable("next")
