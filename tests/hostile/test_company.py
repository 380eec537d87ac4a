"""Others at work on the same machine: a second agent, and processes that write what is ours to write."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from hack.lab.processes import Daemon, eventually
from state.status import StatusError, condition_of
from tests.e2e.namespaced import Node, allocation, gpu, is_ready, phase, running

pytestmark = [pytest.mark.root, pytest.mark.fuse]

A, B, C = "0000:03:00.0", "0000:04:00.0", "0000:05:00.0"
USED, FOUGHT, FOREIGN = "0000-03-00-0-0xe211", "0000-04-00-0-0xe212", "0000-05-00-0-0x56c0"
MACHINE = f"""\
description: A GPU in use, a GPU that is fought over, and a GPU of somebody else
gpus:
- {{model: b60, address: '{A}'}}
- {{model: b50, address: '{B}'}}
- {{model: flex170, address: '{C}', vfs_at_boot: 2}}
"""
VF = f"{USED}-fs2-vf0"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "machine.yaml").write_text(MACHINE)
    with running(tmp_path, str(tmp_path / "machine.yaml")) as machine:
        yield machine


def numvfs(node: Node, address: str) -> str:
    return node.sysfs(f"bus/pci/devices/{address}/sriov_numvfs").read_text().strip()


# -- two at once -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def applying(node: Node) -> Iterator[subprocess.Popen[str]]:
    """An `apply` that is under way: the kernel takes its time to enable VFs."""
    node.poke(f"fault on: write, path: '*{A}/sriov_numvfs', delay: 3, count: 1")
    node.want({"a": VF})
    words = ["nsenter", "--target", str(node.inside), "--mount", "--net", "--"]
    words += [sys.executable, "-m", "reconciler.cli", "apply", "-f", str(node.file), "--processes", "visible"]
    with subprocess.Popen(words, env=node.environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert "enable 2 VFs" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_of_two_that_apply_at_once_one_refuses_in_clear_words(node: Node) -> None:
    with applying(node) as first:
        second = node.cli("apply", "-f", str(node.file), "--processes", "visible")
        assert second.returncode not in (0, 2)
        assert "lock/agent" in second.stderr
        assert f"held by pid {first.pid}" in second.stderr
        assert second.stderr.count("\n") == 1, "one line, no traceback"
        out, _ = first.communicate(timeout=60)
        assert first.returncode == 0, out
    assert numvfs(node, A) == "2"


def test_apply_refuses_beside_a_daemon_and_looking_does_not(node: Node) -> None:
    with node.daemon() as daemon:
        node.want({"a": VF})
        node.until_ready("a")
        refused = node.cli("apply", "-f", str(node.file), "--processes", "visible")
        assert refused.returncode not in (0, 2)
        assert "held by pid" in refused.stderr
        assert node.cli("plan", "-f", str(node.file), "--processes", "visible").returncode == 0
        assert node.cli("discover").returncode == 0
        assert daemon.end() == 0
    assert node.cli("apply", "-f", str(node.file), "--processes", "visible").returncode == 0


def test_a_daemon_waits_for_an_apply(node: Node) -> None:
    with applying(node) as first, node.daemon() as daemon:
        daemon.until_logged("standing by")
        assert first.wait(60) == 0
        daemon.until_logged("following")
        node.until_ready("a")
        assert "enable" not in daemon.log, "it finds all done"


# -- who writes what is ours to write -----------------------------------------------------------------------


@dataclass(slots=True)
class Vandal:
    """Does one foul thing after the other, chosen by a seed. Leaves the GPU in use and the foreign GPU alone."""

    node: Node
    chance: Random

    def act(self) -> str:
        deeds: tuple[Callable[[], None], ...] = (
            self.numvfs,
            self.binding,
            self.override,
            self.spoil_a_spec,
            self.remove_a_spec,
            self.desire_nonsense,
            self.desire_nothing,
            self.desire_another_mode,
            self.spoil_the_status,
            self.remove_the_status,
        )
        deed = self.chance.choice(deeds)
        with contextlib.suppress(OSError):  # the kernel may well refuse
            deed()
        return deed.__name__

    def write(self, path: str, value: str) -> None:
        descriptor = os.open(self.node.sysfs(path), os.O_WRONLY)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    def numvfs(self) -> None:
        self.write(f"bus/pci/devices/{B}/sriov_numvfs", self.chance.choice(("0", "1", "3")))

    def binding(self) -> None:
        driver = self.chance.choice(("xe", "vfio-pci"))
        self.write(f"bus/pci/drivers/{driver}/{self.chance.choice(('bind', 'unbind'))}", B)

    def override(self) -> None:
        self.write(f"bus/pci/devices/{B}/driver_override", self.chance.choice(("vfio-pci", "\n")))

    def _spec(self) -> Path:
        return self.chance.choice(sorted((self.node.where / "cdi").glob("intel.com-gpu_*")) or [Path("/none")])

    def spoil_a_spec(self) -> None:
        spec = self._spec()
        with open(spec, "r+b") as file:
            file.truncate(self.chance.randrange(200))

    def remove_a_spec(self) -> None:
        self._spec().unlink()

    def desire_nonsense(self) -> None:
        text = self.node.file.read_text()
        self.node.file.write_text(text[: self.chance.randrange(len(text))])

    def desire_nothing(self) -> None:
        self.node.want({})

    def desire_another_mode(self) -> None:
        self.node.want({"b": f"{FOUGHT}-fs2-vf1", "a": self.chance.choice((USED, f"{USED}-fs4-vf2", VF))})

    def spoil_the_status(self) -> None:
        (self.node.where / "run/status/status.json").write_bytes(self.chance.randbytes(100))

    def remove_the_status(self) -> None:
        (self.node.where / "run/status/status.json").unlink()


@contextlib.contextmanager
def using(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the render node of the first VF of the GPU in use open."""
    node.until_ready("a", "b")
    link = node.sysfs(f"bus/pci/devices/{A}/virtfn0/drm")
    (render,) = (one.name for one in link.iterdir() if one.name.startswith("renderD"))
    with open(node.where / "dev/dri" / render, "rb") as device:
        holder = subprocess.Popen(["sleep", "infinity"], stdin=device)
    try:
        yield holder
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whoever_writes_in_between_in_the_end_all_is_as_wanted(seed: int, node: Node) -> None:
    foreign = {"intel.com-gpu.yaml": "cdiVersion: 0.3.0\n", "vendor.json": "{}\n"}
    for name, text in foreign.items():
        (node.where / "cdi" / name).write_text(text)
    wanted: dict[str, str | Mapping[str, object]] = {"a": VF, "b": FOUGHT}
    vandal = Vandal(node=node, chance=Random(seed))
    with node.daemon() as daemon:
        node.want(wanted)
        with using(node):
            # From here on no write to the GPU in use may even be tried: it would fail and be told.
            node.poke(f"fault on: write, device: '{A}', error: EPERM")
            deeds = []
            for _ in range(40):
                deeds.append(vandal.act())
                time.sleep(vandal.chance.random() * 0.1)
            _tidy(vandal)
            node.want(wanted)
            _until_as_wanted(node, daemon, deeds)
            assert _tried(daemon, A) == [], deeds
            assert numvfs(node, A) == "2"
            node.poke("clear-faults")
        assert numvfs(node, C) == "2", "somebody else's"
        for name, text in foreign.items():
            assert (node.where / "cdi" / name).read_text() == text
        node.want({})
        node.until_ready()
        eventually("no VFs", lambda: numvfs(node, A) == "0" or None, lambda: daemon.log)
        assert daemon.process.poll() is None, daemon.log
        assert daemon.end() == 0
    assert "Traceback" not in daemon.log
    assert sorted(path.name for path in (node.where / "cdi").iterdir()) == sorted(foreign)


def _tidy(vandal: Vandal) -> None:
    """What is not ours is not touched: VFs and a driver override of the vandal's are for people to remove."""
    with contextlib.suppress(OSError):  # gone with the driver
        vandal.write(f"bus/pci/devices/{B}/sriov_numvfs", "0")
    vandal.write(f"bus/pci/devices/{B}/driver_override", "\n")


def _until_as_wanted(node: Node, daemon: Daemon, deeds: list[str]) -> None:
    def look() -> bool | None:
        with contextlib.suppress(StatusError):
            status = node.status()
            if status is not None and is_ready(status) and {one.name for one in status.allocations} == {"a", "b"}:
                return True
        return None

    eventually("as wanted", look, lambda: f"{deeds}\n{node.status()}\n{daemon.log[-6000:]}")


def _tried(daemon: Daemon, address: str) -> list[str]:
    return [line for line in daemon.log.splitlines() if address in line and "EPERM" in line]


# -- a GPU that hangs ---------------------------------------------------------------------------------------


def test_one_gpu_hangs_and_the_others_go_on(node: Node) -> None:
    node.poke(f"fault on: write, path: '*{A}/sriov_numvfs', delay: 6, count: 1")
    with node.daemon() as daemon:
        node.want({"stuck": VF, "one": f"{FOUGHT}-fs2-vf0"})
        status = node.until("the other is ready", lambda status: phase(status, "one") == "Ready")
        stuck = allocation(status, "stuck")
        assert stuck is not None
        assert stuck.phase == "Converging", "the other one did not wait for it"
        assert "enabling 2 VFs" in stuck.message
        node.want({"stuck": VF, "two": f"{FOUGHT}-fs2-vf1"})
        node.until("another is ready", lambda status: phase(status, "two") == "Ready")
        assert numvfs(node, B) == "2"
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
        assert f"waiting for the kernel: {USED}" in daemon.log
        assert numvfs(node, A) == "2", "the write was not cut short"
    with node.daemon(name="next"):
        node.until_ready("stuck", "two")


def test_a_gpu_that_fails_for_ever_is_left_in_peace_most_of_the_time(node: Node) -> None:
    """A real daemon, with real events: its own undoing must not wake it into a loop."""
    node.poke(f"fault on: write, path: '*{A}/sriov_numvfs', error: EIO")
    with node.daemon() as daemon:
        node.want({"bad": VF, "good": FOUGHT})
        status = node.until(
            "failed four times",
            lambda status: (one := allocation(status, "bad")) is not None and one.attempts >= 4,
        )
        assert phase(status, "good") == "Ready"
        ready = condition_of(status, "Ready")
        assert ready is not None
        assert "EIO" in ready.message
        failures = [line for line in daemon.log.splitlines() if "EIO" in line and "sriov_numvfs" in line]
        assert len(failures) <= 4 * 3, "each attempt fails once, is told, and perhaps undone"
        assert gpu(status, USED) is not None
        node.poke("clear-faults")
        node.until_ready("bad", "good")
