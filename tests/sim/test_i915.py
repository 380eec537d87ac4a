"""i915's provisioning files: quotas, manual and automatic configuration."""

import pytest

import gpusim
from tests.sim.simulated import PF, boot, number, text, write

IOV = "class/drm/card0/prelim_iov"
VF1 = f"{IOV}/vf1/gt"
AUTO = f"{IOV}/pf/auto_provisioning"
NUMVFS = f"{PF}/sriov_numvfs"
MIB = 1 << 20


def configure(machine: gpusim.Machine, vf: int, **quotas: int) -> None:
    values = {"contexts": 1024, "ggtt": 100 * MIB, "lmem": 512 * MIB, **quotas}
    for name, value in values.items():
        assert write(machine, f"{IOV}/vf{vf}/gt/{name}_quota", value) is None


def test_quota_directories_exist_without_vfs() -> None:
    machine = boot("flex170")
    assert len(machine.sysfs.listdir(IOV)) == 31 + 2
    assert "device" not in machine.sysfs.listdir(f"{IOV}/vf1")
    assert machine.sysfs.realpath(f"{IOV}/pf/device") == machine.sysfs.realpath(PF)
    assert "sched_priority" in machine.sysfs.listdir(f"{IOV}/pf/gt")
    assert "sched_priority" not in machine.sysfs.listdir(VF1)
    write(machine, NUMVFS, 2)
    assert machine.sysfs.realpath(f"{IOV}/vf2/device") == machine.sysfs.realpath(f"{PF}/virtfn1")
    write(machine, NUMVFS, 0)
    assert "device" not in machine.sysfs.listdir(f"{IOV}/vf2")


def test_backports_have_both_names_and_dkms_numbers_its_gt() -> None:
    tree = boot("flex170").sysfs
    assert tree.readlink("class/drm/card0/iov") == "prelim_iov"
    dkms = boot("igpu-dkms")
    assert not dkms.sysfs.exists("class/drm/card0/iov")
    assert not dkms.sysfs.exists(f"{VF1}/ggtt_quota")
    assert write(dkms, f"{IOV}/vf7/gt0/ggtt_quota", 4096) is None
    assert write(dkms, f"{IOV}/vf8/gt0/ggtt_quota", 4096) == "ENOENT"


def test_directory_names_follow_tiles_and_driver_series() -> None:
    assert {"gt0", "gt1"} <= set(boot("max1550").sysfs.listdir(f"{IOV}/vf1"))
    gpu = gpusim.GpuSpec(
        address="0000:03:00.0", device=0x56C0, driver="i915", sriov=gpusim.SriovSpec(total=7, iov="iov")
    )
    machine = gpusim.Machine(gpusim.MachineSpec(description="other series", gpus=(gpu,)))
    assert machine.sysfs.isdir("class/drm/card0/iov/vf7/gt")
    assert "lmem_quota" not in machine.sysfs.listdir("class/drm/card0/iov/vf7/gt"), "no local memory"


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("lmem_quota", 3 * MIB, 4 * MIB),
        ("lmem_quota", 2 * MIB, 2 * MIB),
        ("contexts_quota", 129, 256),
        ("ggtt_quota", 4096, 4096),
        ("doorbells_quota", 7, 7),
        ("exec_quantum_ms", 64, 64),
        ("preempt_timeout_us", 4_294_967_295, 4_294_967_295),
    ],
)
def test_rounding(name: str, value: int, stored: int) -> None:
    machine = boot("flex170")
    assert write(machine, f"{VF1}/{name}", value) is None
    assert number(machine, f"{VF1}/{name}") == stored
    assert text(machine, AUTO) == "0", "any quota written by hand ends automatic provisioning"


@pytest.mark.parametrize(
    ("name", "value", "errno"),
    [
        ("lmem_quota", 17_000 * MIB, "EDQUOT"),
        ("ggtt_quota", 1 << 33, "E2BIG"),
        ("ggtt_quota", (4 << 30) - 64 * MIB, "EDQUOT"),
        ("contexts_quota", 65535, "EDQUOT"),
        ("contexts_quota", 65536, "ERANGE"),
        ("doorbells_quota", 257, "EDQUOT"),
        ("lmem_quota", "many", "EINVAL"),
        ("exec_quantum_ms", 1 << 32, "ERANGE"),
    ],
)
def test_limits(name: str, value: object, errno: str) -> None:
    machine = boot("flex170")
    assert write(machine, f"{VF1}/{name}", value) == errno
    assert text(machine, AUTO) == "1"


def test_what_one_vf_has_another_cannot() -> None:
    machine = boot("flex170")
    configure(machine, 1, lmem=10_000 * MIB, contexts=65_000, doorbells=200)
    other = f"{IOV}/vf2/gt"
    assert write(machine, f"{other}/lmem_quota", 10_000 * MIB) == "EDQUOT"
    assert write(machine, f"{other}/contexts_quota", 1024) == "ENOSPC"
    assert write(machine, f"{other}/doorbells_quota", 100) == "ENOSPC"
    assert write(machine, f"{VF1}/lmem_quota", 12_000 * MIB) is None, "its own share is not in its way"


def test_automatic_shares_are_fair_and_released() -> None:
    machine = boot("flex170")
    write(machine, NUMVFS, 4)
    assert write(machine, AUTO, 1) is None, "automatic it is already"
    quotas = [number(machine, f"{IOV}/vf{vf}/gt/lmem_quota") for vf in range(1, 6)]
    assert quotas == [(16256 - 128) // 4 // 2 * 2 * MIB] * 4 + [0]
    assert number(machine, f"{PF}/virtfn0/drm/card1/lmem_total_bytes") == quotas[0]
    assert number(machine, "class/drm/card0/lmem_total_bytes") == 16256 * MIB
    write(machine, NUMVFS, 0)
    assert number(machine, f"{VF1}/lmem_quota") == 0
    assert text(machine, AUTO) == "1"


def test_manual_configuration_must_be_whole_and_survives() -> None:
    machine = boot("flex170")
    configure(machine, 1)
    assert write(machine, NUMVFS, 2) == "ENOKEY"
    assert number(machine, NUMVFS) == 0
    configure(machine, 2)
    assert write(machine, f"{IOV}/vf2/gt/ggtt_quota", 0) is None
    assert write(machine, NUMVFS, 2) == "ENOKEY"
    configure(machine, 2)
    assert write(machine, NUMVFS, 2) is None
    assert write(machine, f"{VF1}/lmem_quota", 0) == "EBUSY"
    write(machine, NUMVFS, 0)
    assert number(machine, f"{VF1}/lmem_quota") == 512 * MIB


def test_back_to_automatic_only_when_all_is_empty() -> None:
    machine = boot("flex170")
    configure(machine, 1)
    write(machine, f"{VF1}/exec_quantum_ms", 8)
    assert write(machine, AUTO, 1) == "ESTALE"
    for name in ("contexts_quota", "ggtt_quota", "lmem_quota"):
        write(machine, f"{VF1}/{name}", 0)
    assert write(machine, AUTO, 1) == "ESTALE", "the quantum is left"
    write(machine, f"{VF1}/exec_quantum_ms", 0)
    assert write(machine, AUTO, 1) is None
    assert write(machine, AUTO, 0) is None
    assert write(machine, NUMVFS, 1) == "ENOKEY", "manual, and nothing configured"
    assert write(machine, AUTO, "perhaps") == "EINVAL"


def test_tiles_have_pools_of_their_own() -> None:
    machine = boot("max1550")
    for gt in ("gt0", "gt1"):
        assert write(machine, f"{IOV}/vf1/{gt}/lmem_quota", 60 * 1024 * MIB) is None
    assert write(machine, f"{IOV}/vf2/gt0/lmem_quota", 60 * 1024 * MIB) == "EDQUOT"
    assert number(machine, "class/drm/card0/lmem_total_bytes") == 128 * 1024 * MIB


def test_physical_function_files() -> None:
    machine = boot("flex170")
    gt = f"{IOV}/pf/gt"
    assert number(machine, f"{gt}/lmem_spare") == 128 * MIB
    assert write(machine, f"{gt}/lmem_spare", 127 * MIB) == "EINVAL"
    assert write(machine, f"{gt}/lmem_spare", 0) is None
    assert number(machine, f"{gt}/available/lmem_free") == 16256 * MIB
    assert write(machine, f"{gt}/sched_priority", 256) == "ERANGE"
    assert write(machine, f"{gt}/policies/sched_if_idle", "y") is None
    assert text(machine, f"{gt}/policies/sched_if_idle") == "1"
    assert write(machine, f"{IOV}/vf1/control", "explode") == "EINVAL"
    assert write(machine, f"{IOV}/vf1/control", "pause\n") is None


def test_rebinding_forgets_manual_configuration() -> None:
    machine = boot("flex170")
    configure(machine, 1)
    write(machine, "bus/pci/drivers/i915/unbind", "0000:03:00.0")
    write(machine, "bus/pci/drivers/i915/bind", "0000:03:00.0")
    assert number(machine, f"{VF1}/lmem_quota") == 0
    assert text(machine, AUTO) == "1"
