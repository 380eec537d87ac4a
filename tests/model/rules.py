"""Everything that can happen to a machine with an agent, for Hypothesis to put in any order."""

import gpusim
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from state.ids import PciAddress, device_name
from tests.model.settling import everybody_leaves, settle
from tests.model.world import FLEX, PRO, SPEC, World

GPUS = {gpu.address: device_name(PciAddress(gpu.address), gpu.device) for gpu in SPEC.gpus}
_MODES = {FLEX: ("m1-vf0", "m2-vf0", "m2-vf1", "fs2-vf0", "fs2-vf1"), PRO: ("fs1-vf0", "fs2-vf0", "fs2-vf1")}


def _devices(gpu: str) -> list[dict[str, object]]:
    name = GPUS[gpu]
    plain: list[dict[str, object]] = [{"device": f"{name}-{mode}"} for mode in _MODES[gpu]]
    passed = [{"device": f"{name}-fs2-vf1", "kernelDriver": "vfio"}, {"device": name, "kernelDriver": "vfio"}]
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
OVERRIDES = {
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


def _faults() -> list[gpusim.FaultRule]:
    on = gpusim.Operation
    return [
        gpusim.FaultRule(on=on.ENABLE, vfs=1),
        gpusim.FaultRule(on=on.ENABLE, error="ENOSPC", count=1),
        gpusim.FaultRule(on=on.WRITE, path="*/sriov_numvfs", error="EIO", count=1),
        gpusim.FaultRule(on=on.WRITE, path="*/sriov_numvfs", error="EBUSY", after=1, count=2),
        gpusim.FaultRule(on=on.WRITE, path="*_quota", error="EIO", after=3, count=1),
        gpusim.FaultRule(on=on.WRITE, path="*/auto_provisioning", error="EIO", count=1),
        gpusim.FaultRule(on=on.WRITE, path="*/bind", error="ENODEV", count=1),
        gpusim.FaultRule(on=on.WRITE, path="*/unbind", error="EIO", count=2),
        gpusim.FaultRule(on=on.PROBE, device=PRO, vf=1, error="EIO", count=2),
        gpusim.FaultRule(on=on.READ, path="*/sriov_numvfs", error="EIO", count=2),
        gpusim.FaultRule(on=on.READ, path="*_quota", error="EIO", count=1),
    ]


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

    @rule()
    def one_pass(self) -> None:
        self.world.one_pass()

    @rule(pick=PICK)
    @precondition(lambda self: self.world.agent.workers.waiting)
    def a_worker_acts(self, pick: int) -> None:
        waiting = sorted(self.world.agent.workers.waiting)
        self.world.work(waiting[pick % len(waiting)])

    @rule()
    def come_to_rest(self) -> None:
        settle(self.world)

    @rule()
    def go_on_as_far_as_it_gets(self) -> None:
        self.world.quiesce()

    @rule(seconds=st.sampled_from([1, 31, 100]))
    def time_passes(self, seconds: int) -> None:
        self.world.sleep(seconds)

    @rule(changes=st.integers(0, 25))
    def crash(self, changes: int) -> None:
        self.world.crash_after(changes)

    @rule()
    def restart_without_a_file(self) -> None:
        self.world.break_file()
        self.world.restart()
        self.world.one_pass()

    @rule()
    def reboot(self) -> None:
        self.world.reboot()

    # -- people --------------------------------------------------------------------------------------------

    @rule(broken=st.booleans())
    def write_the_file(self, broken: bool) -> None:
        if broken:
            self.world.break_file()
        else:
            self.world.write_file()

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

    @rule(linger=st.sampled_from([0, 30]))
    def change_policy(self, linger: int) -> None:
        self.world.wanted.linger = linger
        self.world.write_file()

    @rule(paused=st.sampled_from([False, False, False, True]))
    def pause_or_go_on(self, paused: bool) -> None:
        self.world.wanted.paused = paused
        self.world.write_file()

    # -- others and misfortune -----------------------------------------------------------------------------

    @rule(fault=st.sampled_from(_faults()))
    def fault(self, fault: gpusim.FaultRule) -> None:
        self.world.machine.add_faults(fault)

    @rule()
    def faults_end(self) -> None:
        self.world.machine.clear_faults()

    @rule(gpu=ONE_GPU, count=st.integers(0, 2))
    def others_set_numvfs(self, gpu: str, count: int) -> None:
        self.world.others_set_numvfs(gpu, count)

    @rule(gpu=ONE_GPU, index=st.integers(0, 1))
    def others_unbind_a_vf(self, gpu: str, index: int) -> None:
        self.world.others_unbind_vf(gpu, index)

    @rule(gpu=ONE_GPU)
    def unplug_or_plug(self, gpu: str) -> None:
        self.world.unplug_or_plug(gpu)

    @rule(gpu=ONE_GPU, vf=st.integers(0, 1))
    def a_vf_falls_off_the_bus(self, gpu: str, vf: int) -> None:
        self.world.vanish(gpu, vf)

    @rule(how=st.sampled_from(["foreign", "stray", "remove", "cut"]), pick=PICK)
    def meddle_with_cdi(self, how: str, pick: int) -> None:
        self.world.damage_cdi(how, pick)

    @rule(gpu=ONE_GPU)
    def monitor(self, gpu: str) -> None:
        if self.world.is_plugged(gpu):
            self.world.watch_gpu(gpu)

    @rule()
    def monitors_end(self) -> None:
        self.world.stop_watching()

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

    @rule(pick=PICK)
    @precondition(lambda self: self.world.ready_keys())
    def use(self, pick: int) -> None:
        keys = self.world.ready_keys()
        self.world.start(keys[pick % len(keys)])

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

    @rule(devices=DEVICES)
    @precondition(lambda self: len(self.world.wanted.entries) < 5)
    def allocate(self, devices: tuple[dict[str, object], ...]) -> None:
        self.claims += 1
        self.world.wanted.entries[f"c{self.claims}"] = devices
        self.world.write_file()

    @rule(pick=PICK)
    @precondition(lambda self: self.world.wanted.entries)
    def prepare(self, pick: int) -> None:
        uid = self._entry(pick)
        if uid not in self.world.marks:
            self.world.prepare(uid)

    @rule(visible=st.booleans())
    def plugin_looks(self, visible: bool) -> None:
        self.world.plugin_looks(visible=visible)

    @rule(visible=st.booleans())
    @precondition(lambda self: self.world.waiting)
    def prepare_to_the_end(self, visible: bool) -> None:
        """Settle, so that claims are confirmed often enough for something to happen to them."""
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

    @rule()
    def agent_loses_the_held_record(self) -> None:
        self.world.lose_held_record()
