"""A sysfs of plain directories in which any attribute, link or directory can be replaced by something hostile."""

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import gpusim
from gpusim import directory_face
from reconciler.node import agent_metrics
from reconciler.node.agent import DESIRED, EVERYWHERE, FILES, PCI, Agent, Pass, Settings
from reconciler.node.apply_host import ApplyHost
from reconciler.node.clock import Clock
from reconciler.node.desired_source import FileSource
from reconciler.node.directories import make_directories
from reconciler.node.roots import Roots
from reconciler.node.tables import load_tables
from reconciler.node.users import Visibility
from reconciler.node.workers import Job, Result
from reconciler.runtime.loop import RESYNC
from reconciler.runtime.metrics import NoMetrics
from state.actions import Action
from state.ids import DeviceName
from state.observed import PfSeen

PAGE = 4096
CONTENTS = (
    b"",
    b"\n",
    b" \n",
    b"\0",
    b"A" * PAGE,
    b"9" * PAGE,
    b"\n" * PAGE,
    b"\xff\xfe\x80\n",
    b"-1\n",
    b"-9223372036854775808\n",
    b"4294967296\n",
    b"18446744073709551615\n",
    b"99999999999999999999\n",
    b"0x\n",
    b"0x8086\n",
    b"0xffffffffffffffffff\n",
    b"1e9\n",
    "\u0663\n".encode(),
    b"(null)\n",
    b"0 0 0\n",
    b"226:\n",
    b"226:99999999999999999999\n",
    b"../../..\n",
    b"\x1b[2J\n",
)
LINKS = (
    "",
    "/",
    "..",
    "self",
    "/nonexistent",
    "a" * 4000,
    "../../../0000:ff:1f.7",
    "0000:zz:00.0",
    "i915/../\udcff",
)
KINDS = len(CONTENTS) + len(LINKS) + 3
"""How many hostile things there are: contents, links, nothing, an empty directory, and bytes of the input."""


class _Idle:
    """Workers that never do what they are asked to."""

    def busy(self) -> Mapping[DeviceName, Job]:
        return {}

    def start(self, gpu: PfSeen, actions: Sequence[Action], now: object) -> None:
        pass

    def results(self) -> tuple[Result, ...]:
        return ()


class HostileTree:
    """Two GPUs, i915 with two VFs and xe with debugfs, in a directory of ours."""

    def __init__(self, where: Path) -> None:
        self._where = where
        machine = gpusim.Machine(_two_gpus())
        for gpu in machine.spec.gpus:
            machine.sysfs.write(f"bus/pci/devices/{gpu.address}/sriov_numvfs", "2")
        directory_face.write_tree(machine.sysfs, where / "sys")
        self._addresses = tuple(gpu.address for gpu in machine.spec.gpus)
        self._roots = Roots(
            sysfs=f"{where}/sys",
            devfs=f"{where}/dev",
            procfs=f"{where}/proc",
            cdi=f"{where}/cdi",
            run=f"{where}/run",
            state=f"{where}/lib",
            pci_ids=os.devnull,
        )
        make_directories(self._roots)
        boot_id = where / "proc/sys/kernel/random/boot_id"
        boot_id.parent.mkdir(parents=True)
        boot_id.write_text("fuzz\n")
        (where / "node.json").write_text(_wishes(self._addresses))
        self._tables = load_tables(os.devnull)
        self.entries = tuple(sorted(_entries(where / "sys")))

    def one_pass(self, data: bytes) -> None:
        """Make what ``data`` says hostile, then let an agent look at it anew and again.

        Of each three bytes the first two choose an entry and the third what it becomes; what follows the first
        NUL NUL NUL is what attributes of the last kind hold.
        """
        places, _, content = data.partition(b"\0\0\0")
        with contextlib.ExitStack() as mending:
            for start in range(0, min(len(places), 24) - 2, 3):
                entry = int.from_bytes(places[start : start + 2], "big") % len(self.entries)
                mending.enter_context(self.hostile(self.entries[entry], places[start + 2] % KINDS, content))
            self._passes()

    def spoil(self, entry: str, kind: int) -> None:
        """One hostile entry, and passes over it."""
        with self.hostile(entry, kind, b"\x00\xff"):
            self._passes()

    def _passes(self) -> None:
        done: list[Pass] = []
        agent = self._agent(done)
        agent.one_pass(frozenset((RESYNC,)))
        agent.one_pass(frozenset((DESIRED, FILES, *(f"{PCI}{address}" for address in self._addresses))))
        agent.one_pass(frozenset((EVERYWHERE,)))
        for one in done:
            assert all(problem.why for problem in one.observed.unreadable)
            assert len(one.status.conditions) == 4

    def _agent(self, done: list[Pass]) -> Agent:
        shutil.rmtree(self._roots.run)
        shutil.rmtree(self._roots.state)
        make_directories(self._roots)
        # Like a spec of ours, but with a name that is no UTF-8.
        Path(self._roots.cdi, "intel.com-gpu_alloc-\udcff.json").write_bytes(b"{}")
        return Agent(
            Settings(version="fuzz", visibility=Visibility.HIDDEN, patience=5.0),
            self._tables,
            FileSource(self._where / "node.json", cluster=False),
            ApplyHost(roots=self._roots, clock=time.monotonic),
            _Idle(),
            Clock(),
            NoMetrics(agent_metrics.DECLARED),
            rng=random.Random(0),
            followed=done.append,
        )

    @contextlib.contextmanager
    def hostile(self, entry: str, kind: int, content: bytes) -> Iterator[None]:
        """Replace an entry for the time of the context. One below an entry replaced already stays as it is."""
        path = self._where / "sys" / entry
        aside = self._where / f"aside-{time.monotonic_ns()}"
        try:
            os.rename(path, aside)
        except OSError:
            yield
            return
        try:
            _make(path, kind, content)
            yield
        finally:
            _remove(path)
            os.rename(aside, path)


def _make(path: Path, kind: int, content: bytes) -> None:
    if kind < len(CONTENTS):
        path.write_bytes(CONTENTS[kind])
    elif kind < len(CONTENTS) + len(LINKS):
        target = LINKS[kind - len(CONTENTS)]
        path.symlink_to(path.name if target == "self" else target or "x")
    elif kind == KINDS - 3:
        pass  # nothing is there
    elif kind == KINDS - 2:
        path.mkdir()
    else:
        path.write_bytes(content[:PAGE])


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def _entries(root: Path) -> Iterator[str]:
    """All that is in a directory, links not followed, as paths below it."""
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            yield os.path.relpath(os.path.join(directory, name), root)


def _two_gpus() -> gpusim.MachineSpec:
    (flex,) = gpusim.load_machine("flex170").gpus
    (b60,) = gpusim.load_machine("b60").gpus
    gpus = []
    for gpu, address in ((flex, "0000:03:00.0"), (b60, "0000:0a:00.0")):
        assert gpu.sriov is not None
        gpus.append(replace(gpu, address=address, bridges=(), sriov=replace(gpu.sriov, total=3)))
    return gpusim.MachineSpec(description="two GPUs to be spoilt", gpus=tuple(gpus))


def _wishes(addresses: Sequence[str]) -> str:
    """VFs of the one, the whole of the other."""
    flex, b60 = (address.replace(":", "-").replace(".", "-") for address in addresses)
    return f"""\
apiVersion: gpu.dra.intel.com/v1alpha1
kind: GpuNodeState
spec:
  policy: {{lingerSeconds: 0}}
  manualAllocations:
  - name: share
    devices: [{{device: {flex}-0x56c0-fs2-vf0}}]
  - name: whole
    devices: [{{device: {b60}-0xe211, kernelDriver: vfio}}]
"""
