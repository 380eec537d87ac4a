"""Whole machines for scripted tests: the simulated kernel, the files around it, and agents driven by hand.

``Bench`` is the machine with everything that outlives an agent; ``Node`` is one agent process on it, whose passes
run in the calling thread and whose clock only moves when a test says so.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import yaml

import gpusim
from gpusim import devfs_face, fuse_face
from reconciler.node import agent_metrics, once
from reconciler.node.agent import FILES, PCI, Agent, Pass, Settings
from reconciler.node.apply_host import ApplyHost, KernelWrite, Timeouts
from reconciler.node.applying import apply_all
from reconciler.node.clock import Clock
from reconciler.node.desired_source import FileSource
from reconciler.node.directories import make_directories
from reconciler.node.manifest_file import dump_manifest
from reconciler.node.record_files import read_ownership
from reconciler.node.roots import Roots
from reconciler.node.tables import Tables, load_tables
from reconciler.node.users import Visibility
from reconciler.node.workers import Job, Result
from reconciler.runtime.loop import DUE, RESYNC
from reconciler.runtime.metrics import NoMetrics
from state.actions import Action
from state.exporting import export
from state.ids import DeviceName, PciAddress, device_name
from state.observed import PfSeen
from state.planning import Options
from state.record_coding import encode_record
from state.records import Mark, Ownership
from state.status import AllocationStatus, NodeStatus, condition_of
from tests.cdi_rules import broken_rules

TABLES: Tables = load_tables("/nonexistent/pci.ids")
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_MOST_PASSES = 60
_TIMEOUTS = Timeouts(links=0.05, driver=0.05)
_PATIENCE = 20.0
_OWN_PID = 4242

STANDALONE = Options()

Devices = Sequence[str | Mapping[str, object]]


def manifest(
    allocations: Mapping[str, Devices] | None = None,
    *,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    claims: Mapping[str, Mapping[str, object]] | None = None,
    linger: int = 0,
    **spec: object,
) -> dict[str, object]:
    """A desired state: manual allocations by name, each a list of device names or device mappings."""
    wanted: dict[str, object] = {"policy": {"lingerSeconds": linger}, **spec}
    if allocations:
        wanted["manualAllocations"] = [
            {"name": name, "devices": [_device(device) for device in devices]}
            for name, devices in allocations.items()
        ]
    if overrides:
        wanted["overrides"] = [{"device": device, **override} for device, override in overrides.items()]
    if claims:
        wanted["allocations"] = [_claim(uid, device) for uid, device in claims.items()]
    return {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "spec": wanted}


def vfio(device: str) -> dict[str, object]:
    """A device for a virtual machine."""
    return {"device": device, "kernelDriver": "vfio"}


def _device(device: str | Mapping[str, object]) -> Mapping[str, object]:
    return {"device": device} if isinstance(device, str) else device


def vf_claim(pf: str, profile: str, index: int, **more: object) -> dict[str, object]:
    """A claim's VF, as the controller writes it."""
    return {
        "device": f"{pf}-{profile.rsplit('_', 1)[-1]}",
        "physicalFunction": pf,
        "virtualFunction": {"profile": profile, "index": index},
        **more,
    }


def _claim(uid: str, device: Mapping[str, object]) -> dict[str, object]:
    return {
        "name": uid,
        "claimNamespace": "default",
        "claimName": f"name-of-{uid}",
        "source": "resource.k8s.io/v1",
        "devices": [{"request": "gpu", "pool": "node", **device}],
    }


@dataclass(slots=True)
class Time:
    """Seconds that pass only when a test says so."""

    seconds: float = 1000.0
    epoch: float = 1_790_000_000.0

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.epoch + self.seconds


class Killed(BaseException):
    """The agent is no more."""


@dataclass(slots=True)
class InlineWorkers:
    """Workers that have done everything when ``start`` returns."""

    host: ApplyHost
    ended: list[Result] = field(default_factory=list)
    started: int = 0

    def busy(self) -> Mapping[DeviceName, Job]:
        return {}

    def start(self, gpu: PfSeen, actions: Sequence[Action], now: object) -> None:
        self.started += 1
        self.ended.append(Result(pf=gpu.name, applied=apply_all(tuple(actions), self.host)))

    def results(self) -> tuple[Result, ...]:
        ended, self.ended = tuple(self.ended), []
        return ended


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWrite:
    """A write to the kernel: physical path, value, and how many writes of this path came before."""

    path: str
    value: str
    before: int

    def __str__(self) -> str:
        return f"{self.value!r} to {self.path.rpartition('/')[2]}"

    def failing(self, error: str, *, count: int | None) -> gpusim.FaultRule:
        """The rule that lets this write fail, `count` times from then on (None: for ever)."""
        on = gpusim.Operation.WRITE
        return gpusim.FaultRule(on=on, path=self.path, error=error, after=self.before, count=count)


class Bench:
    """One machine: kernel, devices, files, processes. Make it with ``running``."""

    def __init__(self, machine: gpusim.Machine, where: Path) -> None:
        self.machine = machine
        self.roots = Roots(
            sysfs=f"{where}/sys",
            devfs=f"{where}/dev",
            procfs=f"{where}/proc",
            cdi=f"{where}/cdi",
            run=f"{where}/run",
            state=f"{where}/lib",
        )
        self.file = where / "node.yaml"
        self.time = Time()
        self.heard: set[str] = set()
        make_directories(self.roots)
        self._write_procfs()

    # -- the machine ---------------------------------------------------------------------------------------

    @property
    def gpus(self) -> tuple[str, ...]:
        """Names of all GPUs, in order of address."""
        return tuple(self.name_of(gpu) for gpu in self.machine.spec.gpus)

    @property
    def gpu(self) -> str:
        """The name of the first, or only, GPU."""
        return self.gpus[0]

    @property
    def address(self) -> str:
        """The PCI address of the first, or only, GPU."""
        return self.machine.spec.gpus[0].address

    @staticmethod
    def name_of(gpu: gpusim.GpuSpec) -> DeviceName:
        return device_name(PciAddress(gpu.address), gpu.device)

    def hear(self, event: gpusim.Uevent) -> None:
        """Note what a uevent is about, as the daemon does."""
        addresses = _ADDRESS.findall(event.environment.get("PCI_SLOT_NAME", "") or event.devpath)
        self.heard.add(f"{PCI}{addresses[-1]}" if addresses else RESYNC)

    def reboot(self) -> None:
        """Boot the machine: what is in memory is lost, what is on disk stays."""
        self.machine.reboot()
        for path in (self.roots.run, self.roots.cdi, self.roots.procfs):
            shutil.rmtree(path)
        make_directories(self.roots)
        self._write_procfs()

    def _write_procfs(self) -> None:
        random = Path(self.roots.procfs, "sys/kernel/random")
        random.mkdir(parents=True, exist_ok=True)
        (random / "boot_id").write_text(f"{self.machine.boot_id}\n")
        self.start_process(_OWN_PID, "agent")
        Path(self.roots.procfs, "self").symlink_to(str(_OWN_PID))

    # -- processes and marks -------------------------------------------------------------------------------

    def start_process(self, pid: int, command: str, *opened: str) -> None:
        """A process with device nodes open, named relative to devfs."""
        process = Path(self.roots.procfs, str(pid))
        (process / "fd").mkdir(parents=True)
        (process / "comm").write_text(f"{command}\n")
        for number, node in enumerate(opened, start=3):
            (process / "fd" / str(number)).symlink_to(Path(self.roots.devfs, node))

    def end_process(self, pid: int) -> None:
        shutil.rmtree(Path(self.roots.procfs, str(pid)))

    def mark(self, uid: str, nonce: str = "n1", grpc_version: str = "v1") -> None:
        """What the plugin does for Prepare."""
        mark = Mark(uid=uid, nonce=nonce, boot_id=self.machine.boot_id, grpc_version=grpc_version)
        Path(self.roots.marks_dir, f"{uid}.json").write_bytes(encode_record(mark))

    def unmark(self, uid: str) -> None:
        """What the plugin does for Unprepare."""
        Path(self.roots.marks_dir, f"{uid}.json").unlink()

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        """A kubelet that has the plugin registered."""
        with open(Path(self.roots.lock_dir, "registered-gpu.dra.intel.com"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    # -- files ---------------------------------------------------------------------------------------------

    @property
    def cdi(self) -> Path:
        return Path(self.roots.cdi)

    def want(self, wanted: Mapping[str, object]) -> None:
        """Write the desired-state file."""
        self.file.write_text(json.dumps(wanted, indent=2))  # YAML, too

    def ownership(self) -> Ownership:
        """The record of what is ours."""
        record = read_ownership(Path(self.roots.ownership_file))
        assert isinstance(record, Ownership), record
        return record

    def exported(self) -> dict[str, object]:
        """What `export` would print."""
        text = dump_manifest(export(once.look(self.roots, TABLES), TABLES.profiles, None))
        exported: dict[str, object] = yaml.safe_load(text)
        return exported

    # -- the engine without a daemon -----------------------------------------------------------------------

    def settings(self, options: Options = STANDALONE) -> Settings:
        return Settings(
            version="test",
            options=options,
            visibility=Visibility.VISIBLE,
            patience=_PATIENCE,
        )

    def converge(
        self,
        wanted: Mapping[str, object],
        *,
        followed: Callable[[Pass], None] = lambda _: None,
        options: Options = STANDALONE,
        seconds: float = 30.0,
    ) -> once.Converged:
        """What `apply` does: real threads and time. Checks the CDI directory afterwards."""
        self.want(wanted)
        converged = once.converge(
            self.file,
            self.settings(options),
            self.roots,
            TABLES,
            Clock(),
            timeout=seconds,
            followed=followed,
        )
        assert broken_rules(self.cdi) == []
        return converged

    def reach(self, wanted: Mapping[str, object], options: Options = STANDALONE) -> NodeStatus:
        """Converge, all the way; afterwards a preview has nothing left to do."""
        converged = self.converge(wanted, options=options)
        assert converged.reached, converged.why
        assert self.foreseen(options) == []
        return converged.status

    def foreseen(self, options: Options = STANDALONE) -> list[str]:
        """What `plan` would print for the desired-state file as it is."""
        seen = once.preview(self.file, self.settings(options), self.roots, TABLES, Clock())
        return [str(action) for action in seen.foreseen.actions]


class Node:
    """One agent process. Make a new one for a restart."""

    def __init__(self, bench: Bench, *, cluster: bool = False, settings: Settings | None = None) -> None:
        self.bench = bench
        self.passes: list[Pass] = []
        clock = Clock(wall=bench.time.wall, monotonic=bench.time.monotonic)
        self.writes: list[SeenWrite] = []
        self.dies_before: int | None = None
        host = ApplyHost(roots=bench.roots, clock=time.monotonic, timeouts=_TIMEOUTS, writing=self._note_write)
        self.workers = InlineWorkers(host)
        self.agent = Agent(
            settings or bench.settings(Options(by_marks=cluster)),
            TABLES,
            FileSource(bench.file, cluster=cluster),
            host,
            self.workers,
            clock,
            NoMetrics(agent_metrics.DECLARED),
            rng=Random(0),
            followed=self.passes.append,
        )
        self._again: float | None = 0.0
        self._first = True

    def _note_write(self, write: KernelWrite) -> None:
        if len(self.writes) == self.dies_before:
            raise Killed
        path = self.bench.machine.sysfs.realpath(write.path.removeprefix(f"{self.bench.roots.sysfs}/"))
        before = sum(1 for seen in self.writes if seen.path == path)
        self.writes.append(SeenWrite(path=path, value=write.value.strip(), before=before))

    def once(self, *topics: str) -> bool:
        """One pass over what was heard of. True if it did anything."""
        heard, self.bench.heard = self.bench.heard, set()
        first = (RESYNC,) if self._first else ()
        self._first = False
        before = self.workers.started
        self._again = self.agent.one_pass(frozenset((*topics, *first, *heard)))
        return self.workers.started > before or self._again == 0.0

    def settle(self, *topics: str) -> NodeStatus:
        """Passes until one has nothing to do."""
        for _ in range(_MOST_PASSES):
            if not self.once(FILES, *topics):
                return self.status
            topics = ()
        raise AssertionError(f"no end of it: {[str(action) for action in self.passes[-1].plan.actions]}")

    def want(self, wanted: Mapping[str, object]) -> NodeStatus:
        """A new desired state, taken as far as it gets without waiting."""
        self.bench.want(wanted)
        return self.settle()

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> NodeStatus:
        """Let time pass, waking up when the agent wants to."""
        end = self.bench.time.seconds + seconds
        while self.bench.time.seconds < end and not until():
            left = end - self.bench.time.seconds
            self.bench.time.seconds += min(left, max(0.001, self._again if self._again is not None else left))
            if self.once(DUE):
                self.settle()
        return self.status

    def wait_ready(self, seconds: float = 3600.0) -> NodeStatus:
        """Let time pass until all is as wanted."""
        status = self.wait(seconds, until=lambda: is_ready(self.status))
        assert is_ready(status), why_not(status)
        return status

    @property
    def status(self) -> NodeStatus:
        return self.passes[-1].status

    @property
    def nonces(self) -> Mapping[str, str]:
        """The marks that the status file confirms to the plugin."""
        return self._told_the_plugin("nonces")

    @property
    def listed(self) -> Mapping[str, str]:
        """The marks that the status file tells the plugin to delete."""
        return self._told_the_plugin("releasedMarks")

    def _told_the_plugin(self, field: str) -> Mapping[str, str]:
        content = json.loads(Path(self.bench.roots.status_file).read_bytes())
        marks: Mapping[str, str] = content.get(field, {})
        return marks


def is_ready(status: NodeStatus) -> bool:
    ready = condition_of(status, "Ready")
    return ready is not None and ready.status == "True"


def why_not(status: NodeStatus) -> str:
    """The message of the Ready condition, for assertions."""
    ready = condition_of(status, "Ready")
    return "no Ready condition" if ready is None else f"{ready.reason}: {ready.message}"


def allocation(status: NodeStatus, name: str) -> AllocationStatus:
    """How one allocation stands."""
    (found,) = (one for one in status.allocations if one.name == name)
    return found


def phases(status: NodeStatus) -> dict[str, str]:
    """The phase of each allocation."""
    return {one.name: one.phase for one in status.allocations}


def blocked(status: NodeStatus) -> str:
    """All that is blocked, as one text."""
    return "; ".join(f"{item.what}: {item.why}" for item in status.plan.blocked)


def cards(*places: tuple[str, str], total: int = 4) -> gpusim.MachineSpec:
    """A machine with the first GPUs of others, as (machine, new address); VFs limited to `total`, to be quick."""
    gpus = [replace(gpusim.load_machine(name).gpus[0], address=at, bridges=()) for name, at in places]
    return limited(gpusim.MachineSpec(description="put together for a test", gpus=tuple(gpus)), total)


def limited(machine: gpusim.MachineSpec, total: int) -> gpusim.MachineSpec:
    """The same with at most `total` VFs a GPU: reading the files of 63 takes FUSE a while."""
    return replace(machine, gpus=tuple(_limited(gpu, total) for gpu in machine.gpus))


def _limited(gpu: gpusim.GpuSpec, total: int) -> gpusim.GpuSpec:
    return gpu if gpu.sriov is None else replace(gpu, sriov=replace(gpu.sriov, total=min(total, gpu.sriov.total)))


@contextlib.contextmanager
def running(where: Path, machine: str | gpusim.MachineSpec | gpusim.Machine) -> Iterator[Bench]:
    """A machine that is switched on, at ``where``. Use with the markers root and fuse."""
    if isinstance(machine, str):
        machine = gpusim.load_machine(machine)
    if isinstance(machine, gpusim.MachineSpec):
        machine = gpusim.Machine(machine)
    os.makedirs(where / "sys")
    bench = Bench(machine, where)
    stop = machine.listen(bench.hear)
    try:
        with (
            fuse_face.mounted(machine.sysfs, where / "sys"),
            devfs_face.kept_in_step(machine.nodes, where / "dev"),
        ):
            yield bench
    finally:
        stop()
