"""What must be true of a machine that has come to rest, and after everybody has left it."""

import json
from collections.abc import Mapping
from pathlib import Path

from state.status import AllocationStatus, NodeStatus
from tests.cdi_rules import broken_rules
from tests.engine import hardware
from tests.engine.hardware import assert_pristine
from tests.model.judge import Part, Wrong
from tests.model.world import LONGEST_WAIT, World

MOST_ANSWERS = 6
"""So often the controller may have to answer before a machine is at rest."""
RESTING = frozenset(("Ready", "Blocked", "Refused", "Releasing"))


def settle(world: World) -> NodeStatus:
    """Nothing goes wrong any more and the file is good: the engine has to find peace, and to be right then."""
    world.machine.clear_faults()
    if not world.file_is_good:
        world.write_file()
    status = _at_rest(world)
    for _ in range(MOST_ANSWERS):
        if not world.controller_answers():
            break
        status = _at_rest(world)
    else:
        raise Wrong(f"no end of withdrawals: {status.withdrawn}")
    again = world.one_pass("resync")
    if again is None or again.plan.actions:
        raise Wrong(f"not at peace: {again}")
    if not world.in_force.paused:
        _check_cdi(world)
    _check_phases(world, status)
    return status


def _at_rest(world: World) -> NodeStatus:
    world.quiesce()
    world.sleep(LONGEST_WAIT)
    return world.quiesce().status


def _check_cdi(world: World) -> None:
    excused = {file.name for file in world.judge.foreign_files}
    # What a claim in use was given stays as others left it while its devices aren't there to write it anew.
    in_use = world.judge.grips.keys() | {f"claim-{uid}" for uid in world.marks}
    excused |= {f"intel.com-gpu_{key}.json" for key in in_use - world.judge.ready.keys()}
    broken = [rule for rule in broken_rules(world.bench.cdi) if not any(name in rule for name in excused)]
    if broken:
        raise Wrong(f"CDI files are not as they should be: {broken}")


def _check_phases(world: World, status: NodeStatus) -> None:
    phases = {f"{one.origin}-{one.name}": one for one in status.allocations}
    for key, one in phases.items():
        if not world.in_force.paused and one.phase not in RESTING:
            raise Wrong(f"{key} stays {one.phase}: {one.message}")
        if one.phase in ("Blocked", "Refused") and not one.message:
            raise Wrong(f"{key} is {one.phase}, and nobody says why")
    for name in world.wanted.entries:
        key = f"{'claim' if world.cluster else 'alloc'}-{name}"
        if key not in phases and name not in world.wanted.releases:
            raise Wrong(f"nothing is said about {key}")
        refused = {one.name: one for one in status.allocations if one.phase == "Refused"}
        if is_uncontested(world, name, refused) and phases[key].phase != "Ready":
            raise Wrong(f"nothing is in the way of {key}, but it is {phases[key].phase}: {phases[key].message}")


def is_uncontested(world: World, name: str, refused: Mapping[str, AllocationStatus]) -> bool:
    """Whether nothing and nobody is in the way of an entry: then it has to be served.

    Entries that are ``refused`` keep what they had before, whatever they ask for now.
    """
    if world.in_force.paused or name in world.wanted.releases:
        return False
    mine = world.parts_of(name)
    gpus = {part.gpu for part in mine}
    overridden = {Part.of(device).gpu for device in world.wanted.overrides}
    watched = set(world.watchers.values())
    if gpus & (overridden | set(world.judge.foreign) | watched):
        return False
    # Nobody can tell a monitor from the user of what was given out before, or was about to be.
    recorded = {Part.of(device.device).gpu for device in world.ownership().applied.get(f"alloc-{name}", ())}
    if not world.cluster and watched & (recorded | world.judge.given.get(f"alloc-{name}", set())):
        return False
    if not world.cluster and gpus & _looked_at(world) & set().union(*world.judge.given.values()):
        return False
    if not all(world.is_plugged(gpu) and hardware.driver(world.machine, gpu) is not None for gpu in gpus):
        return False
    if world.marks and not Path(world.bench.roots.held_file).exists():
        return False  # what those marks hold was lost: nothing is taken from anybody until they are gone
    if world.may_hold.get(name, {mine}) != {mine}:
        return False
    rivals = [world.parts_of(other) for other in world.wanted.entries if other != name]
    rivals += [parts for uid, held in world.may_hold.items() if uid != name for parts in held]
    rivals += [grip.parts for key, grip in world.judge.grips.items() if key.partition("-")[2] != name]
    rivals += [_kept(one) for other, one in refused.items() if other != name]
    own = [grip.parts for key, grip in world.judge.grips.items() if key.partition("-")[2] == name]
    if any(parts != mine for parts in own):
        return False
    return not any(_clash(part, other) for part in mine for parts in rivals for other in parts)


def _kept(refused: AllocationStatus) -> tuple[Part, ...]:
    devices = refused.devices
    return tuple(Part.of(device.device, device.kernel_driver, admin=device.admin_access) for device in devices)


def _looked_at(world: World) -> set[str]:
    """GPUs that an allocation's user looks on."""
    grips = world.judge.grips.values()
    return {part.gpu for grip in grips for part in grip.parts if part.use == "monitor"}


def _clash(mine: Part, other: Part) -> bool:
    """Whether one of the two has to wait; who looks on needs the driver that passing a GPU through takes away."""
    if not mine.goes_with(other):
        return True
    passed = any(not part.count and part.driver != "drm" for part in (mine, other))
    return mine.gpu == other.gpu and passed


def everybody_leaves(world: World) -> None:
    """Nobody wants or uses anything any more, others have cleaned up after themselves: nothing may be left."""
    world.machine.clear_faults()  # or the others' own cleaning up might fail
    for key in list(world.judge.grips):
        world.stop_using(key)
    for uid in list(world.marks):
        world.unprepare(uid)
    for key in list(world.pids):
        world.stop_using(key)
    world.stop_watching()
    for gpu in [gpu.address for gpu in world.machine.spec.gpus]:
        if not world.is_plugged(gpu):
            world.unplug_or_plug(gpu)
        if gpu in world.judge.foreign:
            world.others_set_numvfs(gpu, 0)
    for file in world.judge.foreign_files:
        file.unlink()
    world.judge.foreign_files = {}
    world.wanted = type(world.wanted)()
    world.write_file()
    status = settle(world)
    if status.allocations or status.plan.blocked:
        raise Wrong(f"everybody has left, but: {status.allocations} {status.plan.blocked}")
    assert_pristine(world.bench)
    held = Path(world.bench.roots.held_file)
    if held.exists() and json.loads(held.read_bytes())["claims"]:
        raise Wrong(f"everybody has left, but: {held.read_text()}")
