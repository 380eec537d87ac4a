"""Whatever is done in whatever order, the simulated kernel stays consistent."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import gpusim
from tests.sim.simulated import boot, errno_of, number, write

DEVICES = "bus/pci/devices"
ADDRESSES = [gpu.address for gpu in gpusim.load_machine("flex140").gpus] + ["0000:83:00.0"]
DRIVERS = ("i915", "xe", "vfio-pci", "xe-vfio-pci")
MIXED = gpusim.MachineSpec(
    description="two Flex 140 and a B50",
    gpus=gpusim.load_machine("flex140").gpus + gpusim.load_machine("passthrough").gpus[1:],
)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.machine = gpusim.Machine(MIXED)
        self.drm: set[str] = set()
        self._follow()

    def _follow(self) -> None:
        self.drm = {name for name in self.machine.sysfs.listdir("class/drm") if name != "version"}

        def follow(event: gpusim.Uevent) -> None:
            if event.subsystem == "drm" and event.action in ("add", "remove"):
                change = self.drm.add if event.action == "add" else self.drm.remove
                change(event.name)

        self.machine.listen(follow)

    @rule(address=st.sampled_from(ADDRESSES), count=st.integers(0, 13))
    def set_numvfs(self, address: str, count: int) -> None:
        write(self.machine, f"{DEVICES}/{address}/sriov_numvfs", count)

    @rule(
        address=st.sampled_from(ADDRESSES),
        driver=st.sampled_from(DRIVERS),
        verb=st.sampled_from(["bind", "unbind"]),
    )
    def bind_or_unbind(self, address: str, driver: str, verb: str) -> None:
        write(self.machine, f"bus/pci/drivers/{driver}/{verb}", address)

    @rule(address=st.sampled_from(ADDRESSES), name=st.sampled_from(["", *DRIVERS]), vf=st.booleans())
    def override(self, address: str, name: str, vf: bool) -> None:
        target = f"{DEVICES}/{address}/virtfn0" if vf else f"{DEVICES}/{address}"
        write(self.machine, f"{target}/driver_override", f"{name}\n")

    @rule(address=st.sampled_from(ADDRESSES))
    def probe(self, address: str) -> None:
        write(self.machine, "bus/pci/drivers_probe", address)

    @rule(card=st.integers(0, 3), vf=st.integers(1, 4), mib=st.sampled_from([0, 1, 512, 8000]))
    def set_quota(self, card: int, vf: int, mib: int) -> None:
        write(self.machine, f"class/drm/card{card}/prelim_iov/vf{vf}/gt/lmem_quota", mib << 20)

    @rule(address=st.sampled_from(ADDRESSES))
    def unplug_or_plug(self, address: str) -> None:
        if self.machine.sysfs.exists(f"{DEVICES}/{address}"):
            self.machine.unplug(address)
        else:
            self.machine.plug(address)

    @invariant()
    def links_agree_with_numvfs(self) -> None:
        tree = self.machine.sysfs
        for address in ADDRESSES:
            path = f"{DEVICES}/{address}"
            if tree.exists(path):
                links = [name for name in tree.listdir(path) if name.startswith("virtfn")]
                assert len(links) == number(self.machine, f"{path}/sriov_numvfs")
                assert all(tree.realpath(f"{path}/{link}/physfn") == tree.realpath(path) for link in links)

    @invariant()
    def drm_devices_are_those_announced_and_have_nodes(self) -> None:
        tree = self.machine.sysfs
        entries = {name for name in tree.listdir("class/drm") if name != "version"}
        assert entries == self.drm
        nodes = {path.removeprefix("dri/") for path in self.machine.nodes.snapshot() if path.startswith("dri/")}
        assert {name for name in entries if "-" not in name} == {name for name in nodes if "/" not in name}

    @invariant()
    def bound_functions_are_in_their_drivers_directory(self) -> None:
        tree = self.machine.sysfs
        for address in tree.listdir(DEVICES):
            listed = [driver for driver in DRIVERS if address in tree.listdir(f"bus/pci/drivers/{driver}")]
            link = f"{DEVICES}/{address}/driver"
            assert listed == ([tree.readlink(link).rpartition("/")[2]] if tree.islink(link) else [])

    @invariant()
    def every_link_below_class_and_bus_leads_somewhere(self) -> None:
        tree = self.machine.sysfs
        for directory in ("class/drm", "class/mei", "class/vfio", "class/hwmon", "dev/char", DEVICES):
            assert all(tree.exists(f"{directory}/{name}") for name in tree.listdir(directory))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=25)


def everything(machine: gpusim.Machine, path: str = "") -> dict[str, str]:
    """All of a tree: links as written, attributes as they read, write-only ones as nothing."""
    tree, found = machine.sysfs, {}
    for name in tree.listdir(path):
        below = f"{path}/{name}".lstrip("/")
        if tree.islink(below):
            found[below] = tree.readlink(below)
        elif tree.isdir(below):
            found |= everything(machine, below)
        else:
            found[below] = _content(machine, below)
    return found


def _content(machine: gpusim.Machine, path: str) -> str:
    return "" if errno_of(lambda: machine.sysfs.read(path)) else machine.sysfs.read(path).decode()


def test_gpus_work_side_by_side() -> None:
    machine = boot("flex170-x8")
    before = everything(machine)

    def work(address: str) -> None:
        for count in (5, 9, 3):
            machine.foreign_numvfs(address, count)
            assert number(machine, f"{DEVICES}/{address}/sriov_numvfs") == count
        machine.foreign_numvfs(address, 0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [gpu.address for gpu in machine.spec.gpus]))
    assert everything(machine) == before


@pytest.mark.parametrize("name", ["flex140", "b60", "igpu-xe"])
def test_plugged_again_is_as_after_boot(name: str) -> None:
    machine = boot(name)
    before = everything(machine)
    for gpu in machine.spec.gpus:
        machine.foreign_numvfs(gpu.address, 3)
    for gpu in machine.spec.gpus:
        machine.unplug(gpu.address)
    assert everything(machine) != before
    for gpu in machine.spec.gpus:
        machine.plug(gpu.address)
    assert everything(machine) == before
