"""A GPU that falls ill: nobody new gets it, but who says that he can bear it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.uses.examples import Examples, dri

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

GPU, ADDRESS = "0000-03-00-0-0xe211", "0000:03:00.0"


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path) -> Iterator[Town]:
    """No uevent tells the agent of a file that was added, so it has to look around often."""
    with running_town(where, {"node-a": "b60"}, flags=("--layout", "Dynamic", "--resync-seconds", "1")) as town:
        yield town


def test_toleration_of_a_health_taint(examples: Examples) -> None:
    examples.apply("one-gpu.yaml", "one-gpu")
    machine = examples.town.lab.machines["node-a"]
    directory = machine.function(ADDRESS).resolve().relative_to((machine.where / "sys").resolve())
    machine.do(f"set {directory}/survivability_mode Runtime")  # as xe has it when firmware fails at run time
    examples.until("tainted", lambda: taints(examples) == {"gpu.intel.com/health-Survivability"})
    examples.until("unhealthy", lambda: examples.gpu("node-a", GPU)["health"] == "Unhealthy")
    assert examples.nodes("one-gpu") == dri(0)  # it may stay
    examples.delete("one-gpu.yaml")
    examples.apply("one-gpu.yaml")
    examples.until_unschedulable("one-gpu")
    examples.apply("tolerate-a-sick-gpu.yaml", "even-sick")
    assert examples.given("even-sick") == [GPU]
    assert examples.nodes("even-sick") == dri(0)
    assert examples.town.phase("one-gpu") == "Pending"


def taints(examples: Examples) -> set[str]:
    """Keys of the taints that the whole GPU has."""
    slices = examples.town.lab.cluster.get(examples.town.resource_api("resourceslices"))["items"]
    offered = [device for one in slices for device in one["spec"].get("devices", ()) if device["name"] == GPU]
    return {taint["key"] for device in offered for taint in device.get("taints", ())}
