"""Known races and every rule of the engine once, step by step. The judge looks on at every change."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gpusim
from reconciler.runtime.files import write_atomic
from state.status import AllocationStatus
from tests.engine import hardware
from tests.model.rules import FAULTS, GPUS
from tests.model.settling import everybody_leaves, settle
from tests.model.world import FLEX, PRO, World

Device = dict[str, object]
M1: Device = {"device": f"{GPUS[FLEX]}-m1-vf0"}
M2: Device = {"device": f"{GPUS[FLEX]}-m2-vf0"}
M2B: Device = {"device": f"{GPUS[FLEX]}-m2-vf1"}
FS2: Device = {"device": f"{GPUS[PRO]}-fs2-vf1"}
PASSED: Device = {**FS2, "kernelDriver": "vfio"}
WHOLE: Device = {"device": GPUS[FLEX]}


@pytest.fixture(params=[True, False], ids=["cluster", "standalone"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from _world(cluster=request.param)


@pytest.fixture
def node() -> Iterator[World]:
    yield from _world(cluster=True)


@pytest.fixture
def machine() -> Iterator[World]:
    yield from _world(cluster=False)


def _world(*, cluster: bool) -> Iterator[World]:
    world = World(cluster=cluster)
    try:
        yield world
        everybody_leaves(world)
    finally:
        world.close()


def want(world: World, **entries: Device) -> None:
    world.wanted.entries = {name: (device,) for name, device in entries.items()}
    world.write_file()


def give(world: World, **entries: Device) -> None:
    """These entries are wanted, and get what they want."""
    want(world, **entries)
    world.quiesce()
    for name in entries:
        assert phase(world, name) == "Ready", message(world, name)


def use(world: World, name: str, device: Device, *, visible: bool = False) -> None:
    """Somebody uses a device; seen only by a mark where there are marks."""
    if world.cluster:
        want(world, **{name: device})
        world.prepare(name)
        world.quiesce()
        world.plugin_looks(visible=visible)
    else:
        give(world, **{name: device})
        world.use(f"alloc-{name}", visible=True)
    assert key(world, name) in world.judge.grips, message(world, name)


def stop(world: World, name: str) -> None:
    if world.cluster:
        world.unprepare(name)
    else:
        world.stop_using(key(world, name))


def key(world: World, name: str) -> str:
    return f"{'claim' if world.cluster else 'alloc'}-{name}"


def phase(world: World, name: str) -> str | None:
    return next((one.phase for one in _allocations(world) if one.name == name), None)


def message(world: World, name: str) -> str:
    return next((one.message for one in _allocations(world) if one.name == name), "it is not in the status")


def _allocations(world: World) -> tuple[AllocationStatus, ...]:
    assert world.agent.last is not None
    return world.agent.last.status.allocations


def num_vfs(world: World, gpu: str = FLEX) -> int:
    return hardware.num_vfs(world.machine, gpu)


# -- in use ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [M2, PASSED], ids=["vf", "passthrough"])
def test_what_is_in_use_stays_when_it_is_wanted_no_more(world: World, device: Device) -> None:
    use(world, "a", device)
    want(world)
    world.quiesce()
    world.sleep(100)
    assert key(world, "a") in world.judge.grips
    assert num_vfs(world, FLEX if device is M2 else PRO) == 2
    stop(world, "a")
    world.quiesce()
    assert num_vfs(world, FLEX if device is M2 else PRO) == 0


def test_a_whole_gpu_in_use_gets_no_vfs(world: World) -> None:
    use(world, "a", WHOLE)
    want(world, b=M2)
    world.quiesce()
    assert (phase(world, "b"), num_vfs(world)) == ("Blocked", 0)
    stop(world, "a")
    world.quiesce()
    assert phase(world, "b") == "Ready"


def test_lingering_ends_for_another_mode_but_not_under_a_user(world: World) -> None:
    world.wanted.linger = 30
    use(world, "a", M2)
    want(world, b=M1)
    world.quiesce()
    world.sleep(100)
    assert (phase(world, "b"), num_vfs(world)) == ("Blocked", 2)
    stop(world, "a")
    world.quiesce()
    assert (phase(world, "b"), num_vfs(world)) == ("Ready", 1)


def test_a_neighbour_in_use_keeps_all_vfs(world: World) -> None:
    give(world, a=M2, b=M2B)
    if world.cluster:
        world.prepare("b")
        world.quiesce()
        world.plugin_looks(visible=False)
    else:
        world.use("alloc-b", visible=True)
    want(world, c=M1)
    world.quiesce()
    assert (phase(world, "c"), num_vfs(world)) == ("Blocked", 2)


def test_a_claim_that_changes_in_use_keeps_what_it_has(node: World) -> None:
    use(node, "a", M2)
    want(node, a=M1)
    node.quiesce()
    node.sleep(100)
    assert (phase(node, "a"), num_vfs(node)) == ("Blocked", 2)
    node.unprepare("a")
    node.quiesce()
    assert (phase(node, "a"), num_vfs(node)) == ("Ready", 1)


def test_a_monitor_keeps_the_driver_but_not_the_vfs(world: World) -> None:
    world.watch_gpu(FLEX)
    give(world, a=M2)
    want(world, b=M1)
    world.quiesce()
    assert (phase(world, "b"), num_vfs(world)) == ("Ready", 1)
    want(world, c={**WHOLE, "kernelDriver": "vfio"})
    world.quiesce()
    assert phase(world, "c") == "Blocked"
    world.stop_watching()
    settle(world)
    assert phase(world, "c") == "Ready"


@pytest.mark.parametrize("second", [M2, M1, WHOLE, {"device": f"{GPUS[FLEX]}-shared"}], ids=str)
def test_no_two_exclusive_users(world: World, second: Device) -> None:
    want(world, a=M2, b=second)
    world.quiesce()
    assert sorted((str(phase(world, "a")), str(phase(world, "b")))) in (["Blocked", "Ready"], ["Ready", "Refused"])


# -- marks -------------------------------------------------------------------------------------------------


def test_a_mark_that_comes_when_its_vfs_are_about_to_go_is_not_confirmed(node: World) -> None:
    """The plan to turn VFs off was made while nobody used them; then a Prepare comes."""
    give(node, a=M2)
    want(node, b=M1)
    node.one_pass()
    want(node, a=M2, b=M1)
    node.prepare("a")
    while not node.agent.workers.waiting:
        node.plugin_looks(visible=False)
        node.one_pass()
        node.plugin_looks(visible=False)
        if "claim-a" in node.judge.grips:
            break
    node.work_all()
    node.quiesce()
    node.plugin_looks(visible=False)
    assert ("claim-a" in node.judge.grips) == (num_vfs(node) == 2)


def test_a_mark_of_a_claim_that_waits_holds_nothing(node: World) -> None:
    use(node, "a", M2)
    want(node, a=M2, b=M1)
    node.prepare("b")
    node.quiesce()
    node.plugin_looks(visible=False)
    assert "claim-b" not in node.judge.grips
    node.unprepare("a")
    want(node, b=M1)
    node.quiesce()
    node.plugin_looks(visible=False)
    assert "claim-b" in node.judge.grips


def test_a_claim_prepared_again_is_confirmed_again(node: World) -> None:
    """With another mark in between nobody held its VFs: an old confirmation counts for nothing."""
    use(node, "a", M2)
    node.unprepare("a")
    want(node, b=M1)
    node.quiesce()
    assert num_vfs(node) == 1
    want(node, a=M2)
    node.prepare("a")
    node.plugin_looks(visible=False)
    assert "claim-a" not in node.judge.grips
    node.quiesce()
    node.plugin_looks(visible=False)
    assert ("claim-a" in node.judge.grips, num_vfs(node)) == (True, 2)


def test_a_nonce_is_echoed_only_when_the_devices_are_on_record(node: World) -> None:
    want(node, a=M2)
    node.prepare("a")
    for changes in range(40):
        node.crash_after(changes)
    node.quiesce()
    node.plugin_looks(visible=False)
    assert "claim-a" in node.judge.grips


def test_a_lost_held_record_keeps_everything(node: World) -> None:
    use(node, "a", M2)
    node.lose_held_record()
    want(node)
    node.quiesce()
    node.sleep(100)
    assert num_vfs(node) == 2


def test_marks_of_an_earlier_boot_hold_nothing(node: World) -> None:
    use(node, "a", M2)
    mark = Path(node.bench.roots.marks_dir, "a.json")
    content = mark.read_bytes()
    node.reboot()
    write_atomic(mark, content, durable=False)
    want(node)
    node.quiesce()
    file = json.loads(Path(node.bench.roots.status_file).read_bytes())
    assert not file["nonces"]
    mark.unlink()


@pytest.mark.parametrize("visible", [True, False])
def test_a_release_by_hand_looks_first(node: World, visible: bool) -> None:
    use(node, "a", M2, visible=visible)
    node.wanted.releases = ["a"]
    node.write_file()
    node.quiesce()
    node.plugin_looks(visible=False)
    node.quiesce()
    assert ("claim-a" in node.judge.grips, num_vfs(node)) == ((True, 2) if visible else (False, 0))


# -- what is known -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", [World.break_file, lambda world: world.bench.file.unlink()], ids=["broken", "gone"]
)
def test_without_a_desired_state_nothing_is_taken_away(world: World, damage: Callable[[World], None]) -> None:
    give(world, a=M2, b=FS2)
    world.break_file()
    damage(world)
    world.restart()
    for _ in range(5):
        world.one_pass("resync")
        world.work_all()
    assert (num_vfs(world), num_vfs(world, PRO)) == (2, 2)
    assert len(list(world.bench.cdi.iterdir())) == 2


def test_a_file_that_breaks_leaves_the_last_good_state_in_force(world: World) -> None:
    give(world, a=M2)
    world.break_file()
    world.quiesce()
    assert phase(world, "a") == "Ready"


def test_a_device_is_ready_only_with_its_cdi_file(world: World) -> None:
    give(world, a=M2)
    for damage in ("remove", "cut"):
        world.damage_cdi(damage, 0)
        world.one_pass()
        assert phase(world, "a") != "Ready"
        world.quiesce()
        assert phase(world, "a") == "Ready"


def test_nothing_is_ready_while_it_is_about_to_change(world: World) -> None:
    """A GPU that had VFs still has their quotas when the last is gone: it is ready when these are cleared."""
    world.wanted.linger = 30
    for device in (M1, WHOLE, M2, FS2, PASSED, FS2, {**FS2, "device": GPUS[PRO]}, M2B):
        give(world, a=device)


def test_vfs_come_in_full_number(world: World) -> None:
    give(world, a=M2)
    assert num_vfs(world) == 2


# -- what is ours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device", [M2, PASSED, {"device": GPUS[PRO], "kernelDriver": "vfio"}], ids=["vf", "vm", "gpu"]
)
def test_killed_anywhere_on_the_way_up_nothing_is_orphaned(world: World, device: Device) -> None:
    for changes in range(36):
        want(world, a=device)
        world.crash_after(changes)
        want(world)
        settle(world)
        for gpu in world.machine.spec.gpus:
            hardware.assert_plain(world.machine, gpu)


def test_killed_anywhere_on_the_way_down_nothing_is_orphaned(world: World) -> None:
    for changes in range(20):
        give(world, a=M2, b=PASSED)
        want(world)
        world.crash_after(changes)
        settle(world)
        for gpu in world.machine.spec.gpus:
            hardware.assert_plain(world.machine, gpu)


def test_what_was_made_before_a_restart_is_still_ours(world: World) -> None:
    give(world, a=M2)
    world.restart()
    want(world)
    world.quiesce()
    assert num_vfs(world) == 0


@pytest.mark.parametrize(
    "device", [None, WHOLE, {"device": f"{GPUS[PRO]}-fs2-vf0"}], ids=["none", "other", "same"]
)
def test_vfs_of_others_stay(world: World, device: Device | None) -> None:
    for gpu in (FLEX, PRO):
        world.others_set_numvfs(gpu, 2)
    want(world, **({} if device is None else {"a": device}))
    world.quiesce()
    world.sleep(100)
    assert (num_vfs(world), num_vfs(world, PRO)) == (2, 2)
    assert phase(world, "a") == (None if device is None else "Blocked")


def test_vfs_of_others_are_taken_over_only_by_name(world: World) -> None:
    world.others_set_numvfs(PRO, 2)
    world.wanted.overrides = {GPUS[PRO]: {"mode": "Fixed", "virtualFunctions": {"profile": "fs1"}}}
    want(world, a=FS2)
    world.quiesce()
    assert (phase(world, "a"), num_vfs(world, PRO)) == ("Blocked", 2)
    world.wanted.overrides = {GPUS[PRO]: {"mode": "Fixed", "virtualFunctions": {"profile": "fs2"}}}
    want(world, a=FS2)
    world.quiesce()
    assert phase(world, "a") == "Ready"


# -- people's orders ---------------------------------------------------------------------------------------


def test_a_drained_gpu_takes_nobody_new(world: World) -> None:
    use(world, "a", M2)
    world.wanted.overrides = {GPUS[FLEX]: {"mode": "Drain"}}
    want(world, a=M2)
    world.quiesce()
    world.controller_answers()
    want(world, a=M2, b=M2B)
    world.quiesce()
    assert (phase(world, "a"), phase(world, "b")) == ("Ready", "Blocked")


def test_a_claim_allocated_before_its_gpu_is_withdrawn_is_served(node: World) -> None:
    node.wanted.overrides = {GPUS[FLEX]: {"mode": "Drain"}}
    want(node, a=M2)
    node.quiesce()
    assert phase(node, "a") == "Ready"
    node.controller_answers()
    want(node, a=M2, b=M2B)
    node.quiesce()
    assert (phase(node, "a"), phase(node, "b")) == ("Ready", "Blocked")


def test_paused_means_nothing_happens(world: World) -> None:
    world.wanted.paused = True
    want(world, a=M2)
    world.quiesce()
    assert (phase(world, "a"), num_vfs(world)) == ("Pending", 0)
    world.wanted.paused = False
    give(world, a=M2)
    world.wanted.paused = True
    want(world)
    world.quiesce()
    assert num_vfs(world) == 2


@pytest.mark.parametrize("layout", [None, "m1"])
def test_an_override_waits_for_users(world: World, layout: str | None) -> None:
    use(world, "a", M2)
    fixed: Device = {"mode": "Fixed", **({"virtualFunctions": {"profile": layout}} if layout else {})}
    world.wanted.overrides = {GPUS[FLEX]: fixed}
    want(world, a=M2)
    world.quiesce()
    assert num_vfs(world) == 2
    assert key(world, "a") in world.judge.grips
    want(world)
    stop(world, "a")
    settle(world)
    assert num_vfs(world) == (1 if layout else 0)


# -- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["one VF only", "no VFs at all"])
def test_what_fails_is_undone(world: World, fault: str) -> None:
    rules = {
        **FAULTS,
        "no VFs at all": gpusim.FaultRule(on=gpusim.Operation.ENABLE, device=FLEX, error="EIO"),
    }
    world.machine.add_faults(rules[fault])
    want(world, a=M2, b={"device": GPUS[PRO]})
    world.quiesce()
    assert (phase(world, "a"), phase(world, "b")) == ("Failed", "Ready")
    hardware.assert_plain(world.machine, world.machine.spec.gpus[0])
    settle(world)
    assert phase(world, "a") == "Ready"


def test_a_failure_is_tried_again_without_anybody_asking(world: World) -> None:
    world.machine.add_faults(FAULTS["no VFs once"])
    want(world, a=M2)
    world.quiesce()
    assert phase(world, "a") == "Failed"
    world.sleep(100)
    assert phase(world, "a") == "Ready"


# -- an allocation that is edited while it is used ---------------------------------------------------------


@pytest.mark.parametrize(
    "left", [{"device": GPUS[PRO]}, {"device": f"{GPUS[PRO]}-shared"}], ids=["whole", "shared"]
)
@pytest.mark.parametrize("taken", ["as VFs", "as a whole by another", "to look at"])
def test_an_edited_allocation_still_has_what_its_user_has_open(machine: World, left: Device, taken: str) -> None:
    """Found by test_any_order: the record of what was given was overwritten when the allocation changed."""
    use(machine, "a", left)
    match taken:
        case "as VFs":
            want(machine, a={"device": f"{GPUS[PRO]}-fs1-vf0"})
        case "to look at":
            want(machine, a={"device": f"{GPUS[PRO]}-monitor", "adminAccess": True}, b=FS2)
        case _:
            want(machine, a=M1, b={"device": GPUS[PRO]})
    machine.quiesce()
    machine.sleep(100)
    assert (phase(machine, "a"), num_vfs(machine, PRO)) == ("Blocked", 0)
    assert "is open in process" in message(machine, "a")
    machine.stop_using("alloc-a")
    settle(machine)
    assert phase(machine, "a") == "Ready"


def test_a_gpu_being_unbound_is_not_ready_for_monitors(world: World) -> None:
    """Found by test_any_order: while the worker was at it, a later pass said Ready again."""
    monitor: Device = {"device": f"{GPUS[FLEX]}-monitor", "adminAccess": True}
    give(world, a=monitor)
    want(world, a=monitor, b={**WHOLE, "kernelDriver": "vfio"})
    for _ in range(8):
        world.one_pass()
    world.work_all()
    settle(world)
