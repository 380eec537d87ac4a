"""What people decide by hand: overrides, pauses, foreign VFs; and what a reboot and broken files leave of it."""

from pathlib import Path

import pytest

from tests.cdi_rules import specs_in
from tests.engine import hardware
from tests.engine.hardware import assert_pristine, assert_sound
from tests.engine.machines import (
    Node,
    allocation,
    blocked,
    cards,
    is_ready,
    manifest,
    phases,
    running,
    vfio,
    why_not,
)

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ONE, OTHER = "0000:03:00.0", "0000:83:00.0"


def test_reboot(tmp_path: Path) -> None:
    """Everything is made again, from the disk alone; records of the boot before prove nothing."""
    machine = cards(("flex170", ONE), ("b60", OTHER))
    with running(tmp_path, machine) as bench:
        first, second = bench.gpus
        wanted = manifest({"vf": [f"{first}-m2-vf1"], "vm": [vfio(second)]})
        assert is_ready(Node(bench).want(wanted))
        before = specs_in(bench.cdi)
        bench.reboot()
        assert hardware.driver(bench.machine, OTHER) == "xe"
        node = Node(bench)
        status = node.settle()
        assert is_ready(status), why_not(status)
        assert status.boot_id == bench.machine.boot_id
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        assert hardware.driver(bench.machine, OTHER) == "vfio-pci"
        assert specs_in(bench.cdi).keys() == before.keys()
        assert_sound(bench)
        bench.reboot()
        status = Node(bench).want(manifest())
        assert is_ready(status), why_not(status)
        assert_pristine(bench)


def test_vfs_found_after_a_reboot_are_not_ours(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        wanted = manifest({"vf": [f"{bench.gpu}-fs2-vf0"]})
        assert is_ready(Node(bench).want(wanted))
        bench.reboot()
        bench.machine.foreign_numvfs(ONE, 3)
        node = Node(bench)
        node.settle()
        assert phases(node.status) == {"vf": "Blocked"}
        assert "somebody else" in allocation(node.status, "vf").message
        node.want(manifest())
        assert is_ready(node.status), why_not(node.status)
        assert hardware.num_vfs(bench.machine, ONE) == 3


def test_foreign_vfs_are_left_alone_until_they_are_adopted(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench)
        bench.machine.foreign_numvfs(ONE, 3)
        assert is_ready(node.want(manifest()))
        node.want(manifest({"mine": [f"{bench.gpu}-fs3-vf0"], "whole": [bench.gpu]}))
        assert phases(node.status)["mine"] == "Blocked"
        assert "mode Fixed" in allocation(node.status, "mine").message
        node.want(manifest({"whole": [bench.gpu]}))
        assert phases(node.status) == {"whole": "Blocked"}
        fixed = {bench.gpu: {"mode": "Fixed", "virtualFunctions": {"profile": "fs3"}}}
        node.want(manifest({"mine": [f"{bench.gpu}-fs3-vf0"]}, overrides=fixed))
        assert is_ready(node.status), why_not(node.status)
        assert hardware.num_vfs(bench.machine, ONE) == 3
        assert bench.ownership().layouts[bench.gpu].count == 3
        node.want(manifest())
        assert is_ready(node.status), why_not(node.status)
        assert_pristine(bench)


def test_an_override_that_names_another_layout_adopts_nothing(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench)
        bench.machine.foreign_numvfs(ONE, 3)
        fixed = {bench.gpu: {"mode": "Fixed", "virtualFunctions": {"profile": "fs2"}}}
        node.want(manifest(overrides=fixed))
        assert not is_ready(node.status)
        assert "somebody else" in blocked(node.status)
        assert hardware.num_vfs(bench.machine, ONE) == 3


def test_a_foreign_driver_is_left_alone_until_an_override_takes_it_over(tmp_path: Path) -> None:
    with running(tmp_path, "passthrough") as bench:
        node, (_, passed) = Node(bench), bench.gpus
        assert is_ready(node.want(manifest()))
        node.want(manifest({"pod": [f"{passed}-fs2-vf0"]}))
        assert phases(node.status) == {"pod": "Blocked"}
        assert hardware.driver(bench.machine, OTHER) == "vfio-pci"
        taken = {passed: {"mode": "Managed", "kernelDriver": "drm"}}
        node.want(manifest({"pod": [f"{passed}-fs2-vf0"]}, overrides=taken))
        assert is_ready(node.status), why_not(node.status)
        assert hardware.driver(bench.machine, OTHER) == "xe"


def test_a_fixed_layout_stays_without_users(tmp_path: Path) -> None:
    with running(tmp_path, cards(("flex170", ONE))) as bench:
        node = Node(bench)
        fixed = {bench.gpu: {"mode": "Fixed", "virtualFunctions": {"profile": "flex170_m2"}}}
        assert is_ready(node.want(manifest(overrides=fixed)))
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        node.want(manifest({"a": [f"{bench.gpu}-m1-vf0"], "b": [f"{bench.gpu}-m2-vf0"]}, overrides=fixed))
        assert phases(node.status) == {"a": "Blocked", "b": "Ready"}
        assert "spec.overrides[0]" in allocation(node.status, "a").message
        node.want(manifest(overrides=fixed))
        node.wait(600)
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        node.want(manifest())
        assert_pristine(bench)


def test_a_fixed_driver(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench)
        fixed = {bench.gpu: {"mode": "Fixed", "kernelDriver": "vfio"}}
        assert is_ready(node.want(manifest(overrides=fixed)))
        assert hardware.driver(bench.machine, ONE) == "vfio-pci"
        node.want(manifest({"vm": [vfio(bench.gpu)]}, overrides=fixed))
        assert is_ready(node.status), why_not(node.status)
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_a_drained_gpu_keeps_its_users_and_takes_no_more(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE), ("igpu", OTHER))) as bench:
        node = Node(bench)
        drained = {bench.gpu: {"mode": "Drain", "reason": "fan"}}
        before, other = {"a": [f"{bench.gpu}-fs2-vf0"]}, {"c": [bench.gpus[1]]}
        assert is_ready(node.want(manifest(before)))
        node.want(manifest({**before, "b": [f"{bench.gpu}-fs2-vf1"], **other}, overrides=drained))
        assert phases(node.status) == {"a": "Ready", "b": "Blocked", "c": "Ready"}
        assert "fan" in allocation(node.status, "b").message
        node.want(manifest(overrides=drained))
        assert is_ready(node.status), why_not(node.status)
        assert_pristine(bench)


def test_an_ignored_gpu_is_not_touched(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE), ("igpu", OTHER))) as bench:
        node = Node(bench)
        ignored = {bench.gpu: {"mode": "Ignore"}}
        node.want(manifest({"a": [f"{bench.gpu}-fs2-vf0"], "b": [bench.gpus[1]]}, overrides=ignored))
        assert phases(node.status) == {"a": "Blocked", "b": "Ready"}
        assert node.writes == []
        bench.machine.foreign_numvfs(ONE, 4)
        node.settle("resync")
        assert hardware.num_vfs(bench.machine, ONE) == 4
        bench.machine.foreign_numvfs(ONE, 0)
        node.want(manifest({"a": [f"{bench.gpu}-fs2-vf0"]}))
        assert is_ready(node.status), why_not(node.status)
        # With VFs of ours below it: everything stays as it is, also the user's files.
        node.want(manifest({"a": [f"{bench.gpu}-fs2-vf0"]}, overrides=ignored))
        assert phases(node.status) == {"a": "Ready"}
        node.want(manifest(overrides=ignored))
        node.wait(600)
        assert hardware.num_vfs(bench.machine, ONE) == 2
        node.want(manifest())
        assert is_ready(node.status), why_not(node.status)
        assert_pristine(bench)


def test_paused(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench)
        wanted = {"a": [f"{bench.gpu}-fs2-vf0"]}
        node.want(manifest(wanted, paused=True))
        assert phases(node.status) == {"a": "Pending"}
        assert "paused" in blocked(node.status)
        assert (node.writes, list(bench.cdi.iterdir())) == ([], [])
        assert is_ready(node.want(manifest(wanted)))
        node.want(manifest(paused=True))
        node.wait(600)
        assert hardware.num_vfs(bench.machine, ONE) == 2
        assert len(specs_in(bench.cdi)) == 1
        node.want(manifest(wanted, paused=True))
        assert phases(node.status) == {"a": "Ready"}
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_a_broken_file_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node, good = Node(bench), manifest({"a": [f"{bench.gpu}-fs2-vf0"]})
        assert is_ready(node.want(good))
        for broken, word in (
            ("spec: [", "node.yaml"),
            ("apiVersion: gpu.dra.intel.com/v1alpha1\nkind: GpuNodeState\nspec: {polcy: {}}\n", "spec.polcy"),
            ("", "node.yaml"),
        ):
            bench.file.write_text(broken)
            status = node.settle()
            stalled = next(one for one in status.conditions if one.type == "Stalled")
            assert (stalled.status, is_ready(status)) == ("True", False)
            assert word in stalled.message
            assert phases(status) == {"a": "Ready"}
        bench.file.unlink()
        node.settle()
        assert phases(node.status) == {"a": "Ready"}
        assert hardware.num_vfs(bench.machine, ONE) == 2
        # A new agent has never seen a good one: it takes nothing away.
        fresh = Node(bench)
        fresh.settle()
        fresh.wait(600)
        assert not is_ready(fresh.status)
        assert hardware.num_vfs(bench.machine, ONE) == 2
        assert len(specs_in(bench.cdi)) == 1
        assert is_ready(fresh.want(good))
        assert is_ready(fresh.want(manifest()))
        assert_pristine(bench)


def test_a_slip_of_the_editor_takes_nothing_away(tmp_path: Path) -> None:
    with running(tmp_path, cards(("flex170", ONE))) as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest({"a": [f"{bench.gpu}-m2-vf0"]})))
        node.want(manifest({"a": [f"{bench.gpu}-m3-vf0"]}))
        assert phases(node.status) == {"a": "Refused"}
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        assert list(specs_in(bench.cdi)) == ["intel.com-gpu_alloc-a.json"]
        fresh = Node(bench)
        fresh.settle()
        assert phases(fresh.status) == {"a": "Refused"}
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        assert is_ready(fresh.want(manifest()))
        assert_pristine(bench)


def test_export_of_what_follows_no_profile_is_to_leave_it_alone(tmp_path: Path) -> None:
    with running(tmp_path, cards(("flex170", ONE), ("b60", OTHER))) as bench:
        for vf, lmem in ((1, 512 << 20), (2, 256 << 20)):
            base = f"{hardware.pf(ONE)}/drm/card0/prelim_iov/vf{vf}/gt"
            for name, value in (("lmem_quota", lmem), ("ggtt_quota", 64 << 20), ("contexts_quota", 256)):
                bench.machine.sysfs.write(f"{base}/{name}", str(value))
        bench.machine.foreign_numvfs(ONE, 2)
        bench.machine.foreign_numvfs(OTHER, 4)
        exported = bench.exported()
        status = bench.reach(exported)
        assert is_ready(status)
        modes = {one["device"]: one["mode"] for one in exported["spec"]["overrides"]}  # type: ignore[index]
        assert modes == {bench.gpu: "Ignore", bench.gpus[1]: "Fixed"}
        assert (hardware.num_vfs(bench.machine, ONE), hardware.num_vfs(bench.machine, OTHER)) == (2, 4)
