"""PCIe root, link and IOMMU group, on trees made by hand."""

import os
from pathlib import Path

import pytest

from reconciler.node.topology import IommuGroups, device_path, link_in_words
from state.ids import PciAddress
from state.observed import Unreadable

CARD = "pci0000:00/0000:00:06.0/0000:01:00.0/0000:02:01.0/0000:03:00.0"
GPU = PciAddress("0000:03:00.0")


def add_function(root: Path, place: str, **attributes: str) -> Path:
    directory = root / "devices" / place
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in attributes.items():
        (directory / name).write_text(f"{value}\n")
    links = root / "bus/pci/devices"
    links.mkdir(parents=True, exist_ok=True)
    os.symlink(f"../../../devices/{place}", links / directory.name)
    return directory


def test_root_is_the_first_component(tmp_path: Path) -> None:
    add_function(tmp_path, CARD)
    assert device_path(str(tmp_path), GPU) == tuple(CARD.split("/"))
    assert device_path(f"{tmp_path}/", GPU) == tuple(CARD.split("/"))
    assert device_path(str(tmp_path), PciAddress("0000:04:00.0")) is None


def test_root_in_a_long_domain(tmp_path: Path) -> None:
    add_function(tmp_path, "pci10000:e0/10000:e0:06.0/10000:e1:00.0")
    path = device_path(str(tmp_path), PciAddress("10000:e1:00.0"))
    assert isinstance(path, tuple)
    assert path[0] == "pci10000:e0"


@pytest.mark.parametrize(
    "target",
    [
        "../../../devices/platform/0000:03:00.0",
        "../../../devices/pci0000:00/0000:04:00.0",
        "../../../../devices/pci0000:00/0000:03:00.0",
        "/elsewhere/pci0000:00/0000:03:00.0",
    ],
)
def test_a_link_elsewhere_has_no_root(tmp_path: Path, target: str) -> None:
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    os.symlink(target, tmp_path / "bus/pci/devices" / GPU)
    problem = device_path(str(tmp_path), GPU)
    assert isinstance(problem, Unreadable)
    assert target in problem.why


def test_link_of_a_card_with_a_switch_is_that_of_its_upstream_port(tmp_path: Path) -> None:
    slow = {"current_link_speed": "2.5 GT/s PCIe", "current_link_width": "1"}
    add_function(tmp_path, CARD, **slow)
    path = tuple(CARD.split("/"))
    assert link_in_words(str(tmp_path), path) is None
    fast = {"current_link_speed": "16.0 GT/s PCIe", "current_link_width": "8"}
    add_function(tmp_path, "/".join(path[:-2]), **fast)
    assert link_in_words(str(tmp_path), path) == "16.0 GT/s PCIe x8"


def test_link_of_a_card_behind_another_switch_is_its_own(tmp_path: Path) -> None:
    add_function(tmp_path, CARD, current_link_speed="32.0 GT/s PCIe", current_link_width="16")
    assert link_in_words(str(tmp_path), tuple(CARD.split("/"))) == "32.0 GT/s PCIe x16"


def test_a_slow_link_without_a_switch_is_just_slow(tmp_path: Path) -> None:
    place = "pci0000:00/0000:00:06.0/0000:03:00.0"
    add_function(tmp_path, place, current_link_speed="2.5 GT/s PCIe", current_link_width="1")
    assert link_in_words(str(tmp_path), tuple(place.split("/"))) == "2.5 GT/s PCIe x1"


def test_a_sleeping_device_has_no_link(tmp_path: Path) -> None:
    place = "pci0000:00/0000:00:06.0/0000:03:00.0"
    add_function(tmp_path, place, current_link_speed="Unknown", current_link_width="63")
    assert link_in_words(str(tmp_path), tuple(place.split("/"))) is None


def test_mates_are_the_others_of_a_group_without_bridges(tmp_path: Path) -> None:
    group = tmp_path / "kernel/iommu_groups/7/devices"
    group.mkdir(parents=True)
    members = {
        "0000:03:00.0": "0x038000",
        "0000:03:00.1": "0x040300",
        "0000:02:01.0": "0x060400",
        "0000:04:00.0": "0x020000",
    }
    for name, pci_class in members.items():
        directory = add_function(tmp_path, f"pci0000:00/{name}", **{"class": pci_class})
        os.symlink(directory, group / name)
    os.symlink("../../../bus/pci/drivers/snd_hda_intel", tmp_path / "devices/pci0000:00/0000:03:00.1/driver")
    problems: list[Unreadable] = []
    mates = IommuGroups(str(tmp_path)).mates(7, GPU, problems)
    assert mates == (("0000:03:00.1", "snd_hda_intel"), ("0000:04:00.0", None))
    assert problems == []


def test_a_mate_that_cannot_be_told_is_in_the_way(tmp_path: Path) -> None:
    group = tmp_path / "kernel/iommu_groups/7/devices"
    for name, pci_class in {"0000:03:00.0": "0x038000", "0000:03:00.1": "?"}.items():
        (group / name).mkdir(parents=True)
        (group / name / "class").write_text(f"{pci_class}\n")
    problems: list[Unreadable] = []
    assert IommuGroups(str(tmp_path)).mates(7, GPU, problems) == (("0000:03:00.1", None),)
    assert [problem.path for problem in problems] == [f"{group}/0000:03:00.1/class"]


def test_groups_are_read_once_a_look(tmp_path: Path) -> None:
    group = tmp_path / "kernel/iommu_groups/7/devices"
    for name in ("0000:03:00.0", "0000:03:00.1"):
        (group / name).mkdir(parents=True)
    groups = IommuGroups(str(tmp_path))
    problems: list[Unreadable] = []
    before = groups.mates(7, GPU, problems)
    (group / "0000:03:00.2").mkdir()
    assert groups.mates(7, GPU, problems) == before
    assert len(IommuGroups(str(tmp_path)).mates(7, GPU, problems)) == 2


def test_an_absent_group_has_no_members(tmp_path: Path) -> None:
    problems: list[Unreadable] = []
    assert IommuGroups(str(tmp_path)).mates(3, GPU, problems) == ()
    assert problems == []
