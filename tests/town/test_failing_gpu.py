"""A GPU whose VFs can't be made is left to those who insist, until it has proved that it is well again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.pods import Town, running_town
from tests.town.residents import FLAGS, SLICES, JsonObject, Residents

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow]

TAINT = "gpu.intel.com/reconfigure-failed"
VF: JsonObject = {"deviceClassName": "vf.gpu.intel.com"}


@pytest.fixture(name="town", scope="module")
def fixture_town(where: Path) -> Iterator[Town]:
    """One node with two GPUs."""
    with running_town(where, {"a": "flex140"}, flags=FLAGS) as town:
        yield town


def test_its_pods_go_elsewhere_and_come_back_when_it_is_well(town: Town, residents: Residents) -> None:
    machine = town.lab.machines["a"]
    residents.come("probe", VF)
    residents.until_running("probe")
    sick = residents.device("probe").rsplit("-", 1)[0]
    residents.all_leave()
    address = _address(sick)
    machine.do(f"fault on: enable, device: '{address}', error: EIO")

    residents.come("first", VF)
    residents.until("tainted", lambda: sick in _tainted(town))
    town.until_phase("gone", "first")
    residents.leave("first")
    residents.come("second", VF)
    residents.until_running("second")
    assert not residents.device("second").startswith(sick)
    assert _tainted(town) == {sick}, "the other GPU is well"

    machine.do("clear-faults")
    had = residents.nodes("second")
    residents.come("insisting", _insisting(sick))
    residents.until_running("insisting"); import shutil; shutil.copytree(town.lab.where / "logs", "/tmp/h10logs", dirs_exist_ok=True); open("/tmp/h10logs/ev","w").write(town.lab.kubectl("get","events","-A","-o","yaml").out)
    residents.until("not tainted any more", lambda: not _tainted(town))
    assert residents.nodes("second") == had


def _insisting(gpu: str) -> JsonObject:
    """A VF of this very GPU, whatever was said of it."""
    chosen = f'device.attributes["gpu.intel.com"].parent == "{gpu}"'
    return VF | {
        "selectors": [{"cel": {"expression": chosen}}],
        "tolerations": [{"key": TAINT, "operator": "Exists"}],
    }


def _address(gpu: str) -> str:
    domain, bus, slot, function, _ = gpu.split("-")
    return f"{domain}:{bus}:{slot}.{function}"


def _tainted(town: Town) -> set[str]:
    """GPUs of which a device has the taint."""
    return {
        "-".join(device["name"].split("-")[:5])
        for each in town.lab.cluster.get(SLICES)["items"]
        for device in each["spec"].get("devices", ())
        if any(taint["key"] == TAINT for taint in device.get("taints", ()))
    }
