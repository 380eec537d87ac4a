"""The classes of the classic driver's later releases: shares, claims for several pods, monitors."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town
from tests.uses.classic_towns import GPU, OTHER, town_of_two_gpus
from tests.uses.examples import Examples, dri

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path) -> Iterator[Town]:
    with town_of_two_gpus(where, "classic-later") as town:
        yield town


def test_shares_of_a_gpu(examples: Examples) -> None:
    examples.apply("classic/later/shares-of-a-gpu.yaml", "first-half", "second-half")
    assert examples.given("first-half") == examples.given("second-half") == [f"{GPU}-shared"]
    assert examples.nodes("first-half") == examples.nodes("second-half") == dri(0)
    examples.apply_pod_again("classic/later/shares-of-a-gpu.yaml", "first-half", to="third-half")
    examples.until_running("third-half")
    assert examples.given("third-half") == [f"{OTHER}-shared"]


def test_a_shareable_claim_and_one_to_look_on(examples: Examples) -> None:
    examples.apply("classic/later/shareable-claim.yaml", "one-of-two", "other-of-two")
    assert examples.given("one-of-two") == examples.given("other-of-two") == [GPU]
    examples.apply("classic/later/monitor.yaml", "monitor")
    assert examples.given("monitor") == [f"{GPU}-monitor", f"{OTHER}-monitor"]
    assert dri(0, 1) <= examples.nodes("monitor")


def test_a_quarter_of_a_gpu(examples: Examples) -> None:
    examples.apply("classic/later/vf-by-millicores.yaml", "quarter")
    assert examples.given("quarter") == [f"{GPU}-m4-vf0"]
