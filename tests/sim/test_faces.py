"""The faces that other programs see: FUSE, device nodes, and the plain directory."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpusim
from gpusim import devfs_face, directory_face
from tests.sim.simulated import ADDRESS, PF, boot, errno_of, number, write


def store(path: Path, value: str, flags: int = 0) -> str | None:
    def once() -> None:
        descriptor = os.open(path, os.O_WRONLY | flags)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    return errno_of(once)


@pytest.fixture
def machine() -> gpusim.Machine:
    return boot("b50")


@pytest.fixture
def sys_dir(machine: gpusim.Machine, tmp_path: Path) -> Iterator[Path]:
    from gpusim import fuse_face

    (tmp_path / "sys").mkdir()
    with fuse_face.mounted(machine.sysfs, tmp_path / "sys") as mounted:
        yield mounted


@pytest.mark.fuse
@pytest.mark.root
class TestFuse:
    def test_errnos_come_from_write(self, sys_dir: Path) -> None:
        numvfs = sys_dir / PF / "sriov_numvfs"
        results = [store(numvfs, value) for value in ("99", "2\n", "3", "x", "0")]
        assert results == ["ERANGE", None, "EBUSY", "EINVAL", None]
        for flags in (os.O_TRUNC, os.O_APPEND):
            assert store(numvfs, "1", flags) is None
            assert numvfs.read_text() == "1\n"
            assert store(numvfs, "0", flags) is None

    @pytest.mark.parametrize(
        ("act", "errno"),
        [
            (lambda pf: store(pf / "vendor", "1"), "EACCES"),
            (lambda pf: errno_of((pf / "new").touch), "EACCES"),
            (lambda pf: errno_of((pf / "new").mkdir), "EPERM"),
            (lambda pf: errno_of((pf / "vendor").unlink), "EPERM"),
            (lambda pf: errno_of(lambda: (pf / "vendor").rename(pf / "other")), "EPERM"),
            (lambda pf: errno_of((pf / "driver/bind").read_bytes), "EACCES"),
            (lambda pf: errno_of((pf / "nothing").read_bytes), "ENOENT"),
        ],
    )
    def test_what_sysfs_refuses_even_to_root(self, sys_dir: Path, act: object, errno: str) -> None:
        assert callable(act)
        assert act(sys_dir / PF) == errno

    def test_what_stat_shows(self, sys_dir: Path) -> None:
        vendor = (sys_dir / PF / "vendor").stat()
        assert (vendor.st_size, vendor.st_nlink, stat.S_IMODE(vendor.st_mode)) == (4096, 1, 0o444)
        assert (sys_dir / PF).lstat().st_size == 0
        assert (sys_dir / PF / "driver").readlink().name == "xe"

    def test_new_functions_are_seen_at_once(self, sys_dir: Path) -> None:
        vf = sys_dir / "bus/pci/devices/0000:03:00.1"
        assert not vf.exists()
        store(sys_dir / PF / "sriov_numvfs", "1")
        assert (vf / "physfn").resolve().name == ADDRESS
        store(sys_dir / PF / "sriov_numvfs", "0")
        assert not vf.exists()

    def test_removed_while_open_is_enodev(self, machine: gpusim.Machine, sys_dir: Path) -> None:
        descriptor = os.open(sys_dir / PF / "vendor", os.O_RDONLY)
        try:
            machine.unplug(ADDRESS)
            assert errno_of(lambda: os.read(descriptor, 10)) == "ENODEV"
        finally:
            os.close(descriptor)

    def test_working_directory_stays(self, sys_dir: Path) -> None:
        assert Path.cwd() != Path("/")

    def test_many_can_hang_at_once(self, machine: gpusim.Machine, sys_dir: Path) -> None:
        all_in = threading.Barrier(24, timeout=20)
        rule = gpusim.FaultRule(on=gpusim.Operation.READ, path="*/vendor", then="meet")

        def meet(_: str) -> None:
            all_in.wait()

        machine.serve_commands(meet)
        machine.add_faults(rule)
        readers = [threading.Thread(target=(sys_dir / PF / "vendor").read_bytes) for _ in range(24)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(20)
        assert not all_in.broken

    def test_mounts_over_a_stale_mount(self, machine: gpusim.Machine, tmp_path: Path) -> None:
        from gpusim import fuse_face

        (tmp_path / "twice").mkdir()
        where = tmp_path / "twice"
        with fuse_face.mounted(boot("igpu").sysfs, where), fuse_face.mounted(machine.sysfs, where) as sys_dir:
            assert (sys_dir / PF).exists()
        assert not os.path.ismount(tmp_path / "twice")


def test_device_nodes_follow(machine: gpusim.Machine, tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    with devfs_face.kept_in_step(machine.nodes, dev):
        assert (dev / "dri/card0").is_file()
        assert (dev / f"dri/by-path/pci-{ADDRESS}-render").resolve() == dev / "dri/renderD128"
        machine.foreign_numvfs(ADDRESS, 2)
        assert sorted(path.name for path in (dev / "dri").glob("card*")) == ["card0", "card1", "card2"]
        machine.unplug(ADDRESS)
        assert sorted(path.name for path in dev.iterdir()) == ["vfio"]
    assert list(dev.iterdir()) == []


@pytest.mark.root
def test_real_nodes_can_be_opened(machine: gpusim.Machine, tmp_path: Path) -> None:
    with devfs_face.kept_in_step(machine.nodes, tmp_path / "dev", real_nodes=True) as dev:
        status = (dev / "dri/card0").stat()
        assert stat.S_ISCHR(status.st_mode)
        assert status.st_rdev == os.makedev(1, 3)
        assert (dev / "dri/card0").read_bytes() == b""


def test_plain_directory(machine: gpusim.Machine, tmp_path: Path) -> None:
    written = directory_face.write_tree(machine.sysfs, tmp_path)
    assert written == sum(len(files) for _, _, files in os.walk(tmp_path)) + sum(
        (Path(where) / name).is_symlink() for where, names, _ in os.walk(tmp_path) for name in names
    )
    assert (tmp_path / PF / "device").read_text() == "0xe212\n"
    assert (tmp_path / PF / "driver").resolve().name == "xe"
    assert (tmp_path / "class/drm/card0/device/vendor").read_text() == "0x8086\n"
    write(machine, f"{PF}/sriov_numvfs", 1)
    assert number(machine, f"{PF}/sriov_numvfs") == 1
    assert (tmp_path / PF / "sriov_numvfs").read_text() == "0\n", "a snapshot"
