"""Time: a clock that jumps changes nothing, and what keeps failing is tried ever less often."""

from pathlib import Path

import pytest

import gpusim
from tests.engine.hardware import assert_plain, assert_pristine
from tests.engine.machines import Node, allocation, cards, is_ready, manifest, phases, running, vfio, why_not

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ONE, OTHER = "0000:03:00.0", "0000:04:00.0"
YEAR = 365 * 86400.0
HOUR = 3600.0


@pytest.mark.parametrize("jump", [YEAR, -YEAR, 40.0, -40.0])
def test_a_clock_that_jumps_neither_ends_nor_prolongs_a_wait(jump: float, tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest({"a": [f"{bench.gpu}-fs2-vf0"]}, linger=30)))
        node.want(manifest(linger=30))
        node.wait(10)
        bench.time.epoch += jump
        node.wait(15)
        assert bench.machine.sysfs.read(f"bus/pci/devices/{ONE}/sriov_numvfs") == b"2\n", "they linger 30 s"
        node.wait(10)
        assert_plain(bench.machine, bench.machine.spec.gpus[0])


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_jumps_leaves_the_back_off_alone(jump: float, tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node, on = Node(bench), gpusim.Operation.WRITE
        bench.machine.add_faults(gpusim.FaultRule(on=on, path="*/sriov_numvfs", error="EBUSY"))
        node.want(manifest({"a": [f"{bench.gpu}-fs2-vf0"]}))
        node.wait(60)
        attempts = allocation(node.status, "a").attempts
        bench.time.epoch += jump
        node.settle("resync")
        assert allocation(node.status, "a").attempts == attempts, "the jump is no reason to try again"
        bench.machine.clear_faults()
        node.wait_ready(600)


def test_the_status_file_stays_fresh_when_the_clock_jumps_back(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench)
        node.want(manifest())
        file = Path(bench.roots.status_file)
        bench.time.epoch -= YEAR
        before = file.stat().st_mtime_ns, file.read_bytes()
        node.wait(11)
        assert (file.stat().st_mtime_ns, file.read_bytes()) != before


def in_an_hour(node: Node) -> tuple[int, int]:
    """Passes and kernel writes of one hour."""
    before = len(node.passes), len(node.writes)
    node.wait(HOUR)
    return len(node.passes) - before[0], len(node.writes) - before[1]


FAULTS = {
    "enabling": gpusim.FaultRule(on=gpusim.Operation.WRITE, path=f"*{ONE}/sriov_numvfs", error="EIO"),
    "fewer VFs": gpusim.FaultRule(on=gpusim.Operation.ENABLE, path=f"*{ONE}*", vfs=1),
    "binding": gpusim.FaultRule(on=gpusim.Operation.PROBE, device=ONE, vf=0, error="ENODEV"),
    "override": gpusim.FaultRule(on=gpusim.Operation.WRITE, path="*/driver_override", error="ENOSPC"),
    "all writes": gpusim.FaultRule(on=gpusim.Operation.WRITE, path="*", error="EIO"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_never_works_is_not_tried_in_a_hot_loop(fault: str, tmp_path: Path) -> None:
    """The back-off goes up to 5 minutes, shortened by half at most: 12 to 24 attempts an hour.

    An attempt and its undoing take a handful of passes and writes.
    """
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench)
        bench.machine.add_faults(FAULTS[fault])
        node.want(manifest({"a": [vfio(f"{bench.gpu}-fs2-vf0")]}))
        assert phases(node.status)["a"] == "Failed", why_not(node.status)
        first, later = in_an_hour(node), in_an_hour(node)
        assert 12 <= later[0] <= 24 * 6, "passes"
        assert 12 <= later[1] <= 24 * 6, "kernel writes"
        assert max(first) <= 36 * 6, "the first hour has some quick attempts more"
        bench.machine.clear_faults()
        node.wait_ready(HOUR)
        node.want(manifest())
        node.wait_ready(HOUR)
        assert_pristine(bench)


def test_nothing_to_do_is_nothing_done(tmp_path: Path) -> None:
    with running(tmp_path, cards(("flex170", ONE), ("b60", OTHER))) as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest({"a": [f"{bench.gpu}-m2-vf0"], "b": [f"{bench.gpus[1]}-fs2-vf0"]})))
        before = len(node.passes), len(node.writes)
        node.wait(HOUR)
        assert (len(node.passes), len(node.writes)) == before, "the file is refreshed without a pass"
