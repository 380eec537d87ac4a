"""Setting, clearing and giving back VF quotas, on every kind of GPU that has them."""

import time
from pathlib import Path

import pytest

from gpusim import FaultRule, GpuSpec, Operation, SriovSpec
from reconciler.node.apply_host import ApplyFailed, ApplyHost
from reconciler.node.applying import apply_action
from reconciler.node.roots import Roots
from state.actions import ResetProvisioning, SetNumVfs, SetVfProfile
from state.profiles import MIB, TileQuota
from tests.unit.node.applying_bench import (
    ADDRESS,
    DEVICE,
    FLEX,
    FLEX_IOV,
    INTEGRATED_I915,
    MAX,
    XE,
    XE_DEBUGFS,
    XE_VRAM,
    Bench,
    bench,
    name_of,
)

pytestmark = [pytest.mark.root, pytest.mark.fuse]

M4 = TileQuota(
    contexts=1024, doorbells=60, exec_quantum_ms=16, preempt_timeout_us=32000, ggtt=512 * MIB, lmem=3000 * MIB
)
M2 = TileQuota(
    contexts=2048, doorbells=120, exec_quantum_ms=32, preempt_timeout_us=64000, ggtt=1536 * MIB, lmem=8000 * MIB
)
I915_ORDER = [
    "contexts_quota",
    "doorbells_quota",
    "exec_quantum_ms",
    "ggtt_quota",
    "lmem_quota",
    "preempt_timeout_us",
]


def set_profile(on: Bench, count: int, quota: TileQuota) -> None:
    action = SetVfProfile(pf=name_of(on.gpu), address=ADDRESS, profile="p", count=count, quota=quota)
    apply_action(action, on.host)


def set_num_vfs(on: Bench, count: int) -> None:
    apply_action(SetNumVfs(pf=name_of(on.gpu), address=ADDRESS, count=count, profile="p"), on.host)


def reset(on: Bench) -> None:
    apply_action(ResetProvisioning(pf=name_of(on.gpu), address=ADDRESS), on.host)


def refusal(on: Bench, count: int, quota: TileQuota) -> ApplyFailed:
    with pytest.raises(ApplyFailed) as caught:
        set_profile(on, count, quota)
    assert "\n" not in str(caught.value)
    return caught.value


def quotas(on: Bench, directory: str, names: list[str]) -> list[int]:
    return [int(on.read(f"{directory}/{name}")) for name in names]


def test_i915_writes_all_six_in_order_and_enables() -> None:
    with bench(FLEX) as on:
        set_profile(on, 2, M4)
        base = f"{DEVICE}/drm/card0/prelim_iov"
        values = ["1024", "60", "16", str(512 * MIB), str(3000 * MIB), "32000"]
        assert on.writes == [
            (f"{base}/vf{vf}/gt/{name}", value)
            for vf in (1, 2)
            for name, value in zip(I915_ORDER, values, strict=True)
        ]
        assert on.read("drm/card0/prelim_iov/pf/auto_provisioning") == "0"
        assert quotas(on, "drm/card0/prelim_iov/vf2/gt", I915_ORDER) == [int(value) for value in values]
        assert quotas(on, "drm/card0/prelim_iov/vf3/gt", I915_ORDER) == [0] * 6
        set_num_vfs(on, 2)


def test_the_other_name_of_the_directory() -> None:
    with bench(FLEX_IOV) as on:
        set_profile(on, 1, M4)
        assert on.read("drm/card0/iov/vf1/gt/lmem_quota") == str(3000 * MIB)
        reset(on)
        assert on.read("drm/card0/iov/vf1/gt/lmem_quota") == "0"


def test_two_tiles_get_the_same_each() -> None:
    with bench(MAX) as on:
        set_profile(on, 3, M4)
        for tile in ("gt0", "gt1"):
            assert on.read(f"drm/card0/prelim_iov/vf3/{tile}/lmem_quota") == str(3000 * MIB)
            assert on.read(f"drm/card0/prelim_iov/vf3/{tile}/doorbells_quota") == "60"
        assert len(on.writes) == 3 * 2 * 6
        set_num_vfs(on, 3)
        set_num_vfs(on, 0)
        reset(on)
        assert on.read("drm/card0/prelim_iov/vf3/gt1/lmem_quota") == "0"


def test_without_local_memory_its_quota_is_left_out() -> None:
    with bench(INTEGRATED_I915) as on:
        set_profile(on, 1, M4)
        assert on.written("lmem_quota") == []
        assert on.written("ggtt_quota") == [str(512 * MIB)]
        set_num_vfs(on, 1)


def test_what_can_only_be_read_is_left_out() -> None:
    with bench(FLEX) as on:
        for vf in range(1, 32):
            path = f"drm/card0/prelim_iov/vf{vf}/gt/preempt_timeout_us"
            on.machine.sysfs.remove(on.machine.sysfs.realpath(f"{DEVICE}/{path}"))
            on.machine.set_attribute(f"{on.machine.sysfs.realpath(DEVICE)}/{path}", "640000")
        set_profile(on, 1, M4)
        assert on.written("preempt_timeout_us") == []
        assert len(on.writes) == 5


def test_values_that_are_none_are_not_written_but_cleared() -> None:
    with bench(FLEX) as on:
        set_profile(on, 1, M4)
        on.writes.clear()
        set_profile(on, 1, TileQuota(contexts=1024, ggtt=512 * MIB, lmem=3000 * MIB))
        assert on.written("exec_quantum_ms") == ["0"]
        assert on.read("drm/card0/prelim_iov/vf1/gt/doorbells_quota") == "0"
        assert on.read("drm/card0/prelim_iov/vf1/gt/contexts_quota") == "1024"


@pytest.mark.parametrize(
    ("first", "second"), [((4, M4), (2, M2)), ((2, M2), (4, M4)), ((31, M4), (1, M2)), ((4, M4), (2, M4))]
)
def test_from_one_profile_to_another_and_none_is_left(
    first: tuple[int, TileQuota], second: tuple[int, TileQuota]
) -> None:
    small = TileQuota(
        contexts=128, doorbells=7, exec_quantum_ms=1, preempt_timeout_us=9, ggtt=64 * MIB, lmem=64 * MIB
    )
    count, quota = first
    with bench(FLEX) as on:
        set_profile(on, count, quota if count < 31 else small)
        set_num_vfs(on, count)
        set_num_vfs(on, 0)
        set_profile(on, *second)
        set_num_vfs(on, second[0])
        for vf in range(1, 32):
            lmem = int(on.read(f"drm/card0/prelim_iov/vf{vf}/gt/lmem_quota"))
            assert lmem == (second[1].lmem if vf <= second[0] else 0), vf


def test_repeating_writes_the_same_and_clears_nothing() -> None:
    with bench(FLEX) as on:
        set_profile(on, 2, M4)
        once = list(on.writes)
        on.writes.clear()
        set_profile(on, 2, M4)
        assert on.writes == once


def test_interrupted_halfway_then_repeated() -> None:
    with bench(FLEX) as on:
        on.machine.add_faults(FaultRule(on=Operation.WRITE, path="*/vf2/gt/ggtt_quota", error="EIO", count=1))
        failed = refusal(on, 4, M4)
        assert failed.path.endswith("/vf2/gt/ggtt_quota")
        assert "wedged" in failed.why
        set_profile(on, 4, M4)
        set_num_vfs(on, 4)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("E2BIG", "more than the GPU has"),
        ("EDQUOT", "more than there is for VFs"),
        ("ENOSPC", "more than is left for VFs"),
        ("ERANGE", "more than the file can hold"),
        ("EBUSY", "the VF is enabled"),
        ("EPERM", "does not allow it"),
        ("EOPNOTSUPP", "does not have it"),
        ("EACCES", "has to run as root"),
        ("EROFS", "mounted read-only"),
        ("ENODEV", "the device is gone"),
    ],
)
def test_errors_are_explained(error: str, words: str) -> None:
    with bench(FLEX) as on:
        on.machine.add_faults(FaultRule(on=Operation.WRITE, path="*/vf1/gt/lmem_quota", error=error))
        failed = refusal(on, 1, M4)
    assert words in failed.why
    assert failed.value == str(3000 * MIB)


def test_too_much_is_refused_by_the_driver_itself() -> None:
    with bench(FLEX) as on:
        failed = refusal(on, 8, M4)
    assert failed.path.endswith("/vf5/gt/doorbells_quota")
    assert failed.why == "more than is left for VFs"


def test_quotas_of_enabled_vfs_are_not_touched() -> None:
    with bench(FLEX) as on:
        set_profile(on, 2, M4)
        set_num_vfs(on, 2)
        on.writes.clear()
        assert refusal(on, 1, M2).why == "2 VFs are enabled; they have to be turned off first"
        with pytest.raises(ApplyFailed, match="2 VFs are enabled"):
            reset(on)
        assert on.writes == []


@pytest.mark.parametrize("gpu", [FLEX, MAX])
def test_i915_gets_provisioning_back(gpu: GpuSpec) -> None:
    with bench(gpu) as on:
        set_profile(on, 2, M4)
        reset(on)
        assert on.read("drm/card0/prelim_iov/pf/auto_provisioning") == "1"
        before = len(on.writes)
        reset(on)
        assert len(on.writes) == before
        set_num_vfs(on, 3)


def test_i915_gets_it_back_when_only_the_switch_is_off() -> None:
    with bench(FLEX) as on:
        on.machine.sysfs.write(f"{DEVICE}/drm/card0/prelim_iov/pf/auto_provisioning", "0")
        reset(on)
        assert on.writes == [(f"{DEVICE}/drm/card0/prelim_iov/pf/auto_provisioning", "1")]


def test_a_quota_that_keeps_i915_from_provisioning_is_named() -> None:
    with bench(FLEX) as on:
        set_profile(on, 1, M4)
        # The driver takes the 0 and keeps what it had: the store does nothing.
        attribute = f"{DEVICE}/drm/card0/prelim_iov/vf1/gt/doorbells_quota"
        on.machine.sysfs.write(attribute, "0")
        on.machine.set_attribute(attribute, "60")
        on.machine.add_faults(FaultRule(on=Operation.WRITE, path="*/auto_provisioning", error="ESTALE"))
        with pytest.raises(
            ApplyFailed, match=r"doorbells of VF 0 \(.*/vf1/gt/doorbells_quota\) is still set"
        ) as caught:
            reset(on)
    assert caught.value.errno == 116


def test_xe_sysfs_with_memory_quotas() -> None:
    with bench(XE_VRAM) as on:
        set_profile(on, 2, M4)
        names = ["exec_quantum_ms", "vram_quota", "preempt_timeout_us"]
        assert quotas(on, "sriov_admin/vf2/profile", names) == [16, 3000 * MIB, 32000]
        assert [path.rpartition("/")[2] for path, _ in on.writes] == names * 2
        set_num_vfs(on, 2)
        set_num_vfs(on, 0)
        set_profile(on, 2, M4)
        reset(on)
        assert quotas(on, "sriov_admin/vf2/profile", names) == [0, 0, 0]


def test_xe_sysfs_without_memory_quotas_takes_scheduling() -> None:
    with bench(XE) as on:
        set_profile(on, 2, M4)
        assert quotas(on, "sriov_admin/vf2/profile", ["exec_quantum_ms", "preempt_timeout_us"]) == [16, 32000]
        reset(on)
        assert quotas(on, "sriov_admin/vf2/profile", ["exec_quantum_ms", "preempt_timeout_us"]) == [0, 0]


def test_xe_debugfs() -> None:
    with bench(XE_DEBUGFS) as on:
        set_profile(on, 2, M4)
        tree, base = on.machine.sysfs, f"kernel/debug/dri/{ADDRESS}/sriov"
        assert tree.read(f"{base}/vf2/tile0/vram_quota") == f"{3000 * MIB}\n".encode()
        assert tree.read(f"{base}/vf2/tile0/ggtt_quota") == f"{512 * MIB}\n".encode()
        assert tree.read(f"{base}/vf2/tile0/gt0/contexts_quota") == b"1024\n"
        set_num_vfs(on, 2)
        set_num_vfs(on, 0)
        set_profile(on, 2, M4)
        reset(on)
        assert tree.read(f"{base}/vf2/tile0/vram_quota") == b"0\n"
        assert on.writes[-1] == (f"{base}/restore_auto_provisioning", "1")


def test_a_quota_that_cannot_be_read_because_tiles_differ_is_cleared() -> None:
    with bench(XE_VRAM) as on:
        on.machine.add_faults(
            FaultRule(on=Operation.READ, path="*/vf1/profile/exec_quantum_ms", error="EUCLEAN", count=1)
        )
        reset(on)
        assert on.writes == [(f"{DEVICE}/sriov_admin/vf1/profile/exec_quantum_ms", "0")]


def test_without_files_for_quotas_nothing_can_be_set_and_nothing_needs_reset() -> None:
    with bench(GpuSpec(address=ADDRESS, device=0x56C0, driver="i915", sriov=SriovSpec(total=31))) as on:
        assert refusal(on, 1, M4).why == "the kernel driver lets nobody set what VFs get"
        reset(on)
        assert on.writes == []


def test_xe_debugfs_before_sriov_had_a_directory_of_its_own(tmp_path: Path) -> None:
    device = tmp_path / DEVICE
    device.mkdir(parents=True)
    (tmp_path / "bus/pci/drivers/xe").mkdir(parents=True)
    (device / "driver").symlink_to("../../drivers/xe")
    (device / "sriov_totalvfs").write_text("2\n")
    (device / "sriov_numvfs").write_text("0\n")
    for vf in (1, 2):
        files = tmp_path / f"kernel/debug/dri/{ADDRESS}/gt0/vf{vf}"
        files.mkdir(parents=True)
        for name in I915_ORDER:
            (files / name).write_text("7\n")
    host = ApplyHost(roots=Roots(sysfs=str(tmp_path)), clock=time.monotonic)
    action = SetVfProfile(pf=name_of(XE), address=ADDRESS, profile="p", count=1, quota=M4)
    apply_action(action, host)
    gt = tmp_path / f"kernel/debug/dri/{ADDRESS}/gt0"
    assert (gt / "vf1/lmem_quota").read_text() == str(3000 * MIB)
    assert (gt / "vf1/ggtt_quota").read_text() == str(512 * MIB)
    assert {(gt / "vf2" / name).read_text() for name in I915_ORDER} == {"0"}
