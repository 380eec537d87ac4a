"""Where quotas of VFs are, for each kernel interface, and what is read of them."""

from dataclasses import replace
from pathlib import Path

import pytest

import gpusim
from reconciler.node.provisioning_paths import QuotaField, QuotaFiles, locate
from reconciler.node.sriov import read_quotas
from state.ids import PciAddress
from state.observed import Provisioner, ProvisioningSeen, SriovSeen, Unreadable
from state.profiles import EMPTY_TILE_QUOTA, MIB, TileQuota
from tests.unit.node.machines import PF, only_gpu, plain

GPU = PciAddress("0000:03:00.0")
ALL = set(QuotaField)


def tree(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{text}\n")
    return root


def i915(iov: str, *gts: str, without: tuple[str, ...] = ()) -> dict[str, str]:
    names = (
        "contexts_quota",
        "doorbells_quota",
        "exec_quantum_ms",
        "preempt_timeout_us",
        "ggtt_quota",
        "lmem_quota",
    )
    return {f"{iov}/pf/auto_provisioning": "0"} | {
        f"{iov}/vf{vf}/{gt}/{name}": str(vf * 10)
        for vf in (1, 2, 3)
        for gt in gts
        for name in names
        if name not in without
    }


def found(root: Path, driver: str) -> QuotaFiles:
    files = locate(f"{root}", f"{root}/{PF}", GPU, driver)
    assert isinstance(files, QuotaFiles)
    return files


@pytest.mark.parametrize("iov", ["prelim_iov", "iov"])
@pytest.mark.parametrize("gts", [("gt",), ("gt0",), ("gt0", "gt1")])
def test_i915(tmp_path: Path, iov: str, gts: tuple[str, ...]) -> None:
    base = f"{PF}/drm/card12/{iov}"
    tree(tmp_path, i915(base, *gts))
    files = found(tmp_path, "i915")
    assert (files.provisioner, files.writable) == (Provisioner.I915_IOV, True)
    assert files.automatic == f"{tmp_path}/{base}/pf/auto_provisioning"
    assert len(files.tiles) == len(gts)
    for tile, gt in enumerate(gts):
        assert files.tiles[tile].keys() == ALL
        assert files.path(2, tile, QuotaField.LMEM) == f"{tmp_path}/{base}/vf3/{gt}/lmem_quota"


def test_i915_media_gt_is_no_tile(tmp_path: Path) -> None:
    base = f"{PF}/drm/card0/prelim_iov"
    tree(tmp_path, i915(base, "gt0", "gt1", without=("lmem_quota",)))
    (tmp_path / base / "vf1/gt1/ggtt_quota").chmod(0o444)
    files = found(tmp_path, "i915")
    assert len(files.tiles) == 1
    assert files.path(0, 0, QuotaField.GGTT) == f"{tmp_path}/{base}/vf1/gt0/ggtt_quota"
    assert files.path(0, 0, QuotaField.LMEM) is None


def test_i915_that_only_shows_quotas(tmp_path: Path) -> None:
    base = f"{PF}/drm/card0/prelim_iov"
    tree(tmp_path, i915(base, "gt"))
    (tmp_path / base / "vf1/gt/ggtt_quota").chmod(0o444)
    assert found(tmp_path, "i915").writable is False


@pytest.mark.parametrize("driver", ["i915", "xe", "vfio-pci", None])
def test_without_files_there_is_no_provisioning(tmp_path: Path, driver: str | None) -> None:
    (tmp_path / PF / "drm/card0").mkdir(parents=True)
    assert locate(f"{tmp_path}", f"{tmp_path}/{PF}", GPU, driver) is None


def test_xe_sysfs(tmp_path: Path) -> None:
    profile = f"{PF}/sriov_admin/vf1/profile"
    tree(tmp_path, {f"{profile}/exec_quantum_ms": "0", f"{profile}/preempt_timeout_us": "0"})
    files = found(tmp_path, "xe")
    assert (files.provisioner, files.writable, len(files.tiles)) == (Provisioner.XE_SYSFS, False, 1)
    tree(tmp_path, {f"{profile}/vram_quota": "0"})
    files = found(tmp_path, "xe")
    assert files.writable is True
    path = f"{tmp_path}/{PF}/sriov_admin/vf2/profile/vram_quota"
    assert files.path(1, 0, QuotaField.LMEM) == path


def test_xe_debugfs(tmp_path: Path) -> None:
    base = f"kernel/debug/dri/{GPU}/sriov"
    for tile, gts in (("tile0", ("gt0", "gt1")), ("tile1", ("gt2", "gt3"))):
        tree(tmp_path, {f"{base}/vf1/{tile}/{name}": "0" for name in ("ggtt_quota", "vram_quota")})
        tree(
            tmp_path,
            {
                f"{base}/vf1/{tile}/{gt}/{name}": "0"
                for gt in gts
                for name in ("contexts_quota", "doorbells_quota", "exec_quantum_ms", "preempt_timeout_us")
            },
        )
    tree(tmp_path, {f"{base}/restore_auto_provisioning": ""})
    files = found(tmp_path, "xe")
    assert (files.provisioner, files.writable) == (Provisioner.XE_DEBUGFS, True)
    assert files.restore == f"{tmp_path}/{base}/restore_auto_provisioning"
    assert [tile.keys() for tile in files.tiles] == [ALL, ALL]
    assert files.path(4, 1, QuotaField.LMEM) == f"{tmp_path}/{base}/vf5/tile1/vram_quota"
    assert files.path(4, 1, QuotaField.CONTEXTS) == f"{tmp_path}/{base}/vf5/tile1/gt2/contexts_quota"


def test_xe_debugfs_that_may_not_be_opened_is_not_used(tmp_path: Path) -> None:
    """As on a locked-down kernel; a directory in the file's place is what fails here."""
    base = f"kernel/debug/dri/{GPU}/sriov/vf1/tile0"
    (tmp_path / base / "ggtt_quota").mkdir(parents=True)
    assert locate(f"{tmp_path}", f"{tmp_path}/{PF}", GPU, "xe") is None


def test_xe_debugfs_before_6_19(tmp_path: Path) -> None:
    base = f"kernel/debug/dri/{GPU}"
    names = ("ggtt_quota", "lmem_quota", "contexts_quota", "doorbells_quota", "exec_quantum_ms")
    tree(tmp_path, {f"{base}/gt0/vf1/{name}": "0" for name in (*names, "preempt_timeout_us")})
    tree(tmp_path, {f"{base}/gt1/vf1/contexts_quota": "0"})
    files = found(tmp_path, "xe")
    assert (files.provisioner, len(files.tiles)) == (Provisioner.XE_DEBUGFS, 1)
    assert files.path(0, 0, QuotaField.LMEM) == f"{tmp_path}/{base}/gt0/vf1/lmem_quota"


def test_the_first_vf_is_read_whole_and_the_others_where_profiles_differ(tmp_path: Path) -> None:
    base = f"{PF}/drm/card0/prelim_iov"
    tree(tmp_path, i915(base, "gt0", "gt1"))
    quotas = read_quotas(found(tmp_path, "i915"), 3, enabled=3)
    whole = TileQuota(contexts=10, doorbells=10, exec_quantum_ms=10, preempt_timeout_us=10, ggtt=10, lmem=10)
    assert quotas == (
        (whole, whole),
        (TileQuota(lmem=20), TileQuota()),
        (TileQuota(lmem=30), TileQuota()),
    )


def test_before_vfs_are_enabled_all_that_have_something_are_read_whole(tmp_path: Path) -> None:
    """Who set the quotas may have been killed on the last VF, between its memory and the rest."""
    base = f"{PF}/drm/card0/prelim_iov"
    tree(tmp_path, i915(base, "gt0", "gt1") | {f"{base}/vf3/gt1/preempt_timeout_us": "0"})
    quotas = read_quotas(found(tmp_path, "i915"), 3, enabled=0)
    assert isinstance(quotas, tuple)
    assert quotas[2][1].preempt_timeout_us == 0
    assert quotas[2][1].lmem == quotas[2][0].preempt_timeout_us == 30


def test_without_local_memory_the_ggtt_tells(tmp_path: Path) -> None:
    base = f"{PF}/drm/card0/prelim_iov"
    tree(tmp_path, i915(base, "gt", without=("lmem_quota",)))
    quotas = read_quotas(found(tmp_path, "i915"), 2, enabled=2)
    assert isinstance(quotas, tuple)
    assert quotas[1] == (TileQuota(ggtt=20),)


def test_a_driver_with_fewer_vfs_than_the_hardware(tmp_path: Path) -> None:
    tree(tmp_path, i915(f"{PF}/drm/card0/prelim_iov", "gt"))
    quotas = read_quotas(found(tmp_path, "i915"), 31, enabled=31)
    assert isinstance(quotas, tuple)
    assert len(quotas) == 3


def test_a_garbled_quota_is_named(tmp_path: Path) -> None:
    base = f"{PF}/drm/card0/prelim_iov"
    tree(tmp_path, i915(base, "gt") | {f"{base}/vf2/gt/lmem_quota": "lots"})
    problem = read_quotas(found(tmp_path, "i915"), 3, enabled=3)
    assert isinstance(problem, Unreadable)
    assert problem.path.endswith("vf2/gt/lmem_quota")
    assert "'lots'" in problem.why


def seen_after(tmp_path: Path, machine: str, *writes: tuple[str, str]) -> ProvisioningSeen:
    def prepare(simulated: gpusim.Machine) -> None:
        for path, value in writes:
            simulated.sysfs.write(f"{PF}/{path}", value)

    with plain(tmp_path, machine, prepare) as roots:
        gpu = only_gpu(roots)
    assert isinstance(gpu.sriov, SriovSeen)
    assert gpu.sriov.provisioning is not None
    return gpu.sriov.provisioning


def test_nothing_is_read_while_the_driver_provisions_by_itself(tmp_path: Path) -> None:
    seen = seen_after(tmp_path, "flex170", ("sriov_numvfs", "4"))
    assert (seen.automatic, seen.quotas) == (True, ())


def test_a_quota_set_by_hand_ends_automatic_provisioning(tmp_path: Path) -> None:
    seen = seen_after(tmp_path, "flex170", ("drm/card0/prelim_iov/vf2/gt/lmem_quota", str(100 * MIB)))
    assert seen.automatic is False
    assert len(seen.quotas) == 31
    assert seen.quotas[0] == (EMPTY_TILE_QUOTA,)
    assert seen.quotas[1] == (replace(EMPTY_TILE_QUOTA, lmem=100 * MIB),)


def test_xe_shows_what_it_set_by_itself(tmp_path: Path) -> None:
    seen = seen_after(tmp_path, "b60", ("sriov_numvfs", "2"))
    assert (seen.provisioner, seen.automatic) == (Provisioner.XE_SYSFS, None)
    assert len(seen.quotas) == 12
    assert [bool(tiles[0].lmem) for tiles in seen.quotas] == [True] * 2 + [False] * 10
