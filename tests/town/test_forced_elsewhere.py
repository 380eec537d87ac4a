"""The same as with the dynamic layout: other ways to offer GPUs don't give anything away twice either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.town import vanishing
from tests.town.residents import GPU, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]


@pytest.fixture(name="town", scope="module", params=["CounterFree", "Pinned"])
def fixture_town(request: pytest.FixtureRequest, where: Path) -> Iterator[Town]:
    """One node with one GPU, offered in some way."""
    with running_town(
        where / request.param[:1], {"a": "flex170"}, flags=("--layout", request.param, "--linger-seconds", "0")
    ) as town:
        yield town


def test_a_claim_vanishes(town: Town, residents: Residents) -> None:
    vanishing.claim_vanishes(GPU, GPU, town, residents)


def test_a_pod_vanishes_while_the_kubelet_is_away(town: Town, residents: Residents) -> None:
    vanishing.pod_vanishes_while_the_kubelet_is_away(town, residents)
