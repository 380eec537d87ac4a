"""Who has device nodes open: real processes on the real /proc, and a /proc made by hand."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import gpusim
from reconciler.node.roots import Roots
from reconciler.node.users import Visibility, users_of
from state.ids import DeviceName, Slot
from state.observed import DeviceNode, OpenNode, PfSeen
from tests.unit.node.machines import PF, observer, only_gpu, plain

INITIAL = "pid:[4026531836]"
HOLDER = "import sys; files = [open(path) for path in sys.argv[1:]]; print(flush=True); sys.stdin.read()"


@contextlib.contextmanager
def process_with(*paths: str) -> Iterator[int]:
    """A process that has these files open."""
    command = [sys.executable, "-c", HOLDER, *paths]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


class Proc:
    """A procfs made by hand. Process 1 is the machine's first, 100 is this one."""

    def __init__(self, where: Path, namespace: str = INITIAL) -> None:
        self.where = where
        for pid in (1, 100):
            self.add(pid, f"p{pid}")
            (where / str(pid) / "ns").mkdir()
            os.symlink(namespace, where / str(pid) / "ns/pid")
        os.symlink("100", where / "self")
        (where / "uptime").touch()

    def add(self, pid: int, command: str, *files: str) -> None:
        (self.where / str(pid) / "fd").mkdir(parents=True)
        (self.where / str(pid) / "comm").write_text(f"{command}\n")
        for number, file in enumerate(files):
            os.symlink(file, self.where / str(pid) / "fd" / str(number))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[Roots, PfSeen]]:
    """A GPU with two VFs, in files."""

    def enable(simulated: gpusim.Machine) -> None:
        simulated.sysfs.write(f"{PF}/sriov_numvfs", "2")

    with plain(tmp_path, "flex170", enable) as roots:
        yield roots, only_gpu(roots)


def test_real_processes_are_found(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    roots = replace(roots, procfs="/proc")
    with process_with(f"{roots.devfs}/dri/renderD129", f"{roots.devfs}/dri/card0", "/dev/null") as pid:
        seen = users_of(roots, [gpu], Visibility.VISIBLE)[gpu.name]
    assert seen.hidden is None
    assert seen.by_slot.keys() == {Slot(pf=gpu.name), Slot(pf=gpu.name, vf=0)}
    (of_vf,) = seen.by_slot[Slot(pf=gpu.name, vf=0)]
    assert (of_vf.pid, of_vf.path) == (pid, "dri/renderD129")
    assert of_vf.command.startswith("python")
    assert users_of(roots, [gpu], Visibility.VISIBLE)[gpu.name].by_slot == {}


def test_this_process_is_no_user(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    with open(f"{roots.devfs}/dri/card0"):
        seen = users_of(replace(roots, procfs="/proc"), [gpu], Visibility.VISIBLE)
    assert seen[gpu.name].by_slot == {}


@pytest.mark.root
def test_one_look_serves_several_gpus(tmp_path: Path) -> None:
    with plain(tmp_path, "flex140") as roots:
        first, second = observer(roots).look().gpus.values()
        proc = Proc(tmp_path / "proc")
        proc.add(7, "compute", f"{roots.devfs}/dri/renderD129", f"{roots.devfs}/dri/renderD129")
        proc.add(8, "idle")
        seen = users_of(roots, [first, second])
    assert seen[first.name].by_slot == {}
    assert seen[second.name].by_slot == {
        Slot(pf=second.name): (OpenNode(pid=7, command="compute", path="dri/renderD129"),)
    }
    assert seen[first.name].hidden is seen[second.name].hidden is None


def test_character_devices_are_known_by_number_wherever_they_are(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    null = os.stat("/dev/null").st_rdev
    node = DeviceNode(path="dri/renamed", major=os.major(null), minor=os.minor(null))
    Proc(Path(roots.procfs)).add(7, "compute", "/dev/null")
    gpu = replace(gpu, function=replace(gpu.function, drm=(node,)))
    seen = users_of(roots, [gpu])
    assert seen[gpu.name].by_slot[Slot(pf=gpu.name)] == (OpenNode(pid=7, command="compute", path="dri/renamed"),)


def test_the_control_node_of_vfio_is_nobodys(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    for name in ("vfio/vfio", "vfio/9"):
        Path(roots.devfs, name).parent.mkdir(exist_ok=True)
        Path(roots.devfs, name).touch()
    vfio = tuple(
        DeviceNode(path=path, major=major, minor=minor)
        for path, major, minor in (("vfio/9", 243, 9), ("vfio/vfio", 10, 196))
    )
    gpu = replace(gpu, function=replace(gpu.function, drm=(), vfio=vfio))
    proc = Proc(Path(roots.procfs))
    proc.add(7, "qemu", f"{roots.devfs}/vfio/vfio", f"{roots.devfs}/vfio/9")
    proc.add(8, "other", f"{roots.devfs}/vfio/vfio")
    seen = users_of(roots, [gpu])
    assert seen[gpu.name].by_slot == {Slot(pf=gpu.name): (OpenNode(pid=7, command="qemu", path="vfio/9"),)}


def test_functions_that_share_a_group_node_share_its_users(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    Path(roots.devfs, "vfio").mkdir(exist_ok=True)
    Path(roots.devfs, "vfio/9").touch()
    group = (DeviceNode(path="vfio/9", major=243, minor=9),)
    other = replace(
        gpu, name=DeviceName("0000-04-00-0-0x56c0"), function=replace(gpu.function, vfio=group), sriov=None
    )
    gpu = replace(gpu, function=replace(gpu.function, vfio=group))
    Proc(Path(roots.procfs)).add(7, "qemu", f"{roots.devfs}/vfio/9")
    seen = users_of(roots, [gpu, other])
    assert [len(users.by_slot) for users in seen.values()] == [1, 1]


@pytest.mark.root
def test_closed_files_and_ended_processes_are_nothing(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    proc = Proc(Path(roots.procfs))
    proc.add(7, "compute", "/nowhere/socket:[1]", f"{roots.devfs}/dri/card0", "/nowhere/pipe:[2]")
    Path(roots.procfs, "9").mkdir()
    seen = users_of(roots, [gpu])[gpu.name]
    assert [user.pid for users in seen.by_slot.values() for user in users] == [7]
    assert seen.hidden is None


@pytest.mark.root
def test_a_file_that_nobody_may_look_at_hides_no_process(machine: tuple[Roots, PfSeen]) -> None:
    """As one on another user's FUSE mount. A loop of links is an error that a plain tree can produce."""
    roots, gpu = machine
    os.symlink("loop", f"{roots.devfs}/loop")
    Proc(Path(roots.procfs)).add(7, "compute", f"{roots.devfs}/loop", f"{roots.devfs}/dri/card0")
    seen = users_of(roots, [gpu])[gpu.name]
    assert (len(seen.by_slot), seen.hidden) == (1, None)


def test_in_a_pid_namespace_of_its_own_the_others_are_hidden(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    Proc(Path(roots.procfs), "pid:[4026532999]").add(7, "compute", f"{roots.devfs}/dri/card0")
    seen = users_of(roots, [gpu])[gpu.name]
    assert "PID namespace" in (seen.hidden or "")
    assert len(seen.by_slot) == 1


@pytest.mark.root
def test_the_hosts_procfs_shows_all_even_from_a_namespace(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    Proc(Path(roots.procfs))
    os.unlink(f"{roots.procfs}/100/ns/pid")
    os.symlink("pid:[4026532999]", f"{roots.procfs}/100/ns/pid")
    assert users_of(roots, [gpu])[gpu.name].hidden is None


def test_a_person_may_say_what_can_be_seen(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    Proc(Path(roots.procfs), "pid:[4026532999]")
    assert users_of(roots, [gpu], Visibility.VISIBLE)[gpu.name].hidden is None
    assert "set to" in (users_of(roots, [gpu], Visibility.HIDDEN)[gpu.name].hidden or "")


@pytest.mark.root
def test_processes_of_others_are_hidden_from_ordinary_users(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    os.seteuid(65534)
    try:
        seen = users_of(replace(roots, procfs="/proc"), [gpu])[gpu.name]
    finally:
        os.seteuid(0)
    assert "may not be looked at" in (seen.hidden or "")


def test_without_a_procfs_everything_is_hidden(machine: tuple[Roots, PfSeen]) -> None:
    roots, gpu = machine
    assert "can't be read" in (users_of(roots, [gpu])[gpu.name].hidden or "")
