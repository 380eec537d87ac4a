"""Stories with a plain course: they show that what the property test drives really runs pods."""

from collections.abc import Iterator

import pytest

from tests.model.judge import Wrong
from tests.whole.people import People
from tests.whole.settling import check, everybody_leaves
from tests.whole.towns import Town
from tests.whole.uses import USES


@pytest.fixture
def people() -> Iterator[People]:
    """A town of one node whose slices are published."""
    town = Town(nodes=1)
    go_on(town, 3)
    yield People(town)
    town.close()


def go_on(town: Town, rounds: int) -> None:
    for _ in range(rounds):
        town.round()
        check(town)
        town.pass_time(1.1)


@pytest.mark.parametrize("use", sorted(USES))
def test_every_use_runs_and_leaves_nothing(people: People, use: str) -> None:
    people.ask(use, shared=False)
    go_on(people.town, 8)
    assert people.town.phase("p0") == "Running"
    everybody_leaves(people.town, people)


def test_who_comes_after_a_force_deleted_pod_waits_for_its_containers(people: People) -> None:
    town, node = people.town, people.town.nodes["north"]
    people.ask("flex", shared=False)
    go_on(town, 5)
    town.delete_pod("p0", force=True)
    people.ask("vf-m2", shared=False)
    for _ in range(5):
        town.decide()
        node.agent_round()
        node.kubelet.sync_pod("p1")
        check(town)
    assert town.pods()["p1"]["spec"]["nodeName"] == "north"
    assert [container.pod for container in node.kubelet.running.values()] == ["p0"]
    assert any("waits for claim" in why for why in node.kubelet.complaints.values())
    go_on(town, 8)
    assert [container.pod for container in node.kubelet.running.values()] == ["p1"]
    everybody_leaves(town, people)


def test_a_prepare_that_waits_sees_the_rest_of_the_world_go_on() -> None:
    town = Town(nodes=1, patience=20.0)
    try:
        people = People(town)
        go_on(town, 3)
        people.ask("vf", shared=False)
        town.round()
        assert town.phase("p0") == "Running"
        everybody_leaves(town, people)
    finally:
        town.close()


def test_the_judge_sees_a_device_that_is_gone(people: People) -> None:
    people.ask("flex", shared=False)
    go_on(people.town, 5)
    node = people.town.nodes["north"]
    node.bench.machine.unplug("0000:03:00.0")
    with pytest.raises(Wrong, match="is in use without"):
        check(people.town)
