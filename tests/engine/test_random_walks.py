"""Long random stories: whatever happens and in whatever order, users keep what they use, and all can be undone.

Each seed is one story, always the same. A failure shows the steps that led to it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

import gpusim
from tests.cdi_rules import Spec, nodes_of, specs_in
from tests.engine.hardware import assert_pristine, assert_sound
from tests.engine.machines import Bench, Killed, Node, cards, is_ready, manifest, running, vfio, why_not

pytestmark = [pytest.mark.root, pytest.mark.fuse]

MACHINE = cards(("flex170", "0000:03:00.0"), ("b60", "0000:83:00.0"), ("igpu", "0000:00:02.0"), total=3)
STEPS = 30
ERRNOS = ("EIO", "EBUSY", "ENOSPC", "ENODEV", "EPERM")


@dataclass(slots=True)
class Story:
    """A machine, its agent, and who uses what."""

    bench: Bench
    random: Random
    node: Node
    told: list[str] = field(default_factory=list)
    users: dict[int, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """By process: the allocation, and the sysfs directories of the functions it uses."""
    pulled: set[str] = field(default_factory=set)
    pids: int = 100

    def step(self) -> None:
        steps: tuple[Callable[[], None], ...] = (
            self.want,
            self.want,
            self.want,
            self.use,
            self.use,
            self.stop_using,
            self.fail_writes,
            self.end_faults,
            self.restart,
            self.kill,
            self.let_time_pass,
            self.pull,
            self.put_back,
            self.reboot,
        )
        self.random.choice(steps)()
        self.check()

    def tell(self, text: str) -> None:
        self.told.append(text)

    # -- what happens --------------------------------------------------------------------------------------

    def want(self) -> None:
        names = self.random.sample(("ann", "bob", "cyd"), self.random.randint(0, 3))
        wanted = {name: [self.device() for _ in range(self.random.randint(1, 2))] for name in names}
        self.tell(f"want {wanted}")
        self.bench.want(manifest(wanted, linger=self.random.choice((0, 0, 30))))
        self.node.settle()

    def device(self) -> str | dict[str, object]:
        flex, b60, igpu = self.bench.gpus
        names = [flex, f"{flex}-shared", f"{flex}-m1-vf0", f"{flex}-m2-vf0", f"{flex}-m2-vf1", f"{flex}-fs3-vf2"]
        names += [b60, f"{b60}-fs2-vf0", f"{b60}-fs2-vf1", f"{b60}-fs3-vf0", igpu, f"{igpu}-shared"]
        name = self.random.choice(names)
        passed_through = not name.endswith("shared") and self.random.random() < 0.25
        return vfio(name) if passed_through else name

    def use(self) -> None:
        ready = [one.name for one in self.node.status.allocations if one.phase == "Ready"]
        if not ready:
            return
        name = self.random.choice(ready)
        nodes = [node.removeprefix("/dev/") for node in nodes_of(self.specs()[name], name)]
        opened = [node for node in nodes if "by-path" not in node and node != "vfio/vfio"]
        self.pids += 1
        self.tell(f"process {self.pids} uses {name}: {opened}")
        self.bench.start_process(self.pids, "user", *opened)
        self.users[self.pids] = (name, tuple(sorted(self.places(opened))))

    def stop_using(self) -> None:
        if self.users:
            pid = self.random.choice(sorted(self.users))
            self.tell(f"process {pid} ends")
            self.end(pid)
            self.node.settle("resync")

    def end(self, pid: int) -> None:
        self.bench.end_process(pid)
        del self.users[pid]

    def fail_writes(self) -> None:
        file = self.random.choice(("sriov_numvfs", "bind", "unbind", "driver_override", "*_quota", "auto_prov*"))
        error, count = self.random.choice(ERRNOS), self.random.choice((1, 2, None))
        self.tell(f"{file} fails with {error}, {count} times")
        on = gpusim.Operation.WRITE
        self.bench.machine.add_faults(gpusim.FaultRule(on=on, path=f"*/{file}", error=error, count=count))

    def end_faults(self) -> None:
        self.tell("no more faults")
        self.bench.machine.clear_faults()

    def restart(self) -> None:
        self.tell("restart")
        self.node = Node(self.bench)
        self.node.settle()

    def kill(self) -> None:
        self.node.dies_before = len(self.node.writes) + self.random.randint(0, 6)
        self.tell("killed soon")
        try:
            self.want()
        except Killed:
            self.restart()
        self.node.dies_before = None

    def let_time_pass(self) -> None:
        seconds = self.random.choice((1, 40, 400))
        self.tell(f"{seconds} seconds pass")
        self.node.wait(seconds)

    def pull(self) -> None:
        address = self.random.choice([gpu.address for gpu in self.bench.machine.spec.gpus])
        if address in self.pulled:
            return
        self.tell(f"pull {address}")
        self.bench.machine.unplug(address)
        self.pulled.add(address)
        for pid, (_, places) in sorted(self.users.items()):
            if any(f"/{address}" in place or not self.bench.machine.sysfs.isdir(place) for place in places):
                self.end(pid)
        self.node.settle()

    def put_back(self) -> None:
        for address in sorted(self.pulled):
            self.tell(f"put back {address}")
            self.bench.machine.plug(address)
        self.pulled.clear()
        self.node.settle()

    def reboot(self) -> None:
        if self.random.random() < 0.5:
            return
        self.tell("reboot")
        self.bench.reboot()
        self.users.clear()
        self.restart()

    # -- what must hold ------------------------------------------------------------------------------------

    def specs(self) -> dict[str, Spec]:
        """Our spec files by allocation."""
        prefix, suffix = "intel.com-gpu_alloc-", ".json"
        return {name[len(prefix) : -len(suffix)]: spec for name, spec in specs_in(self.bench.cdi).items()}

    def places(self, nodes: list[str]) -> set[str]:
        """The sysfs directories of the functions behind device nodes, as one can find them now."""
        machine = self.bench.machine
        found = set()
        for node in nodes:
            directory, name = node.split("/")[:2]
            kind = {"dri": "class/drm", "vfio": "class/vfio"}[directory]
            if directory == "dri":
                found.add(machine.sysfs.realpath(f"{kind}/{name}/device"))
            elif name != "devices":
                group = f"kernel/iommu_groups/{name}/devices"
                found |= {machine.sysfs.realpath(f"{group}/{member}") for member in machine.sysfs.listdir(group)}
        return found

    def check(self) -> None:
        assert_sound(self.bench)
        for pid, (name, places) in self.users.items():
            process = Path(self.bench.roots.procfs, str(pid), "fd")
            for place in places:
                assert self.bench.machine.sysfs.isdir(place), f"{place}, used by {pid} for {name}, is gone"
            for descriptor in process.iterdir():
                assert descriptor.exists(), f"{descriptor.readlink()}, open in {pid} for {name}, is gone"
        specs = self.specs()
        for one in self.node.status.allocations:
            if one.phase == "Ready":
                for path in nodes_of(specs[one.name], one.name):
                    node = Path(self.bench.roots.devfs, path.removeprefix("/dev/"))
                    assert node.exists(), f"{one.name} is Ready without {path}"

    def the_end(self) -> None:
        self.tell("the end")
        self.bench.machine.clear_faults()
        for pid in sorted(self.users):
            self.end(pid)
        self.put_back()
        self.bench.want(manifest())
        self.node.settle("resync")
        self.node.wait(700, until=lambda: is_ready(self.node.status))
        assert is_ready(self.node.status), why_not(self.node.status)
        assert_pristine(self.bench)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_walk(seed: int, tmp_path: Path) -> None:
    with running(tmp_path, MACHINE) as bench:
        story = Story(bench=bench, random=Random(seed), node=Node(bench))
        try:
            story.want()
            for _ in range(STEPS):
                story.step()
            story.the_end()
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(story.told)) from error
