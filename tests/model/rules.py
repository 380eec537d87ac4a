"""Everything that can happen to a machine with an agent, for Hypothesis to put in any order."""

import contextlib

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import gpusim
from state.ids import PciAddress, device_name
from tests.model.settling import everybody_leaves, settle
from tests.model.world import FLEX, PRO, SPEC, World

GPUS = {gpu.address: device_name(PciAddress(gpu.address), gpu.device) for gpu in SPEC.gpus}
_MODES = {FLEX: ("m1-vf0", "m2-vf0", "m2-vf1", "fs2-vf0", "fs2-vf1"), PRO: ("fs1-vf0", "fs2-vf0", "fs2-vf1")}


def _devices(gpu: str) -> list[dict[str, object]]:
    name = GPUS[gpu]
    plain: list[dict[str, object]] = [{"device": f"{name}-{mode}"} for mode in _MODES[gpu]]
    passed: list[dict[str, object]] = [
        {"device": f"{name}-fs2-vf1", "kernelDriver": "vfio"},
        {"device": name, "kernelDriver": "vfio"},
    ]
    return [
        *plain,
        {"device": name},
        {"device": f"{name}-shared"},
        *passed,
        {"device": f"{name}-monitor", "adminAccess": True},
    ]


EACH = {gpu: st.sampled_from(_devices(gpu)) for gpu in GPUS}
DEVICES = st.one_of(
    EACH[FLEX].map(lambda device: (device,)),
    EACH[PRO].map(lambda device: (device,)),
    st.tuples(EACH[FLEX], EACH[PRO]),
)
OVERRIDES: dict[str, st.SearchStrategy[dict[str, object] | None]] = {
    gpu: st.sampled_from(
        [
            None,
            {"mode": "Managed"},
            {"mode": "Drain"},
            {"mode": "Ignore"},
            {"mode": "Fixed"},
            {"mode": "Fixed", "virtualFunctions": {"profile": "fs2"}},
            {"mode": "Fixed", "virtualFunctions": {"profile": "m1" if gpu == FLEX else "fs1"}},
            {"mode": "Managed", "kernelDriver": "vfio"},
        ]
    )
    for gpu in GPUS
}
ONE_GPU = st.sampled_from(sorted(GPUS))
PICK = st.integers(0, 9)


_ON = gpusim.Operation
FAULTS = {
    "one VF only": gpusim.FaultRule(on=_ON.ENABLE, vfs=1),
    "no VFs once": gpusim.FaultRule(on=_ON.ENABLE, error="ENOSPC", count=1),
    "numvfs fails once": gpusim.FaultRule(on=_ON.WRITE, path="*/sriov_numvfs", error="EIO", count=1),
    "numvfs fails later": gpusim.FaultRule(on=_ON.WRITE, path="*/sriov_numvfs", error="EBUSY", after=1, count=2),
    "quota fails": gpusim.FaultRule(on=_ON.WRITE, path="*_quota", error="EIO", after=3, count=1),
    "automatic fails": gpusim.FaultRule(on=_ON.WRITE, path="*/auto_provisioning", error="EIO", count=1),
    "bind fails": gpusim.FaultRule(on=_ON.WRITE, path="*/bind", error="ENODEV", count=1),
    "unbind fails": gpusim.FaultRule(on=_ON.WRITE, path="*/unbind", error="EIO", count=2),
    "probe fails": gpusim.FaultRule(on=_ON.PROBE, device=PRO, vf=1, error="EIO", count=2),
    "numvfs unreadable": gpusim.FaultRule(on=_ON.READ, path="*/sriov_numvfs", error="EIO", count=2),
    "quota unreadable": gpusim.FaultRule(on=_ON.READ, path="*_quota", error="EIO", count=1),
}


class Common(RuleBasedStateMachine):
    """What can happen on any machine."""

    cluster: bool
    fuse = False

    def __init__(self) -> None:
        super().__init__()
        self.world = World(cluster=self.cluster, fuse=self.fuse)

    def teardown(self) -> None:
        try:
            everybody_leaves(self.world)
        finally:
            self.world.close()

    # -- the agent's life ----------------------------------------------------------------------------------

    @rule(number=st.integers(1, 3))
    def some_passes(self, number: int) -> None:
        for _ in range(number):
            self.world.one_pass()

    @rule(pick=PICK)
    @precondition(lambda self: self.world.agent.workers.waiting)
    def a_worker_acts(self, pick: int) -> None:
        waiting = sorted(self.world.agent.workers.waiting)
        self.world.work(waiting[pick % len(waiting)])

    @rule()
    def come_to_rest(self) -> None:
        settle(self.world)

    @rule(seconds=st.sampled_from([0, 0, 1, 31, 100]))
    def go_on_as_far_as_it_gets(self, seconds: int) -> None:
        self.world.quiesce()
        self.world.sleep(seconds)

    @rule(changes=st.integers(0, 25))
    def crash(self, changes: int) -> None:
        self.world.crash_after(changes)

    @rule(how=st.sampled_from(["without a file", "without a file", "without the held record", "of the machine"]))
    def restart(self, how: str) -> None:
        if how == "without a file":
            self.world.break_file()
            self.world.restart()
            self.world.one_pass()
        elif how == "without the held record":
            self.world.lose_held_record()
        else:
            self.world.reboot()

    # -- people --------------------------------------------------------------------------------------------

    @rule(pick=PICK)
    @precondition(lambda self: self.world.wanted.entries)
    def release(self, pick: int) -> None:
        del self.world.wanted.entries[self._entry(pick)]
        self.world.write_file()

    @rule(pick=PICK, devices=DEVICES)
    @precondition(lambda self: self.world.wanted.entries)
    def change(self, pick: int, devices: tuple[dict[str, object], ...]) -> None:
        self.world.wanted.entries[self._entry(pick)] = devices
        self.world.write_file()

    @rule(gpu=ONE_GPU, data=st.data())
    def override(self, gpu: str, data: st.DataObject) -> None:
        override = data.draw(OVERRIDES[gpu])
        if override is None:
            self.world.wanted.overrides.pop(GPUS[gpu], None)
        else:
            self.world.wanted.overrides[GPUS[gpu]] = override
        self.world.write_file()

    @rule(
        linger=st.sampled_from([0, 30]),
        paused=st.sampled_from([False, False, False, True]),
        broken=st.sampled_from([False, False, True]),
    )
    def edit_the_rest(self, linger: int, paused: bool, broken: bool) -> None:
        self.world.wanted.linger, self.world.wanted.paused = linger, paused
        self.world.write_file()
        if broken:
            self.world.break_file()

    # -- others and misfortune -----------------------------------------------------------------------------

    @rule(fault=st.sampled_from(["none", *FAULTS]))
    def fault(self, fault: str) -> None:
        if fault == "none":
            self.world.machine.clear_faults()
        else:
            self.world.machine.add_faults(FAULTS[fault])

    @rule(
        gpu=ONE_GPU,
        what=st.sampled_from(["numvfs", "numvfs", "unbind", "plug", "vanish"]),
        count=st.integers(0, 2),
    )
    def others_change_a_gpu(self, gpu: str, what: str, count: int) -> None:
        if what == "numvfs":
            self.world.others_set_numvfs(gpu, count)
        elif what == "unbind":
            with contextlib.suppress(OSError):  # faults hit others too
                self.world.others_unbind_vf(gpu, count)
        elif what == "vanish":
            self.world.vanish(gpu, count)
        else:
            self.world.unplug_or_plug(gpu)

    @rule(how=st.sampled_from(["foreign", "stray", "remove", "cut"]), pick=PICK)
    def meddle_with_cdi(self, how: str, pick: int) -> None:
        self.world.damage_cdi(how, pick)

    @rule(gpu=st.one_of(ONE_GPU, st.none()))
    def monitor(self, gpu: str | None) -> None:
        if gpu is None:
            self.world.stop_watching()
        elif self.world.is_plugged(gpu):
            self.world.watch_gpu(gpu)

    def _entry(self, pick: int) -> str:
        names = sorted(self.world.wanted.entries)
        return names[pick % len(names)]


class Standalone(Common):
    """A machine of its own: a person's file, and processes that open what is Ready."""

    cluster = False

    @rule(name=st.sampled_from("abcd"), devices=DEVICES)
    def allocate(self, name: str, devices: tuple[dict[str, object], ...]) -> None:
        self.world.wanted.entries[name] = devices
        self.world.write_file()

    @rule(name=st.sampled_from("ef"), devices=DEVICES)
    def allocate_and_use(self, name: str, devices: tuple[dict[str, object], ...]) -> None:
        self.allocate(name, devices)
        self.world.quiesce()
        self.use(0)

    @rule(pick=PICK)
    @precondition(lambda self: self.world.ready_keys())
    def use(self, pick: int) -> None:
        keys = [key for key in self.world.ready_keys() if key not in self.world.pids]
        if keys:
            self.world.use(keys[pick % len(keys)], visible=True)

    @rule(pick=PICK)
    @precondition(lambda self: self.world.pids)
    def stop_using(self, pick: int) -> None:
        keys = sorted(self.world.pids)
        self.world.stop_using(keys[pick % len(keys)])


class Cluster(Common):
    """A node of a cluster: the controller's entries, and a kubelet plugin that marks claims."""

    cluster = True

    def __init__(self) -> None:
        super().__init__()
        self.claims = 0

    @rule()
    def controller_answers(self) -> None:
        if self.world.file_is_good:
            self.world.controller_answers()

    @rule(devices=DEVICES)
    @precondition(lambda self: len(self.world.wanted.entries) < 5)
    def allocate(self, devices: tuple[dict[str, object], ...]) -> None:
        self.claims += 1
        self.world.wanted.entries[f"c{self.claims}"] = devices
        self.world.write_file()

    @rule(devices=DEVICES, visible=st.booleans())
    @precondition(lambda self: len(self.world.wanted.entries) < 5)
    def allocate_and_use(self, devices: tuple[dict[str, object], ...], visible: bool) -> None:
        self.allocate(devices)
        self.world.prepare(f"c{self.claims}")
        self.world.quiesce()
        self.world.plugin_looks(visible=visible)

    @rule(pick=PICK)
    @precondition(lambda self: self.world.wanted.entries)
    def prepare(self, pick: int) -> None:
        uid = self._entry(pick)
        if uid not in self.world.marks:
            self.world.prepare(uid)

    @rule(visible=st.booleans(), rest=st.booleans())
    def plugin_looks(self, visible: bool, rest: bool) -> None:
        if rest:
            self.world.quiesce()
        self.world.plugin_looks(visible=visible)

    @rule(pick=PICK)
    @precondition(lambda self: self.world.marks)
    def unprepare(self, pick: int) -> None:
        uids = sorted(self.world.marks)
        self.world.unprepare(uids[pick % len(uids)])

    @rule(pick=PICK)
    @precondition(lambda self: self.world.wanted.entries)
    def release_by_hand(self, pick: int) -> None:
        self.world.wanted.releases = [self._entry(pick)]
        self.world.write_file()
