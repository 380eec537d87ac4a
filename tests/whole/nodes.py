"""A node: its machine, the agent, the plugin and the kubelet on it, and a judge who looks at all that changes."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import gpusim
from gpusim.model.nodes import CharacterDevice
from kubesim import Cluster
from plugin.places import Places
from reconciler.node.record_files import read_marks, read_ownership
from state.actions import GpuAction
from state.ids import DeviceName
from state.observed import PfSeen, Unreadable
from state.records import Ownership
from tests.engine import hardware
from tests.engine.machines import Bench, Time
from tests.model.faces import Change, Watch
from tests.model.judge import Judge, Part, Wrong, nodes_in
from tests.model.process import Killed
from tests.whole.agents import AgentProcess
from tests.whole.kernels import Kernels, Place
from tests.whole.kubelets import HandKubelet
from tests.whole.listening import Ears
from tests.whole.plugins import Drivers


class WholeNode:
    """Each method is something that can happen there."""

    def __init__(
        self,
        name: str,
        where: Path,
        machine: gpusim.Machine,
        cluster: Cluster,
        time: Time,
        kernels: Kernels,
        ears: Ears,
        patience: float,
    ) -> None:
        self.name, self._cluster, self._ears = name, cluster, ears
        os.makedirs(where / "sys")
        self.bench = Bench(machine, where)
        self.bench.time = time
        self._watch = Watch(before=self._before, after=self._after)
        kernels.add(Place(bench=self.bench, watch=self._watch))
        machine.listen(self._heard)
        self.judge = Judge(bench=self.bench, cluster=True)
        self.visible = True
        self._pids: dict[str, int] = {}
        self._next = 100
        self._kill_in: int | None = None
        self._dead = False
        self._places = Places(
            run=Path(self.bench.roots.run), kubelet=where / "kubelet", procfs=Path(self.bench.roots.procfs)
        )
        self._places.kubelet.mkdir()
        self.drivers = Drivers(name, self._places, time, patience)
        self.kubelet = HandKubelet(
            name,
            cluster,
            self.drivers,
            Path(self.bench.roots.devfs),
            self.bench.cdi,
            self._places.kubelet / "claims.json",
            began=self._claim_is_used,
            ended=self._claim_is_left,
        )
        self.agent = self._start()

    def close(self) -> None:
        self.drivers.process.end()

    # -- the agent -----------------------------------------------------------------------------------------

    def hear(self) -> None:
        with self._acting():
            self.agent.hear()

    def deal(self) -> None:
        with self._acting():
            self.agent.deal()

    def one_pass(self) -> None:
        with self._acting():
            self._take_in()
            self.agent.one_pass()

    def wake(self) -> None:
        with self._acting():
            self._take_in()
            self.agent.wake()

    def work(self, pf: DeviceName) -> None:
        with self._acting():
            self.agent.workers.work(pf)
            self.judge.busy.discard(Part.of(pf).gpu)

    def work_all(self) -> None:
        """All workers do what they were given, unless the agent is killed meanwhile."""
        agent = self.agent
        for pf in list(agent.workers.waiting):
            if self.agent is agent:
                self.work(pf)

    def agent_round(self) -> None:
        """The agent does all there is to do by now."""
        self.hear()
        self.deal()
        self.one_pass()
        self.work_all()
        self.deal()

    def round(self) -> None:
        """Everybody here has a turn."""
        self.agent_round()
        self.drivers.process.look()
        self.kubelet.sync()

    def kill_after(self, writes: int) -> None:
        """The agent is killed just before, or just after, a write to come."""
        self._kill_in = writes

    def restart_agent(self) -> None:
        """The agent is killed where it stands, and started again."""
        self.bench.heard.clear()
        self.agent = self._start()

    def _start(self) -> AgentProcess:
        self.judge.synced = False
        self.judge.busy = set()
        self.judge.paused = False
        self._dead, self._kill_in = False, None
        return AgentProcess(self.name, self.bench, self._cluster, self._ears, began=self._began, tick=self._tick)

    @contextlib.contextmanager
    def _acting(self) -> Iterator[None]:
        self._watch.on = True
        try:
            yield
        except Killed:
            self._watch.on = False
            self.restart_agent()
        finally:
            self._watch.on = False

    def _take_in(self) -> None:
        """The judge knows what the file says that the agent is about to read."""
        try:
            spec = json.loads(self.bench.file.read_bytes()).get("spec", {})
        except (FileNotFoundError, json.JSONDecodeError):
            return
        self.judge.synced = True
        self.judge.paused = spec.get("paused", False)
        self.judge.confirmed = spec.get("withdrawalsConfirmed", {})
        drained = [each["device"] for each in spec.get("overrides", ()) if each["mode"] == "Drain"]
        self.judge.drained = {Part.of(device).gpu: self._had_before(device) for device in drained}

    def _had_before(self, device: str) -> frozenset[str]:
        """Who may have something of a drained GPU: until the drain is confirmed, also those just being served."""
        before = self.judge.drained.get(Part.of(device).gpu)
        if before is not None and self.judge.confirmed.get(device) == self._token(device):
            return before
        return frozenset((*self.ownership().applied, *self.judge.grips)) | (before or frozenset())

    def _token(self, device: str) -> str:
        """Of the withdrawal that the agent has told of; empty if there is none."""
        try:
            status = json.loads(Path(self.bench.roots.status_file).read_bytes())["status"]
        except FileNotFoundError:
            return ""
        return str(status.get("withdrawn", {}).get(device, ""))

    def _began(self, gpu: PfSeen, actions: tuple[GpuAction, ...]) -> None:
        if self.judge.paused:
            raise Wrong(f"paused, but: {actions[0]}")
        self.judge.busy.add(str(gpu.function.address))

    def _tick(self) -> None:
        if self._dead or self._kill_in == 0:
            self._dead = True
            raise Killed
        if self._kill_in is not None:
            self._kill_in -= 1

    def _before(self, change: Change) -> None:
        self._tick()
        if change.file != self.bench.file:
            self.judge.before(change)

    def _after(self, change: Change) -> None:
        self.judge.after(change)

    def _heard(self, event: gpusim.Uevent) -> None:
        if event.action in ("remove", "unbind") and event.subsystem == "pci" and self._watch.on:
            for key, grip in self.judge.grips.items():
                if event.name in grip.functions:
                    raise Wrong(f"{key} has {event.name}, which the engine took away")

    def ownership(self) -> Ownership:
        record = read_ownership(Path(self.bench.roots.ownership_file))
        return record if isinstance(record, Ownership) else Ownership()

    def marks(self) -> set[str]:
        """Claims that the plugin has marked as in use."""
        marks = read_marks(Path(self.bench.roots.marks_dir))
        assert not isinstance(marks, Unreadable), marks
        return set(marks)

    # -- containers ----------------------------------------------------------------------------------------

    def _claim_is_used(self, uid: str) -> None:
        key = f"claim-{uid}"
        if key not in self.judge.ready:
            raise Wrong(f"{self.name}: {key} was prepared, but is not Ready")
        grip = self.judge.grab(key, visible=self.visible)
        if grip is None:
            raise Wrong(f"{self.name}: {key} was prepared, but its CDI file has changed since it was Ready")
        if self.visible:
            nodes = {path for path, _, _ in nodes_in(grip.cdi) if path != "vfio/vfio"}
            there = sorted(path for path in nodes if Path(self.bench.roots.devfs, path).exists())
            self._pids[uid] = self._next
            self.bench.start_process(self._next, "user", *there)
            self._next += 1

    def _claim_is_left(self, uid: str) -> None:
        self.judge.let_go(f"claim-{uid}")
        pid = self._pids.pop(uid, None)
        if pid is not None:
            self.bench.end_process(pid)

    def check_containers(self) -> None:
        """What running containers were given is there, and nobody else has it. Raises Wrong."""
        nodes = self.bench.machine.nodes.snapshot().items()
        there = {(path, node.major, node.minor) for path, node in nodes if isinstance(node, CharacterDevice)}
        taken: dict[str, str] = {}
        for key, grip in self.judge.grips.items():
            given = {each for each in nodes_in(grip.cdi) if not each[0].startswith("dri/by-path/")}
            if not given <= there:
                raise Wrong(f"{self.name}: {key} is in use without {sorted(given - there)}")
            if all(part.use in ("monitor", "shared") for part in grip.parts):
                continue
            for path in {path for path, _, _ in given if path != "vfio/vfio"}:
                if path in taken:
                    raise Wrong(f"{self.name}: {path} is used by {key} and by {taken[path]}")
                taken[path] = key

    # -- misfortune ----------------------------------------------------------------------------------------

    def stop_faults(self) -> None:
        self.bench.machine.clear_faults()
        self.plug()
        self._kill_in = None

    def damage_file(self, content: str | None) -> None:
        """Somebody meddles with the desired-state file, or removes it."""
        if content is None:
            self.bench.file.unlink(missing_ok=True)
        else:
            self.bench.file.write_text(content)

    def unplug(self, gpu: str) -> None:
        """A GPU is gone that nobody uses just now; its driver has died, for example."""
        machine = self.bench.machine
        used = any(part.gpu == gpu for grip in self.judge.grips.values() for part in grip.parts)
        if machine.sysfs.exists(hardware.pf(gpu)) and not used:
            machine.unplug(gpu)

    def plug(self) -> None:
        """All GPUs are there again."""
        machine = self.bench.machine
        for gpu in machine.spec.gpus:
            if not machine.sysfs.exists(hardware.pf(gpu.address)):
                machine.plug(gpu.address)

    def reboot(self) -> None:
        """Power off and on: containers and marks are gone, VFs and /run too."""
        self.kubelet.power_off()
        self._pids.clear()
        self.judge.ready, self.judge.drained = {}, {}
        self.drivers.process.end()
        self.bench.reboot()
        self.drivers.restart()
        self.restart_agent()
