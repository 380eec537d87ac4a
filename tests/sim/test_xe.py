"""xe's sriov_admin and debugfs files."""

import pytest

from tests.sim.simulated import PF, boot, errno_of, number, text, write

ADMIN = f"{PF}/sriov_admin"
DEBUG = "kernel/debug/dri/0000:03:00.0/sriov"
NUMVFS = f"{PF}/sriov_numvfs"
MIB = 1 << 20


def test_layout() -> None:
    machine = boot("b50")
    assert set(machine.sysfs.listdir(ADMIN)) == {".bulk_profile", "pf", *(f"vf{n}" for n in range(1, 13))}
    profile = {"exec_quantum_ms", "preempt_timeout_us", "sched_priority"}
    assert set(machine.sysfs.listdir(f"{ADMIN}/vf1/profile")) == profile
    assert set(boot("b60").sysfs.listdir(f"{ADMIN}/vf1/profile")) == profile | {"vram_quota"}
    assert machine.sysfs.listdir(f"{PF}/tile0") == ("gt0", "gt1")
    assert not machine.sysfs.exists("kernel/debug")
    assert not boot("arc-b580").sysfs.exists(ADMIN)


def test_priorities() -> None:
    machine = boot("b50")
    assert text(machine, f"{ADMIN}/pf/profile/sched_priority") == "[low] normal high"
    assert text(machine, f"{ADMIN}/vf1/profile/sched_priority") == "[low] normal"
    assert write(machine, f"{ADMIN}/pf/profile/sched_priority", "high") is None
    assert text(machine, f"{ADMIN}/pf/profile/sched_priority") == "low normal [high]"
    assert write(machine, f"{ADMIN}/pf/profile/sched_priority", "highest") == "EINVAL"
    assert write(machine, f"{ADMIN}/vf1/profile/sched_priority", "normal") == "EACCES"
    assert write(machine, f"{ADMIN}/.bulk_profile/sched_priority", "normal") is None
    assert text(machine, f"{ADMIN}/vf7/profile/sched_priority") == "low [normal]"


def test_bulk_profile_is_write_only_and_for_all() -> None:
    machine = boot("b50")
    bulk = f"{ADMIN}/.bulk_profile/exec_quantum_ms"
    assert errno_of(lambda: machine.sysfs.read(bulk)) == "EACCES"
    assert write(machine, bulk, 20) is None
    assert [number(machine, f"{ADMIN}/{who}/profile/exec_quantum_ms") for who in ("pf", "vf12")] == [20, 20]
    write(machine, f"{ADMIN}/vf3/profile/exec_quantum_ms", 5)
    assert number(machine, f"{ADMIN}/vf3/profile/exec_quantum_ms") == 5
    assert number(machine, f"{ADMIN}/vf2/profile/exec_quantum_ms") == 20


def test_device_links_only_while_enabled_and_profiles_go_with_vfs() -> None:
    machine = boot("b50")
    assert machine.sysfs.realpath(f"{ADMIN}/pf/device") == machine.sysfs.realpath(PF)
    write(machine, f"{ADMIN}/vf1/profile/exec_quantum_ms", 5)
    write(machine, f"{ADMIN}/pf/profile/exec_quantum_ms", 7)
    write(machine, NUMVFS, 2)
    assert machine.sysfs.realpath(f"{ADMIN}/vf2/device") == machine.sysfs.realpath(f"{PF}/virtfn1")
    assert not machine.sysfs.exists(f"{ADMIN}/vf3/device")
    assert write(machine, f"{ADMIN}/vf1/stop", "1") is None
    assert write(machine, f"{ADMIN}/vf1/stop", "?") == "EINVAL"
    write(machine, NUMVFS, 0)
    assert not machine.sysfs.exists(f"{ADMIN}/vf1/device")
    assert number(machine, f"{ADMIN}/vf1/profile/exec_quantum_ms") == 0
    assert number(machine, f"{ADMIN}/pf/profile/exec_quantum_ms") == 7


def test_vram_quota() -> None:
    machine = boot("b60")
    quota = f"{ADMIN}/vf1/profile/vram_quota"
    assert write(machine, quota, 3 * MIB) is None
    assert number(machine, quota) == 4 * MIB
    assert write(machine, quota, 25_000 * MIB) == "ENOSPC"
    assert write(machine, NUMVFS, 2) == "EUCLEAN"
    assert write(machine, f"{ADMIN}/.bulk_profile/vram_quota", 1024 * MIB) is None
    assert write(machine, NUMVFS, 2) is None
    assert write(machine, quota, 0) == "EBUSY"
    write(machine, NUMVFS, 0)
    assert number(machine, quota) == 0, "everything is released on disable"
    assert write(machine, f"{ADMIN}/.bulk_profile/vram_quota", 4096 * MIB) == "ENOSPC"
    assert number(machine, quota) == 0, "all or nothing"


def test_fair_shares_show_while_enabled() -> None:
    machine = boot("b60")
    write(machine, NUMVFS, 3)
    assert number(machine, f"{ADMIN}/vf3/profile/vram_quota") == (24480 - 128) // 3 // 2 * 2 * MIB


def test_debugfs_shares_the_state() -> None:
    machine = boot("b60")
    write(machine, f"{DEBUG}/vf1/tile0/gt0/exec_quantum_ms", 11)
    assert errno_of(lambda: machine.sysfs.read(f"{ADMIN}/vf1/profile/exec_quantum_ms")) == "EUCLEAN"
    write(machine, f"{DEBUG}/vf1/tile0/gt1/exec_quantum_ms", 11)
    assert number(machine, f"{ADMIN}/vf1/profile/exec_quantum_ms") == 11
    write(machine, f"{DEBUG}/vf1/tile0/vram_quota", 100 * MIB)
    assert number(machine, f"{ADMIN}/vf1/profile/vram_quota") == 100 * MIB
    assert text(machine, f"{DEBUG}/pf/tile0/vram_provisioned") == f"VF1: {100 * MIB}"
    write(machine, f"{DEBUG}/restore_auto_provisioning", 1)
    assert number(machine, f"{ADMIN}/vf1/profile/vram_quota") == 0
    write(machine, f"{DEBUG}/lockdown_vfs_enabling", "y")
    assert write(machine, NUMVFS, 1) == "EPERM"


@pytest.mark.parametrize("name", ["survivability_mode", "survivability_info"])
def test_survivability(name: str) -> None:
    machine = boot("survivability")
    assert machine.sysfs.exists(f"{PF}/{name}")
    assert machine.sysfs.exists(f"{PF}/driver")
    assert not machine.sysfs.exists(f"{PF}/drm")
    assert not machine.sysfs.exists(f"bus/pci/devices/0000:83:00.0/{name}")
    write(machine, "bus/pci/drivers/xe/unbind", "0000:03:00.0")
    assert not machine.sysfs.exists(f"{PF}/{name}")


def test_integrated_gpu_has_vfs_but_no_memory() -> None:
    machine = boot("igpu-xe")
    pf = "bus/pci/devices/0000:00:02.0"
    assert text(machine, f"{pf}/sriov_totalvfs") == "7"
    machine.foreign_numvfs("0000:00:02.0", 7)
    assert machine.sysfs.readlink(f"{pf}/virtfn6") == "../0000:00:02.7"
