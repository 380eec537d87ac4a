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


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Somebody uses an allocation: the spec file it was started with, and the functions (in sysfs) behind it."""

    file: str
    spec: Spec
    places: frozenset[str]


@dataclass(slots=True)
class Story:
    """A machine, its agent, and processes that use what they were given."""

    bench: Bench
    random: Random
    node: Node = field(init=False)
    told: list[str] = field(default_factory=list)
    users: dict[str, Use] = field(default_factory=dict)
    pulled: set[str] = field(default_factory=set)
    number: int = 100

    def __post_init__(self) -> None:
        self.node = self.new_agent()

    def new_agent(self) -> Node:
        return Node(self.bench)

    def step(self) -> None:
        steps: dict[Callable[[], None], int] = {
            self.want: 6,
            self.use: 7,
            self.stop_using: 3,
            self.fail_writes: 2,
            self.end_faults: 2,
            self.restart: 2,
            self.kill: 3,
            self.let_time_pass: 3,
            self.pull: 1,
            self.put_back: 2,
            self.reboot: 1,
        }
        (step,) = self.random.choices(list(steps), weights=list(steps.values()))
        step()
        self.check()

    def tell(self, text: str) -> None:
        self.told.append(text)

    # -- what happens --------------------------------------------------------------------------------------

    def want(self) -> None:
        names = self.random.sample(("ann", "bob", "cyd"), self.random.choice((0, 1, 2, 3, 3)))
        wanted = {name: [self.device() for _ in range(self.random.choice((1, 1, 2)))] for name in names}
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
        use = self.use_of(f"intel.com-gpu_alloc-{name}.json")
        self.number += 1
        self.tell(f"process {self.number} uses {name}")
        self.bench.start_process(self.number, "user", *opened(use.spec))
        self.users[str(self.number)] = use

    def use_of(self, file: str) -> Use:
        spec = specs_in(self.bench.cdi)[file]
        places = frozenset(place for node in opened(spec) for place in self.places(node))
        return Use(file=file, spec=spec, places=places)

    def stop_using(self) -> None:
        if self.users:
            user = self.random.choice(sorted(self.users))
            self.tell(f"{user} ends")
            self.end(user)
            self.node.settle("resync")

    def end(self, user: str) -> None:
        self.bench.end_process(int(user))
        del self.users[user]

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
        self.node = self.new_agent()
        self.node.settle()

    def kill(self) -> None:
        self.tell("killed soon")
        self.node.dies_before = len(self.node.writes) + self.random.randint(0, 6)
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
        for user, use in sorted(self.users.items()):
            if not all(map(self.bench.machine.sysfs.isdir, use.places)):
                self.end(user)
        self.node.settle()

    def put_back(self) -> None:
        for address in sorted(self.pulled):
            self.tell(f"put back {address}")
            self.bench.machine.plug(address)
        self.pulled.clear()
        self.node.settle()

    def reboot(self) -> None:
        self.tell("reboot")
        self.bench.reboot()
        self.users.clear()
        self.restart()

    # -- what must hold ------------------------------------------------------------------------------------

    def places(self, node: str) -> set[str]:
        """The sysfs directories of the functions behind a device node, as it is now."""
        tree, (directory, name) = self.bench.machine.sysfs, node.split("/")[:2]
        if directory == "dri":
            return {tree.realpath(f"class/drm/{name}/device")}
        if name == "devices":
            return set()
        members = f"kernel/iommu_groups/{name}/devices"
        return {tree.realpath(f"{members}/{member}") for member in tree.listdir(members)}

    def check(self) -> None:
        assert_sound(self.bench)
        for user, use in self.users.items():
            for node in opened(use.spec):
                assert self.is_there(node), f"{node}, used by {user}, is gone"
                assert self.places(node) <= use.places, f"{node}, used by {user}, is another one now"
        specs = specs_in(self.bench.cdi)
        for one in self.node.status.allocations:
            if one.phase == "Ready":
                for node in opened(specs[f"intel.com-gpu_{one.origin}-{one.name}.json"]):
                    assert self.is_there(node), f"{one.name} is Ready without {node}"

    def is_there(self, node: str) -> bool:
        return Path(self.bench.roots.devfs, node).exists()

    def the_end(self) -> None:
        self.tell("the end")
        self.bench.machine.clear_faults()
        for user in sorted(self.users):
            self.end(user)
        self.put_back()
        self.bench.want(manifest())
        self.node.settle("resync")
        self.node.wait(700, until=lambda: is_ready(self.node.status))
        assert is_ready(self.node.status), why_not(self.node.status)
        assert_pristine(self.bench)


class ClaimStory(Story):
    """The same in a cluster: claims, prepared and unprepared as the kubelet plugin does it."""

    def new_agent(self) -> Node:
        return Node(self.bench, cluster=True)

    def want(self) -> None:
        uids = self.random.sample(("uid-1", "uid-2", "uid-3", "uid-4"), self.random.choice((0, 1, 3, 4, 4)))
        claims = {uid: self.claimed() for uid in uids}
        self.tell(f"want {claims}")
        self.bench.want(manifest(claims=claims, linger=self.random.choice((0, 0, 30))))
        self.node.settle()

    def claimed(self) -> dict[str, object]:
        wanted = self.device()
        device, driver = (wanted, "drm") if isinstance(wanted, str) else (str(wanted["device"]), "vfio")
        pf = next(pf for pf in self.bench.gpus if device.startswith(pf))
        claim: dict[str, object] = {"device": device, "physicalFunction": pf, "kernelDriver": driver}
        if "-vf" in device:
            mode, _, index = device.removeprefix(f"{pf}-").partition("-vf")
            profile = mode if mode.startswith("fs") else f"flex170_{mode}"
            claim |= {"device": f"{pf}-{mode}", "virtualFunction": {"profile": profile, "index": int(index)}}
        return claim

    def use(self) -> None:
        names = [one.name for one in self.node.status.allocations if one.name not in self.users]
        if not names:
            return
        uid = self.random.choice(names)
        self.number += 1
        self.tell(f"prepare {uid}")
        self.bench.mark(uid, str(self.number))
        self.node.settle()
        ready = any(one.name == uid and one.phase == "Ready" for one in self.node.status.allocations)
        if ready and self.node.nonces.get(uid) == str(self.number):
            self.tell(f"{uid} is prepared")
            self.users[uid] = self.use_of(f"intel.com-gpu_claim-{uid}.json")
        else:
            self.bench.unmark(uid)
            self.node.settle()

    def end(self, user: str) -> None:
        self.bench.unmark(user)
        del self.users[user]

    def check(self) -> None:
        super().check()
        specs = specs_in(self.bench.cdi)
        for use in self.users.values():
            assert specs[use.file] == use.spec, f"{use.file} changed in use"


def opened(spec: Spec) -> list[str]:
    """The nodes that a user of a whole spec has open, below /dev; what all users of VFIO share is left out."""
    nodes = {node.removeprefix("/dev/") for device in spec["devices"] for node in nodes_of(spec, device["name"])}
    return sorted(node for node in nodes if "by-path" not in node and node != "vfio/vfio")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [Story, ClaimStory], ids=["processes", "claims"])
def test_a_random_walk(kind: type[Story], seed: int, tmp_path: Path) -> None:
    with running(tmp_path, MACHINE) as bench:
        story = kind(bench=bench, random=Random(seed))
        try:
            story.want()
            for _ in range(STEPS):
                story.step()
            story.the_end()
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(story.told)) from error
