"""Machines and directories that are not as one would like them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import gpusim
from tests.cdi_rules import specs_in
from tests.engine import hardware
from tests.engine.hardware import assert_pristine
from tests.engine.machines import (
    Node,
    allocation,
    blocked,
    cards,
    is_ready,
    limited,
    manifest,
    phases,
    running,
    vf_claim,
    vfio,
    why_not,
)

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ONE, OTHER = "0000:03:00.0", "0000:83:00.0"


def test_no_gpus(tmp_path: Path) -> None:
    with running(tmp_path, "no-gpus") as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest()))
        node.want(manifest({"a": ["0000-03-00-0-0x56c0"]}))
        assert phases(node.status) == {"a": "Refused"}
        assert "no Intel GPU" in allocation(node.status, "a").message


def test_a_gpu_without_drm_devices(tmp_path: Path) -> None:
    with running(tmp_path, "survivability") as bench:
        node, (sick, healthy) = Node(bench), bench.gpus
        node.want(manifest({"a": [sick], "b": [f"{healthy}-fs2-vf0"]}))
        assert phases(node.status) == {"a": "Converging", "b": "Ready"}
        assert "no DRM device nodes" in allocation(node.status, "a").message
        (device,) = (one for one in node.status.devices if one.name == sick)
        assert [one.cause for one in device.sickness] == ["Survivability"]
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_a_gpu_without_driver_gets_its_own_and_keeps_it(tmp_path: Path) -> None:
    with running(tmp_path, "unbound") as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest()))
        assert hardware.driver(bench.machine, ONE) is None
        assert is_ready(node.want(manifest({"a": [f"{bench.gpu}-fs3-vf1"]})))
        assert hardware.driver(bench.machine, ONE) == "xe"
        assert is_ready(node.want(manifest({"a": [vfio(bench.gpu)]})))
        assert is_ready(node.want(manifest()))
        assert hardware.driver(bench.machine, ONE) == "xe"
        assert_pristine(bench)


def test_a_gpu_passed_through_without_ever_having_had_a_driver_has_none_again(tmp_path: Path) -> None:
    with running(tmp_path, "unbound") as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest({"a": [vfio(bench.gpu)]})))
        assert is_ready(node.want(manifest()))
        assert hardware.driver(bench.machine, ONE) is None
        assert_pristine(bench)


def test_vfs_that_the_kernel_does_not_probe(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        bench.machine.sysfs.write(f"{hardware.pf(ONE)}/sriov_drivers_autoprobe", "0")
        node = Node(bench)
        assert is_ready(node.want(manifest({"a": [f"{bench.gpu}-fs4-vf1"], "b": [vfio(f"{bench.gpu}-fs4-vf2")]})))
        assert hardware.vf_drivers(bench.machine, ONE) == [None, "xe", "vfio-pci", None]
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_passthrough_without_iommu(tmp_path: Path) -> None:
    with running(tmp_path, replace(cards(("b60", ONE)), iommu=False)) as bench:
        node = Node(bench)
        node.want(manifest({"vm": [vfio(bench.gpu)]}))
        assert phases(node.status) == {"vm": "Blocked"}
        assert "IOMMU" in allocation(node.status, "vm").message
        assert node.writes == []


def test_passthrough_of_one_of_two_gpus_in_a_group(tmp_path: Path) -> None:
    spec = cards(("b60", ONE), ("arc-b580", OTHER))
    spec = replace(spec, gpus=tuple(replace(gpu, iommu_group=40) for gpu in spec.gpus))
    with running(tmp_path, spec) as bench:
        node = Node(bench)
        node.want(manifest({"vm": [vfio(bench.gpu)]}))
        assert phases(node.status) == {"vm": "Blocked"}
        assert OTHER in allocation(node.status, "vm").message
        assert node.writes == []


def test_local_memory_that_only_the_bar_tells_of(tmp_path: Path) -> None:
    """Whether ECC is on can't be told: the quotas are those that fit either way."""
    spec = cards(("flex170", ONE))
    spec = replace(spec, gpus=tuple(replace(gpu, lmem_files=False) for gpu in spec.gpus))
    with running(tmp_path, spec) as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest({"a": [f"{bench.gpu}-m2-vf0"]})))
        hardware.assert_profile(bench.machine, ONE, "flex170_m2", ecc_on=True)
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


@pytest.mark.parametrize("device", [lambda pf: f"{pf}-fs2-vf0", vfio], ids=["vf", "passthrough"])
def test_withdrawn_while_the_gpu_is_pulled(
    device: Callable[[str], str | dict[str, object]], tmp_path: Path
) -> None:
    with running(tmp_path, cards(("b60", ONE), ("igpu", OTHER))) as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest({"a": [device(bench.gpu)], "b": [bench.gpus[1]]})))
        bench.machine.unplug(ONE)
        node.want(manifest({"b": [bench.gpus[1]]}))
        assert is_ready(node.status), why_not(node.status)
        assert list(specs_in(bench.cdi)) == ["intel.com-gpu_alloc-b.json"]
        bench.machine.plug(ONE)
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_another_gpu_in_the_same_slot(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE), ("igpu", OTHER))) as bench:
        node, wanted = Node(bench), manifest({"a": [f"{bench.gpu}-fs2-vf0"], "b": [bench.gpus[1]]})
        assert is_ready(node.want(wanted))
        bench.machine.unplug(ONE)
        (flex170,) = cards(("flex170", ONE)).gpus
        bench.machine.plug(flex170)
        node.settle()
        assert phases(node.status) == {"a": "Refused", "b": "Ready"}
        assert is_ready(node.want(manifest({"a": [f"{bench.name_of(flex170)}-m2-vf0"]})))
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        assert is_ready(node.want(manifest()))
        hardware.assert_plain(bench.machine, flex170)
        assert list(bench.cdi.iterdir()) == []


def test_a_directory_where_a_spec_file_should_be(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE), ("igpu", OTHER))) as bench:
        node, odd = Node(bench), bench.cdi / "intel.com-gpu_alloc-a.json"
        odd.mkdir()
        node.want(manifest({"a": [bench.gpu], "b": [bench.gpus[1]]}))
        assert phases(node.status) == {"a": "Failed", "b": "Ready"}
        assert "alloc-a.json" in allocation(node.status, "a").message
        odd.rmdir()
        node.wait_ready()
        odd.unlink()
        odd.mkdir()
        node.want(manifest({"b": [bench.gpus[1]]}))
        assert phases(node.status)["b"] == "Ready"
        assert not is_ready(node.status)
        odd.rmdir()
        node.wait_ready()
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_a_mark_that_cannot_be_read_only_stops_removals(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE), ("igpu", OTHER))) as bench:
        node = Node(bench, cluster=True)
        first, other = vf_claim(bench.gpu, "fs2", 0), {"device": bench.gpus[1], "physicalFunction": bench.gpus[1]}
        assert is_ready(node.want(manifest(claims={"uid-1": first})))
        mark = Path(bench.roots.marks_dir, "uid-9.json")
        mark.write_text("{")
        node.want(manifest(claims={"uid-2": other}))
        assert phases(node.status)["uid-2"] == "Ready"
        assert hardware.num_vfs(bench.machine, ONE) == 2
        assert "marks" in blocked(node.status)
        mark.unlink()
        node.settle()
        assert is_ready(node.status), why_not(node.status)
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_a_record_that_cannot_be_written_stops_all_changes(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node, record = Node(bench), Path(bench.roots.ownership_file)
        shutil.rmtree(record.parent)
        record.parent.write_text("no directory")
        node.want(manifest({"a": [f"{bench.gpu}-fs2-vf0"]}))
        assert not is_ready(node.status)
        assert node.writes == []
        assert list(bench.cdi.iterdir()) == []
        record.parent.unlink()
        record.parent.mkdir()
        node.settle("resync")
        assert is_ready(node.status), why_not(node.status)
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_nothing_is_written_when_all_is_right(tmp_path: Path) -> None:
    with running(tmp_path, limited(gpusim.load_machine("mixed"), 2)) as bench:
        wanted = manifest(
            {
                "a": [f"{bench.gpus[1]}-m1-vf0", vfio(f"{bench.gpus[6]}-fs2-vf1")],
                "b": [f"{bench.gpus[7]}-shared"],
                "c": [vfio(bench.gpus[0])],
            }
        )
        bench.reach(wanted)
        files = [*bench.cdi.iterdir(), Path(bench.roots.ownership_file)]
        before = {file: file.stat().st_mtime_ns for file in files}
        node = Node(bench)
        assert is_ready(node.settle())
        assert len(node.passes) == 1
        assert node.writes == []
        assert {file: file.stat().st_mtime_ns for file in files} == before
        bench.reach(manifest())
        assert_pristine(bench)


def test_a_wedged_gpu_is_said_to_be_sick(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE), ("igpu", OTHER))) as bench:
        node = Node(bench)
        bench.machine.wedge(ONE)
        node.want(manifest({"a": [f"{bench.gpu}-fs2-vf0"], "b": [bench.gpus[1]]}))
        assert phases(node.status) == {"a": "Failed", "b": "Ready"}
        assert "wedged" in allocation(node.status, "a").message
        hardware.assert_plain(bench.machine, bench.machine.spec.gpus[0])
        # Bound anew it is well again, whoever did that.
        for file in ("unbind", "bind"):
            bench.machine.sysfs.write(f"bus/pci/drivers/xe/{file}", ONE)
        node.wait_ready()
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_faults_of_the_simulator_reach_the_engine() -> None:
    """The scripts rely on rules that name a path and leave the first writes alone."""
    machine = gpusim.Machine(cards(("b60", ONE)))
    path = machine.sysfs.realpath(f"{hardware.pf(ONE)}/sriov_numvfs")
    rule = gpusim.FaultRule(on=gpusim.Operation.WRITE, path=path, error="EIO", after=1, count=1)
    machine.add_faults(rule)
    machine.sysfs.write(path, "0")
    with pytest.raises(OSError, match="Input/output error"):
        machine.sysfs.write(path, "0")
    machine.sysfs.write(path, "0")
