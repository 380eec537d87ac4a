"""A machine with an agent, people, processes, other software and misfortune, all driven by a test."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gpusim
from reconciler.node.agent import Pass
from reconciler.node.record_files import read_ownership
from state.actions import Action
from state.ids import DeviceName
from state.observed import PfSeen
from state.records import Ownership
from tests.engine import hardware
from tests.engine.machines import cards
from tests.model.faces import Change, Watch, served
from tests.model.judge import Grip, Judge, Part, Wrong, nodes_in
from tests.model.process import AgentProcess, Killed

FLEX, PRO = "0000:03:00.0", "0000:83:00.0"
SPEC = cards(("flex170", FLEX), ("b60", PRO), total=2)
MOST_PASSES = 40
"""Within so many passes the engine has to find peace: a few waves for each GPU, one after the other at worst."""
LONGEST_WAIT = 200.0
"""Seconds in which all back-offs (at most 60 s) and lingering (30 s) are over."""


@dataclass(slots=True)
class Wanted:
    """The desired state, as people and the controller write it."""

    entries: dict[str, tuple[dict[str, object], ...]] = field(default_factory=dict)
    overrides: dict[str, dict[str, object]] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)
    confirmed: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    linger: int = 0

    def manifest(self, *, cluster: bool) -> dict[str, object]:
        spec: dict[str, object] = {
            "paused": self.paused,
            "policy": {"lingerSeconds": self.linger},
            "overrides": [{"device": device, **override} for device, override in self.overrides.items()],
            "releases": self.releases,
        }
        if cluster:
            spec["withdrawalsConfirmed"] = self.confirmed
            spec["allocations"] = [
                {
                    "name": uid,
                    "claimNamespace": "default",
                    "claimName": f"name-of-{uid}",
                    "source": "resource.k8s.io/v1",
                    "devices": [_projected(device) for device in devices],
                }
                for uid, devices in self.entries.items()
            ]
        else:
            spec["manualAllocations"] = [
                {"name": name, "devices": list(devices)} for name, devices in self.entries.items()
            ]
        return {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "spec": spec}


def _projected(device: dict[str, object]) -> dict[str, object]:
    """A device as the controller writes it: the scheduler's name for it, and which VF that is."""
    name = str(device["device"])
    pf, _, rest = name.partition("-0x")
    number, _, mode = rest.partition("-")
    projected: dict[str, object] = {
        **device,
        "request": "gpu",
        "pool": "node",
        "physicalFunction": f"{pf}-0x{number}",
    }
    if "-vf" in mode:
        profile, _, index = mode.partition("-vf")
        full = f"flex170_{profile}" if profile.startswith("m") else profile
        projected["device"] = f"{pf}-0x{number}-{profile}"
        projected["virtualFunction"] = {"profile": full, "index": int(index)}
    return projected


class World:
    """Everything there is. Each method is something that can happen; ``close`` ends it."""

    def __init__(self, *, cluster: bool, fuse: bool = False, spec: gpusim.MachineSpec = SPEC) -> None:
        self.cluster = cluster
        self._closing = contextlib.ExitStack()
        memory = Path("/dev/shm")
        where = tempfile.mkdtemp(prefix="gpu-model-", dir=memory if memory.is_dir() else None)
        self._closing.callback(shutil.rmtree, where)
        self.machine = gpusim.Machine(spec)
        self._watch = Watch(before=self._before, after=self._after)
        self.bench = self._closing.enter_context(served(self.machine, Path(where), self._watch, fuse=fuse))
        self._closing.callback(self.machine.listen(self._heard))
        self.judge = Judge(bench=self.bench, cluster=cluster)
        self.wanted = Wanted()
        self.file_is_good = True
        self.in_force = Wanted()
        self.marks: dict[str, str] = {}
        self.waiting: set[str] = set()
        """Claims that the plugin waits for: marked, but not confirmed."""
        self.pids: dict[str, int] = {}
        self.may_hold: dict[str, set[tuple[Part, ...]]] = {}
        """By marked claim, all that was ever wanted for it since: any of this it may hold."""
        self.watchers: dict[int, str] = {}
        """Processes of no allocation that have a GPU's own nodes open, with its address."""
        self._next = 100
        self._kill_in: int | None = None
        self._dead = False
        self.write_file()
        self.agent = self._start()

    def close(self) -> None:
        self._closing.close()

    # -- the agent -----------------------------------------------------------------------------------------

    def _start(self) -> AgentProcess:
        self.judge.synced = False
        self.judge.busy = set()
        self.judge.paused = False
        self.judge.adopting = {}
        self._dead, self._kill_in = False, None
        return AgentProcess(self.bench, cluster=self.cluster, began=self._began)

    def restart(self) -> None:
        """The agent is killed where it stands, and started again."""
        self.bench.heard.clear()
        self.agent = self._start()

    def one_pass(self, *topics: str) -> Pass | None:
        """One pass, judged. None if the agent was killed in the middle of it."""
        done = None
        with self._acting():
            self._take_in()
            done = self.agent.one_pass(*topics)
            self._check(done)
        return done

    def _take_in(self) -> None:
        """The file that the agent is about to read comes into force."""
        if not self.file_is_good:
            return
        judge, wanted = self.judge, self.wanted
        judge.synced = True
        judge.paused = wanted.paused
        self.in_force = Wanted(
            entries=dict(wanted.entries),
            overrides=dict(wanted.overrides),
            releases=list(wanted.releases),
            paused=wanted.paused,
        )
        judge.adopting = {
            Part.of(device).gpu: int(_profile(override).removeprefix("fs"))
            for device, override in wanted.overrides.items()
            if override["mode"] == "Fixed" and _profile(override).startswith("fs")
        }
        drained = {Part.of(d).gpu for d, o in wanted.overrides.items() if o["mode"] == "Drain"}
        given = frozenset((*self.ownership().applied, *self.judge.grips)) if drained else frozenset()
        judge.drained = {gpu: judge.drained.get(gpu, given) for gpu in drained}

    def _check(self, done: Pass) -> None:
        """What must hold after each pass."""
        ours = self.ownership().layouts
        for gpu, count in list(self.judge.foreign.items()):
            if self.judge.adopting.get(gpu) == count and any(Part.of(pf).gpu == gpu for pf in ours):
                del self.judge.foreign[gpu]
        for file, content in self.judge.foreign_files.items():
            if not file.exists() or file.read_bytes() != content:
                raise Wrong(f"{file.name} is somebody else's, and was changed")

    def work(self, pf: DeviceName) -> None:
        """The worker of a GPU does what it was given."""
        with self._acting():
            self.agent.workers.work(pf)
            self.judge.busy.discard(Part.of(pf).gpu)

    def work_all(self) -> None:
        """All workers do what they were given, one after the other, unless the agent is killed meanwhile."""
        agent = self.agent
        for pf in list(agent.workers.waiting):
            if self.agent is agent:
                self.work(pf)

    @contextlib.contextmanager
    def _acting(self) -> Iterator[None]:
        if self._dead:
            self.restart()
        self._watch.on = True
        try:
            yield
        except Killed:
            self._watch.on = False
            self.restart()
        finally:
            self._watch.on = False

    def _began(self, gpu: PfSeen, actions: tuple[Action, ...]) -> None:
        """A pass hands actions to a worker."""
        address = str(gpu.function.address)
        if self.judge.paused:
            raise Wrong(f"paused, but: {actions[0]}")
        override = self.in_force.overrides.get(gpu.name)
        if override is not None and override["mode"] == "Ignore":
            raise Wrong(f"{gpu.name} is to be left alone, but: {actions[0]}")
        self.judge.busy.add(address)

    def _before(self, change: Change) -> None:
        if self._dead or self._kill_in == 0:
            self._dead = True
            raise Killed
        if self._kill_in is not None:
            self._kill_in -= 1
        self.judge.before(change)

    def _after(self, change: Change) -> None:
        self.judge.after(change)

    def crash_after(self, changes: int) -> None:
        """The agent works on, and is killed just before this change."""
        self._kill_in = changes
        agent = self.agent
        for _ in range(MOST_PASSES):
            self.one_pass()
            if self.agent is agent:
                self.work_all()
            if self.agent is not agent or agent.is_quiet:
                break
        if self.agent is agent:
            self.restart()

    def quiesce(self, *topics: str) -> Pass:
        """Passes and work until nothing is left to do, with no time passing."""
        for _ in range(MOST_PASSES):
            done = self.one_pass(*topics)
            assert done is not None
            self.work_all()
            if self.agent.is_quiet and not done.plan.actions:
                return done
            topics = ()
        last = self.agent.last
        assert last is not None
        raise Wrong(f"no end of it: {[str(action) for action in last.plan.actions]}")

    def sleep(self, seconds: float) -> None:
        """Time passes; the agent wakes up when it wants to."""
        while seconds > 0:
            with self._acting():
                self._take_in()
                seconds -= self.agent.sleep(seconds)
            self.work_all()

    # -- the file ------------------------------------------------------------------------------------------

    def write_file(self) -> None:
        """What people and the controller want by now stands in the file."""
        for uid, may_hold in self.may_hold.items():
            if uid in self.wanted.entries:
                may_hold.add(self.parts_of(uid))
        self.bench.file.write_text(json.dumps(self.wanted.manifest(cluster=self.cluster)))
        self.file_is_good = True
        self.judge.confirmed = self.wanted.confirmed

    def controller_answers(self) -> bool:
        """The controller confirms the withdrawals it finds in the status; whether there was anything new."""
        path = Path(self.bench.roots.status_file)
        if not self.cluster or not path.exists():
            return False
        withdrawn = json.loads(path.read_bytes())["status"].get("withdrawn", {})
        if withdrawn == self.wanted.confirmed:
            return False
        self.wanted.confirmed = withdrawn
        self.write_file()
        return True

    def break_file(self) -> None:
        self.bench.file.write_text("spec: [this is no manifest")
        self.file_is_good = False

    def ownership(self) -> Ownership:
        record = read_ownership(Path(self.bench.roots.ownership_file))
        return record if isinstance(record, Ownership) else Ownership()

    def parts_of(self, name: str) -> tuple[Part, ...]:
        """What is wanted for an entry."""
        return tuple(
            Part.of(
                str(device["device"]),
                str(device.get("kernelDriver", "drm")),
                admin=bool(device.get("adminAccess")),
            )
            for device in self.wanted.entries[name]
        )

    # -- users ---------------------------------------------------------------------------------------------

    def ready_keys(self) -> list[str]:
        return sorted(self.judge.ready)

    def use(self, key: str, *, visible: bool) -> bool:
        """Somebody starts to use what is Ready for him. False: his CDI file is broken, so it can't be."""
        grip = self.judge.grab(key, visible=visible)
        if grip is None:
            return False
        if visible:
            self._open(key, grip)
        return True

    def _open(self, key: str, grip: Grip) -> None:
        nodes = {path for path, _, _ in nodes_in(grip.cdi) if path not in ("vfio/vfio",)}
        there = sorted(path for path in nodes if Path(self.bench.roots.devfs, path).exists())
        self.pids[key] = self._next
        self.bench.start_process(self._next, "user", *there)
        self._next += 1

    def stop_using(self, key: str) -> None:
        self.judge.let_go(key)
        pid = self.pids.pop(key, None)
        if pid is not None:
            self.bench.end_process(pid)

    def watch_gpu(self, gpu: str) -> None:
        """Somebody opens a GPU's own nodes without asking, as monitors do."""
        path = f"{hardware.pf(gpu)}/drm"
        if not self.machine.sysfs.exists(path):
            return
        names = [n for n in self.machine.sysfs.listdir(path) if n.startswith(("card", "renderD"))]
        self.watchers[self._next] = gpu
        self.bench.start_process(self._next, "monitor", *(f"dri/{name}" for name in names))
        self._next += 1

    def stop_watching(self) -> None:
        for pid in list(self.watchers):
            del self.watchers[pid]
            self.bench.end_process(pid)

    # -- the kubelet's plugin ------------------------------------------------------------------------------

    def prepare(self, uid: str) -> None:
        """Prepare begins: a mark."""
        nonce = f"n{self._next}"
        self._next += 1
        self.bench.mark(uid, nonce)
        self.marks[uid] = nonce
        self.waiting.add(uid)
        self.may_hold[uid] = {self.parts_of(uid)}

    def plugin_looks(self, *, visible: bool) -> None:
        """The plugin reads the status: confirms claims that are Ready, and deletes marks it is told to."""
        path = Path(self.bench.roots.status_file)
        if not path.exists():
            return
        file = json.loads(path.read_bytes())
        for uid, nonce in file.get("releasedMarks", {}).items():
            if self.marks.get(uid) == nonce:
                self.unprepare(uid)
        for uid in sorted(self.waiting):
            seen = file.get("nonces", {}).get(uid) == self.marks[uid] and f"claim-{uid}" in self.judge.ready
            if seen and self.use(f"claim-{uid}", visible=visible):
                self.waiting.discard(uid)

    def unprepare(self, uid: str) -> None:
        """The pod has ended, then its mark goes."""
        self.stop_using(f"claim-{uid}")
        self.waiting.discard(uid)
        self.may_hold.pop(uid, None)
        if self.marks.pop(uid, None) is not None:
            self.bench.unmark(uid)

    # -- others --------------------------------------------------------------------------------------------

    def _heard(self, event: gpusim.Uevent) -> None:
        """Functions that go, by whosever hand; the judge has looked at the engine's beforehand."""
        if event.action not in ("remove", "unbind") or event.subsystem != "pci":
            return
        function = event.name
        if self._watch.on:
            for key, grip in self.judge.grips.items():
                if function in grip.functions:
                    raise Wrong(f"{key} has {function}, which the engine took away")
        else:
            for key in list(self.judge.yanked([function])):
                pid = self.pids.pop(key, None)
                if pid is not None:
                    self.bench.end_process(pid)
        if event.action == "remove":
            self.judge.foreign.pop(function, None)

    def others_set_numvfs(self, gpu: str, count: int) -> None:
        with contextlib.suppress(OSError, KeyError):
            self.machine.foreign_numvfs(gpu, count)
        self.note_foreign(gpu)

    def note_foreign(self, gpu: str) -> None:
        """VFs without a record of the engine's, or more than that says, belong to whoever else made them."""
        path = hardware.pf(gpu)
        links = self.machine.sysfs.listdir(path) if self.machine.sysfs.exists(path) else ()
        count = sum(name.startswith("virtfn") for name in links)
        known = any(
            Part.of(pf).gpu == gpu and layout.boot_id == self.machine.boot_id and count <= layout.count
            for pf, layout in self.ownership().layouts.items()
        )
        if count and (not known or gpu in self.judge.foreign):
            self.judge.foreign[gpu] = count
        else:
            self.judge.foreign.pop(gpu, None)

    def others_unbind_vf(self, gpu: str, index: int) -> None:
        vfs = hardware.vf_addresses(self.machine, gpu) if self.is_plugged(gpu) else []
        if index >= len(vfs):
            return
        driver = hardware.driver(self.machine, vfs[index])
        if driver is not None:
            self.machine.sysfs.write(f"bus/pci/drivers/{driver}/unbind", vfs[index])

    def is_plugged(self, gpu: str) -> bool:
        return self.machine.sysfs.exists(hardware.pf(gpu))

    def unplug_or_plug(self, gpu: str) -> None:
        if self.is_plugged(gpu):
            self.machine.unplug(gpu)
            self.judge.foreign.pop(gpu, None)
        else:
            self.machine.plug(gpu)

    def vanish(self, gpu: str, vf: int) -> None:
        if self.is_plugged(gpu):
            with contextlib.suppress(KeyError):
                self.machine.vanish(gpu, vf)

    def reboot(self) -> None:
        """Power off and on: processes and marks are gone, VFs and /run too."""
        for key in list(self.judge.grips):
            self.judge.let_go(key)
        self.judge.ready = {}
        self.judge.foreign.clear()
        self.judge.foreign_files = {}
        self.judge.drained = {}
        self.pids.clear()
        self.watchers.clear()
        self.marks.clear()
        self.may_hold.clear()
        self.waiting.clear()
        self.bench.reboot()
        self.restart()

    def lose_held_record(self) -> None:
        """What claims hold is lost, while the agent is down."""
        Path(self.bench.roots.held_file).unlink(missing_ok=True)
        self.restart()

    def damage_cdi(self, how: str, pick: int) -> None:
        """Somebody meddles with the CDI directory."""
        files = sorted(self.bench.cdi.glob("intel.com-gpu_*.json"))
        ours = [file for file in files if file not in self.judge.foreign_files]
        if how == "foreign":
            file = self.bench.cdi / "intel.com-gpu_claim-of-others.json"
            file.write_text('{"cdiVersion": "0.3.0", "kind": "example.com/other", "devices": []}')
            self.judge.foreign_files[file] = file.read_bytes()
        elif how == "stray":
            (self.bench.cdi / "intel.com-gpu_alloc-stray.json").write_text("{}")
        elif ours:
            file = ours[pick % len(ours)]
            self.judge.ready.pop(file.name.removeprefix("intel.com-gpu_").removesuffix(".json"), None)
            if how == "remove":
                file.unlink()
            else:
                file.write_bytes(file.read_bytes()[:20])


def _profile(override: dict[str, object]) -> str:
    """The layout an override names; empty without one."""
    functions = override.get("virtualFunctions")
    return str(functions["profile"]) if isinstance(functions, dict) else ""
