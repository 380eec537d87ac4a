"""A GPU whose VFs can't be made is left to those who insist, until it has proved that it is well again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.cluster.nodes import address_of
from tests.town.residents import FLAGS, SLICES, JsonObject, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

TAINT = "gpu.intel.com/reconfigure-failed"
VF: JsonObject = {"deviceClassName": "vf.gpu.intel.com"}


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path) -> Iterator[Town]:
    """One node with two GPUs."""
    with running_town(where, {"a": "flex140"}, flags=FLAGS) as town:
        yield town


def test_its_pods_go_elsewhere_until_it_is_well(town: Town, residents: Residents) -> None:
    machine = town.lab.machines["a"]
    residents.come("before", VF)
    residents.until_running("before")
    sick = _gpu(residents.device("before"))
    residents.all_leave()
    machine.do(f"fault on: enable, device: '{address_of(sick)}', error: EIO")

    residents.come("first", VF)
    residents.until("tainted", lambda: _tainted(town) == {sick})
    residents.until("evicted", lambda: residents.events("DeviceTaintManagerEviction", "first"))
    residents.come("second", VF)
    residents.until_running("second")
    assert _gpu(residents.device("second")) != sick

    had = residents.nodes("second")
    machine.do("clear-faults")
    residents.until("not tainted any more", lambda: not _tainted(town))
    town.until_phase("gone", "first")
    residents.come("third", _of(sick))
    residents.until_running("third")
    assert residents.nodes("second") == had


def _of(gpu: str) -> JsonObject:
    """A VF of this very GPU."""
    chosen = f'device.attributes["gpu.intel.com"].parent == "{gpu}"'
    return VF | {"selectors": [{"cel": {"expression": chosen}}]}


def _tainted(town: Town) -> set[str]:
    """GPUs of which a device has the taint."""
    return {
        _gpu(device["name"])
        for each in town.lab.cluster.get(SLICES)["items"]
        for device in each["spec"].get("devices", ())
        if any(taint["key"] == TAINT for taint in device.get("taints", ()))
    }


def _gpu(device: str) -> str:
    """The GPU in the name of a device."""
    return "-".join(device.split("-")[:5])
