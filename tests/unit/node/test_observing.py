"""Looking again: what is read anew, what is kept, and what is dropped. On machines that live."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import gpusim
from reconciler.node.observing import Observer
from reconciler.node.roots import Roots
from state.ids import DeviceName, PciAddress
from state.observed import HealthCause, PfSeen, SriovSeen, Unreadable
from tests.unit.node.machines import PF, observer, plain, served

ADDRESS = PciAddress("0000:03:00.0")
NAME = DeviceName("0000-03-00-0-0x56c0")
VF = PciAddress("0000:03:00.1")


def causes(gpu: PfSeen) -> list[HealthCause]:
    return [sick.cause for sick in gpu.sickness]


def vfs(gpu: PfSeen) -> int:
    assert isinstance(gpu.sriov, SriovSeen)
    assert len(gpu.sriov.vfs) == gpu.sriov.enabled
    return gpu.sriov.enabled


@contextlib.contextmanager
def flex170(tmp_path: Path) -> Iterator[tuple[gpusim.Machine, Roots, Observer]]:
    with served(tmp_path, "flex170") as (machine, roots):
        yield machine, roots, observer(roots)


@pytest.mark.root
@pytest.mark.fuse
class TestLive:
    def test_every_way_to_hear_of_a_gpu_makes_it_seen_anew(self, tmp_path: Path) -> None:
        with flex170(tmp_path) as (machine, _, looking):
            assert vfs(looking.look().gpus[NAME]) == 0
            machine.sysfs.write(f"{PF}/sriov_numvfs", "4")
            assert vfs(looking.look(frozenset()).gpus[NAME]) == 0
            assert vfs(looking.look(frozenset({ADDRESS})).gpus[NAME]) == 4
            machine.sysfs.write(f"{PF}/sriov_numvfs", "0")
            assert vfs(looking.look(frozenset({VF})).gpus[NAME]) == 0
            machine.sysfs.write(f"{PF}/sriov_numvfs", "2")
            assert vfs(looking.look(frozenset({VF})).gpus[NAME]) == 2
            machine.sysfs.write(f"{PF}/sriov_numvfs", "0")
            assert vfs(looking.look().gpus[NAME]) == 0

    def test_vfs_coming_and_going_meanwhile_confuse_nobody(self, tmp_path: Path) -> None:
        with flex170(tmp_path) as (machine, _, looking), ThreadPoolExecutor(1) as kernel:

            def come_and_go() -> None:
                for _ in range(20):
                    machine.sysfs.write(f"{PF}/sriov_numvfs", "3")
                    machine.sysfs.write(f"{PF}/sriov_numvfs", "0")

            looking.look()
            going = kernel.submit(come_and_go)
            while not going.done():
                for dirty in (None, frozenset({VF}), frozenset({ADDRESS, VF})):
                    seen = looking.look(dirty)
                    assert (set(seen.gpus), seen.unreadable) == ({NAME}, ())
            going.result()
            assert vfs(looking.look().gpus[NAME]) == 0

    def test_a_gpu_that_the_kernel_works_on_is_left_alone(self, tmp_path: Path) -> None:
        """Its readers would block. Here they would fail, and that would show."""
        with served(tmp_path, "flex140") as (machine, roots):
            looking = observer(roots)
            busy, other = looking.look().gpus.values()
            address = busy.function.address
            numvfs = f"bus/pci/devices/{address}/sriov_numvfs"
            machine.add_faults(
                gpusim.FaultRule(on=gpusim.Operation.READ, path=f"*{address}*", error="EIO"),
            )
            machine.sysfs.write(numvfs, "4")
            dirty = frozenset({address, PciAddress("0000:4d:00.1"), other.function.address})
            for heard in (None, dirty):
                seen = looking.look(heard, leave=frozenset({busy.name}))
                assert dict(seen.gpus) == {busy.name: busy, other.name: other}
                assert seen.unreadable == ()
            assert looking.last_seen(busy.name) == busy
            machine.clear_faults()
            assert vfs(looking.look(dirty).gpus[busy.name]) == 4

    def test_unplugged_and_plugged_again(self, tmp_path: Path) -> None:
        with flex170(tmp_path) as (machine, _, looking):
            looking.look()
            machine.unplug(ADDRESS)
            assert looking.look(frozenset({ADDRESS})).gpus == {}
            machine.plug(ADDRESS)
            assert looking.look(frozenset({ADDRESS})).gpus.keys() == {NAME}
            machine.unplug(ADDRESS)
            seen = looking.look()
            assert (seen.gpus, seen.unreadable) == ({}, ())

    def test_errors_of_the_kernel_come_through_and_go(self, tmp_path: Path) -> None:
        with flex170(tmp_path) as (machine, roots, looking):
            machine.add_faults(gpusim.FaultRule(on=gpusim.Operation.READ, path="*/sriov_totalvfs", error="EIO"))
            seen = looking.look()
            problem = Unreadable(path=f"{roots.sysfs}/{PF}/sriov_totalvfs", why=f"EIO: {os.strerror(5)}")
            assert seen.unreadable == (problem,)
            assert seen.gpus[NAME].sriov == problem
            assert causes(seen.gpus[NAME]) == [HealthCause.UNREADABLE]
            machine.clear_faults()
            seen = looking.look(frozenset({ADDRESS}))
            assert (seen.unreadable, causes(seen.gpus[NAME])) == ((), [])

    def test_wedged_until_bound_anew(self, tmp_path: Path) -> None:
        with flex170(tmp_path) as (machine, _, looking):
            looking.look()
            looking.note_wedged(ADDRESS, "WEDGED=rebind,bus-reset")
            (sick,) = looking.look(frozenset()).gpus[NAME].sickness
            assert (sick.cause, sick.message) == (HealthCause.WEDGED, "WEDGED=rebind,bus-reset")
            assert causes(looking.look().gpus[NAME]) == [HealthCause.WEDGED]
            machine.sysfs.write("bus/pci/drivers/i915/unbind", ADDRESS)
            assert causes(looking.look(frozenset({ADDRESS})).gpus[NAME]) == []
            machine.sysfs.write("bus/pci/drivers/i915/bind", ADDRESS)
            assert causes(looking.look(frozenset({ADDRESS})).gpus[NAME]) == []


def test_wedged_is_over_after_a_rebind_nobody_saw(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170") as roots:
        looking = observer(roots)
        looking.note_wedged(ADDRESS, "WEDGED=rebind")
        assert causes(looking.look().gpus[NAME]) == [HealthCause.WEDGED]
        drm = Path(roots.sysfs, PF, "drm")
        shutil.copytree(drm, drm.with_name("again"), symlinks=True)
        shutil.rmtree(drm)
        drm.with_name("again").rename(drm)
        assert causes(looking.look().gpus[NAME]) == []


def test_what_is_noted_of_a_vf_makes_no_gpu_sick(tmp_path: Path) -> None:
    with plain(tmp_path, "foreign-vfs") as roots:
        looking = observer(roots)
        looking.note_wedged(VF, "WEDGED=rebind")
        assert causes(looking.look().gpus[NAME]) == []


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_gpu_that_lost_its_identity_stays_and_is_not_to_be_touched(tmp_path: Path, everywhere: bool) -> None:
    with plain(tmp_path, "flex170") as roots:
        looking = observer(roots)
        before = looking.look().gpus[NAME]
        device = Path(roots.sysfs, PF, "device")
        device.chmod(0o644)
        device.write_text("?\n")
        seen = looking.look(None if everywhere else frozenset({ADDRESS}))
        gpu = seen.gpus[NAME]
        assert gpu.sriov == before.sriov
        assert isinstance(gpu.function.driver, Unreadable)
        assert causes(gpu) == [HealthCause.UNREADABLE]
        assert [problem.path for problem in seen.unreadable] == [str(device)]
        device.write_text("0x56c0\n")
        seen = looking.look(frozenset({ADDRESS}))
        assert (seen.gpus[NAME], seen.unreadable) == (before, ())


def test_when_the_bus_cannot_be_listed_nothing_is_gone(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170") as roots:
        looking = observer(roots)
        before = looking.look()
        devices = Path(roots.sysfs, "bus/pci/devices")
        devices.rename(devices.with_name("elsewhere"))
        seen = looking.look()
        assert seen.gpus == before.gpus
        assert [problem.path for problem in seen.unreadable] == [str(devices)]
        devices.with_name("elsewhere").rename(devices)
        assert looking.look() == before


def test_a_change_of_a_mate_shows(tmp_path: Path) -> None:
    mate = PciAddress("0000:03:00.7")
    with plain(tmp_path, "flex170") as roots:
        looking = observer(roots)
        group = looking.look().gpus[NAME].function.iommu_group
        directory = Path(roots.sysfs, "devices", mate)
        directory.mkdir()
        (directory / "class").write_text("0x040300\n")
        (directory / "vendor").write_text("0x8086\n")
        os.symlink(f"../../../devices/{mate}", Path(roots.sysfs, "bus/pci/devices", mate))
        os.symlink(f"../../../../devices/{mate}", Path(roots.sysfs, f"kernel/iommu_groups/{group}/devices", mate))
        assert looking.look().gpus[NAME].function.iommu_mates == ((mate, None),)
        os.symlink("../../bus/pci/drivers/snd_hda_intel", directory / "driver")
        seen = looking.look(frozenset({mate}))
        assert seen.gpus[NAME].function.iommu_mates == ((mate, "snd_hda_intel"),)
        assert seen.gpus.keys() == {NAME}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("partial", [True, False])
def test_a_vf_without_links_is_on_its_way_and_no_gpu(tmp_path: Path, known: bool, partial: bool) -> None:
    with plain(tmp_path, "foreign-vfs") as roots:
        looking = observer(roots)
        if known:
            looking.look()
        last = PciAddress("0000:03:00.4")
        os.unlink(f"{roots.sysfs}/{PF}/virtfn3")
        os.unlink(f"{roots.sysfs}/bus/pci/devices/{last}/physfn")
        seen = looking.look(frozenset({ADDRESS, last}) if partial else None)
        assert seen.gpus.keys() == {NAME}
        sriov = seen.gpus[NAME].sriov
        assert isinstance(sriov, SriovSeen)
        assert (sriov.enabled, len(sriov.vfs)) == (4, 3)


def test_last_seen_is_by_name(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170") as roots:
        looking = observer(roots)
        assert looking.last_seen(NAME) is None
        looking.note_wedged(ADDRESS, "WEDGED=rebind")
        gpu = looking.look().gpus[NAME]
        assert looking.last_seen(NAME) == gpu
        assert causes(gpu) == [HealthCause.WEDGED]
        assert looking.last_seen(DeviceName("0000-03-00-0-0x56c1")) is None


def test_addresses_without_a_gpu_change_nothing(tmp_path: Path) -> None:
    with plain(tmp_path, "mixed") as roots:
        looking = observer(roots)
        before = looking.look()
        dirty = {"0000:5a:00.0", "0000:d8:00.0", "0000:ff:1f.7"}
        assert looking.look(frozenset(map(PciAddress, dirty))) == before


def test_a_partial_look_sees_what_a_full_one_sees(tmp_path: Path) -> None:
    with plain(tmp_path, "mixed") as roots:
        partial = observer(roots)
        addresses = frozenset(gpu.function.address for gpu in observer(roots).look().gpus.values())
        assert partial.look(addresses) == observer(roots).look()
