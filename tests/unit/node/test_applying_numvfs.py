"""Turning VFs on and off, on a simulated kernel that answers as the real one does."""

import dataclasses
import errno
import os
import threading

import pytest

from gpusim import Delays, FaultRule, GpuSpec, Operation
from reconciler.node import sysfs
from reconciler.node.apply_host import ApplyFailed, KernelWrite
from reconciler.node.applying import apply_action
from state.actions import SetNumVfs
from tests.unit.node.applying_bench import (
    ADDRESS,
    DEVICE,
    FLEX,
    MAINLINE_I915,
    MAX,
    XE,
    Bench,
    bench,
    name_of,
)

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def set_num_vfs(on: Bench, count: int) -> None:
    apply_action(SetNumVfs(pf=name_of(on.gpu), address=ADDRESS, count=count, profile="fs"), on.host)


def refusal(on: Bench, count: int) -> ApplyFailed:
    with pytest.raises(ApplyFailed) as caught:
        set_num_vfs(on, count)
    assert "\n" not in str(caught.value)
    return caught.value


def vfs(on: Bench) -> list[str]:
    return [name for name in on.machine.sysfs.listdir(DEVICE) if name.startswith("virtfn")]


def test_vfs_that_others_have_made_meanwhile_are_not_turned_off() -> None:
    off = SetNumVfs(pf=name_of(FLEX), address=ADDRESS, count=0, profile="fs", seen=2)
    with bench(FLEX) as on:
        set_num_vfs(on, 4)
        with pytest.raises(ApplyFailed, match="somebody else has enabled 4 VFs meanwhile"):
            apply_action(off, on.host)
        assert on.read("sriov_numvfs") == "4"
        set_num_vfs(on, 0)
        set_num_vfs(on, 2)
        apply_action(off, on.host)
        apply_action(off, on.host)
        assert on.read("sriov_numvfs") == "0"


@pytest.mark.parametrize("gpu", [FLEX, MAX, XE])
def test_on_and_off_with_one_write_each(gpu: GpuSpec) -> None:
    with bench(gpu) as on:
        set_num_vfs(on, 4)
        assert (on.read("sriov_numvfs"), vfs(on)) == ("4", ["virtfn0", "virtfn1", "virtfn2", "virtfn3"])
        set_num_vfs(on, 0)
        assert (on.read("sriov_numvfs"), vfs(on)) == ("0", [])
        assert on.writes == [(f"{DEVICE}/sriov_numvfs", "4"), (f"{DEVICE}/sriov_numvfs", "0")]


def test_repeating_is_success() -> None:
    with bench(FLEX) as on:
        set_num_vfs(on, 0)
        set_num_vfs(on, 2)
        set_num_vfs(on, 2)
        assert vfs(on) == ["virtfn0", "virtfn1"]


def test_another_number_names_the_one_in_force() -> None:
    with bench(FLEX) as on:
        set_num_vfs(on, 2)
        failed = refusal(on, 4)
    assert failed.why == "2 VFs are enabled; they have to be turned off first"
    assert (failed.errno, failed.value) == (16, "4")
    assert str(failed).startswith("writing '4' to ")
    assert str(failed).endswith("/sriov_numvfs: 2 VFs are enabled; they have to be turned off first (EBUSY)")
    assert isinstance(failed.__cause__, OSError)


def test_fewer_vfs_than_asked_is_a_failure_and_can_be_undone() -> None:
    with bench(FLEX) as on:
        on.machine.add_faults(FaultRule(on=Operation.ENABLE, vfs=3))
        assert refusal(on, 4).why == "the kernel enabled 3 of 4 VFs"
        set_num_vfs(on, 0)
        assert vfs(on) == []


@pytest.mark.parametrize(
    ("error", "count", "words"),
    [
        ("EINVAL", 4, "invalid for this GPU"),
        ("ENODEV", 4, "not in PF mode"),
        ("ENOMEM", 4, "bus numbers"),
        ("EIO", 4, "wedged"),
        ("ECANCELED", 4, "wedged"),
        ("EUSERS", 4, "another user of the GPU"),
        ("EPERM", 4, "another user of the GPU"),
        ("EPERM", 0, "assigned to a virtual machine"),
        ("ENOKEY", 4, "only in part"),
        ("ENOSPC", 4, "does not have what so many VFs need"),
        ("EDQUOT", 4, "does not have what so many VFs need"),
        ("EUCLEAN", 4, "provisioned only in part"),
        ("ETIMEDOUT", 4, "did not answer in time"),
        ("EBUSY", 4, "perhaps still initialising"),
        ("EXDEV", 4, "Invalid cross-device link"),
    ],
)
def test_errors_are_explained(error: str, count: int, words: str) -> None:
    with bench(FLEX) as on:
        if not count:
            set_num_vfs(on, 2)
        on.machine.add_faults(FaultRule(on=Operation.WRITE, path="*/sriov_numvfs", error=error))
        failed = refusal(on, count)
    assert words in failed.why
    assert str(failed).endswith(f"({error})")


def test_more_than_possible_says_how_many_are() -> None:
    with bench(FLEX) as on:
        assert refusal(on, 32).why == "more than the 31 VFs that are possible"


def test_without_a_driver_that_can_the_kernel_knows_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, value: str) -> None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)  # what sriov_numvfs_store returns then

    monkeypatch.setattr(sysfs, "write", refuse)
    with bench(MAINLINE_I915) as on:
        assert refusal(on, 1).why == "kernel driver i915 can't do SR-IOV"
        on.machine.sysfs.write("bus/pci/drivers/i915/unbind", ADDRESS)
        assert refusal(on, 1).why == "no kernel driver is bound"


def test_without_the_capability_or_the_gpu_itself() -> None:
    with bench(GpuSpec(address=ADDRESS, device=0xE20B, driver="xe")) as on:
        assert refusal(on, 1).why == "the GPU has no SR-IOV capability"
        on.machine.unplug(ADDRESS)
        assert refusal(on, 1).why == "the GPU is gone"


def test_a_partial_manual_configuration_and_a_wedged_gpu_are_refused_by_the_driver_itself() -> None:
    with bench(FLEX) as on:
        on.machine.sysfs.write(f"{DEVICE}/drm/card0/prelim_iov/vf1/gt/contexts_quota", "1024")
        assert "only in part" in refusal(on, 1).why
    with bench(XE) as on:
        on.machine.wedge(ADDRESS)
        assert refusal(on, 1).why == "the GPU is wedged"


def test_links_that_do_not_come_are_named_after_the_deadline() -> None:
    with bench(FLEX, seconds=0.1) as on:
        set_num_vfs(on, 6)
        gpu = on.machine.sysfs.realpath(DEVICE)
        for index in range(1, 6):
            on.machine.sysfs.remove(f"{gpu}/virtfn{index}")
        why = "virtfn1, virtfn2, virtfn3, virtfn4, … are still missing after 0.1 s"
        assert refusal(on, 6).why == why


def test_links_that_come_late_are_waited_for() -> None:
    with bench(FLEX) as on:
        set_num_vfs(on, 2)
        target = on.machine.sysfs.realpath(f"{DEVICE}/virtfn1")
        gpu = on.machine.sysfs.realpath(DEVICE)
        on.machine.sysfs.remove(f"{gpu}/virtfn1")
        late = threading.Timer(0.05, on.machine.sysfs.add_link, [f"{gpu}/virtfn1", target])
        late.start()
        set_num_vfs(on, 2)
        late.join()
        assert vfs(on) == ["virtfn0", "virtfn1"]


def test_while_the_kernel_works_it_is_known_what_is_being_written() -> None:
    with bench(FLEX, delays=Delays(disable=0.1)) as on:
        set_num_vfs(on, 2)
        told: list[tuple[str, KernelWrite]] = []
        host = dataclasses.replace(
            on.host,
            clock=lambda: 17.0,
            writing=lambda write: told.append((on.read("sriov_numvfs"), write)),
            wrote=lambda write: told.append((on.read("sriov_numvfs"), write)),
        )
        apply_action(SetNumVfs(pf=name_of(FLEX), address=ADDRESS, count=0, profile="fs"), host)
    path = f"{on.host.roots.sysfs}/{DEVICE}/sriov_numvfs"
    write = KernelWrite(path=path, value="0", since=17.0)
    assert told == [("2", write), ("0", write)]
