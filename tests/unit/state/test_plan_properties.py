"""What holds of every plan, whatever is wanted and whatever is seen."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, event, given, settings

from state.actions import Action, BindDriver, RemoveCdiSpec, SetNumVfs, SetVfProfile, WriteCdiSpec
from state.desired import resolve
from state.foresight import after
from state.ids import Slot, parse_logical_device
from state.manifest import KernelDriver, OverrideMode, Spec
from state.observed import DRM_DRIVERS, Observed, PfSeen, SriovSeen, Unreadable
from state.outcomes import Phase
from state.planning import NOT_SYNCED, Memory, Plan, plan
from state.records import Held, Ownership
from state.usage import slot_of
from tests.golden.machine import BOOT, NOW, Machine
from tests.unit.state.situations import files, machines, specs, tables, with_files

MOST_WAVES = 15
thorough = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def planned(spec: Spec, machine: Machine, observed: Observed, memory: Memory) -> tuple[Plan, Observed]:
    """The plan as the agent makes it, and what it saw once it had looked for users."""
    table, options = tables().profiles, machine.options()
    applied = observed.ownership.applied if isinstance(observed.ownership, Ownership) else {}
    desired = resolve(spec, observed.gpus, table, applied)
    todo = plan(desired, observed, memory, table, options, NOW)
    while todo.look:
        assert todo.look.isdisjoint(observed.users), "asks again for what it was told"
        users = {**observed.users, **machine.users(observed, todo.look)}
        observed = replace(observed, users=users)
        todo = plan(desired, observed, memory, table, options, NOW)
    backwards = replace(observed, gpus=dict(sorted(observed.gpus.items(), reverse=True)))
    assert plan(desired, backwards, memory, table, options, NOW) == todo
    return todo, observed


def changed_slots(actions: tuple[Action, ...], observed: Observed) -> set[Slot]:
    """The functions that actions take from whoever has them."""
    slots: set[Slot] = set()
    for action in actions:
        if isinstance(action, SetNumVfs) and action.count == 0:
            gpu = observed.gpus[action.pf]
            assert isinstance(gpu, PfSeen)
            assert isinstance(gpu.sriov, SriovSeen)
            slots |= {Slot(pf=action.pf, vf=vf.index) for vf in gpu.sriov.vfs}
        elif isinstance(action, SetNumVfs | SetVfProfile):
            slots.add(Slot(pf=action.pf))
        elif isinstance(action, BindDriver):
            slots.add(action.slot)
    return slots


def _has_driver(slot: Slot, observed: Observed) -> bool:
    """Whether a function is in some driver's hands, and so may be in use."""
    gpu = observed.gpus[slot.pf]
    assert isinstance(gpu, PfSeen)
    if slot.is_vf:
        return isinstance(gpu.sriov, SriovSeen) and gpu.sriov.vfs[slot.vf].function.driver is not None
    return gpu.function.driver is not None


def confirmed_slots(observed: Observed, spec: Spec) -> set[Slot]:
    """The functions that marked claims hold and that are there as they were confirmed."""
    if not isinstance(observed.held, Held) or isinstance(observed.marks, Unreadable):
        return set()
    layouts = observed.ownership.layouts if isinstance(observed.ownership, Ownership) else {}
    slots = set()
    for uid, claim in observed.held.claims.items():
        mark = observed.marks.get(uid)
        if mark is None or mark.nonce != claim.nonce or uid in spec.releases:
            continue
        for device in claim.devices:
            slot = slot_of(parse_logical_device(device.device))
            seen = observed.gpus.get(slot.pf)
            if not isinstance(seen, PfSeen) or device.admin_access:
                continue
            function = seen.function
            if slot.is_vf:
                if not isinstance(seen.sriov, SriovSeen) or seen.sriov.enabled <= slot.vf:
                    continue
                layout = layouts.get(slot.pf)
                if layout is None or (layout.profile, layout.count) != (device.profile, seen.sriov.enabled):
                    continue
                function = seen.sriov.vfs[slot.vf].function
            is_drm = device.kernel_driver == KernelDriver.DRM.value
            if (function.driver in DRM_DRIVERS) if is_drm else (function.driver == "vfio-pci"):
                slots.add(slot)
    return slots


@given(specs(), machines(), files)
@thorough
def test_nothing_is_done_that_must_not_be(spec: Spec, machine: Machine, keys: list[str]) -> None:
    todo, observed = planned(spec, machine, with_files(machine.observed(), keys), machine.memory())
    event("acts" if todo.actions else "rests")
    ignored = {override.device for override in spec.overrides if override.mode is OverrideMode.IGNORE}
    for action in todo.actions:
        if isinstance(action, RemoveCdiSpec | WriteCdiSpec):
            continue
        gpu = observed.gpus[action.pf]
        assert isinstance(gpu, PfSeen), "a worker is at it"
        assert not isinstance(gpu.sriov, Unreadable)
        assert not isinstance(gpu.function.driver, Unreadable)
        assert action.pf not in ignored
    slots = changed_slots(todo.actions, observed)
    assert not (isinstance(observed.marks, Unreadable) and any(_has_driver(slot, observed) for slot in slots))
    assert not slots & confirmed_slots(observed, spec)
    for slot in slots:
        taken_from = [action for action in todo.actions if isinstance(action, BindDriver) and action.slot == slot]
        if slot.is_vf or taken_from:
            assert not observed.users.get(slot.pf) or not observed.users[slot.pf].by_slot.get(slot)
    if spec.paused or isinstance(observed.ownership, Unreadable):
        assert todo.actions == ()
        assert todo.ownership is None


@given(specs(), machines(), files)
@thorough
def test_intent_is_on_record_before_the_first_write(spec: Spec, machine: Machine, keys: list[str]) -> None:
    todo, observed = planned(spec, machine, with_files(machine.observed(), keys), machine.memory())
    ownership = observed.ownership if todo.ownership is None else todo.ownership
    for action in todo.actions:
        if isinstance(action, SetVfProfile | SetNumVfs):
            assert isinstance(ownership, Ownership)
            layout = ownership.layouts[action.pf]
            assert (layout.profile, layout.boot_id) == (action.profile, BOOT)
    if isinstance(observed.ownership, Ownership):
        for outcome in todo.outcomes:
            if outcome.phase is Phase.READY:
                assert isinstance(ownership, Ownership)
                assert outcome.key in ownership.applied
    recorded = observed.held if todo.held is None else todo.held
    on_record = recorded.claims if isinstance(recorded, Held) else {}
    for uid, nonce in todo.nonces.items():
        assert on_record[uid].nonce == nonce


@given(specs(), machines(), files)
@thorough
def test_every_machine_comes_to_rest(spec: Spec, machine: Machine, keys: list[str]) -> None:
    observed, memory = with_files(machine.observed(), keys), machine.memory()
    todo, observed = planned(spec, machine, observed, memory)
    waves = 0
    while todo.actions or todo.ownership is not None or todo.held is not None:
        assert waves < MOST_WAVES, f"comes to no end: {[str(action) for action in todo.actions]}"
        waves += 1
        for outcome in todo.outcomes:
            if outcome.phase is Phase.READY and outcome.devices:
                assert outcome.cdi_devices
                assert not any(
                    isinstance(action, WriteCdiSpec | RemoveCdiSpec) and outcome.key in action.file
                    for action in todo.actions
                )
        observed = after(observed, todo)
        memory = replace(memory, idle_since=todo.idle_since, released=todo.released)
        todo, observed = planned(spec, machine, observed, memory)
    event(f"rests after {waves} waves")


@given(machines(), files)
@thorough
def test_nothing_is_done_before_the_desired_state_is_read(machine: Machine, keys: list[str]) -> None:
    observed = with_files(machine.observed(), keys)
    todo = plan(NOT_SYNCED, observed, machine.memory(), tables().profiles, machine.options(), NOW)
    assert (todo.actions, todo.ownership, todo.held, todo.look) == ((), None, None, frozenset())
