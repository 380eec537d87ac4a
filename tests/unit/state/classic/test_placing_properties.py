"""Whatever nodes and claims there are: what is placed can be had, and what can be had is placed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from state.classic.placing import Placement, Unsuitable, place
from state.classic.room import NodeRoom, NodeRoomSource, occupied, room_of
from state.classic.spots import Policy, PolicyResource, PreferredAllocation
from state.classic.wishes import Wish
from state.dra.node_object import Entry, EntryDevice
from state.ids import Use, parse_logical_device
from state.manifest import Policy as NodePolicy
from state.profiles import Profile
from state.slices.gpus import device_id, vf_memory
from state.status import DeviceStatus
from tests.unit.state.classic.nodes import ARC, FLEX, GIB, MAX, NODE, entry, gpu, held, name, table, wish

_MODES = ("m2", "m8", "c2", "c8")
_FEW_MODES = NodePolicy(profiles=_MODES)

models = st.sampled_from([FLEX, MAX, ARC])
policies = st.builds(
    Policy, preferred=st.sampled_from(PreferredAllocation), resource=st.sampled_from(PolicyResource)
)


@st.composite
def machines(draw: st.DrawFn) -> tuple[DeviceStatus, ...]:
    gpus = []
    for number, model in enumerate(draw(st.lists(models, min_size=1, max_size=3)), 1):
        profiles = [each for each in table().of(int(model, 16)) if each.mode in _MODES]
        standing = draw(st.sampled_from([None, *profiles]))
        leftovers: dict[str, Any] = (
            {} if standing is None else {"layout": standing.name, "enabled": standing.count}
        )
        health = draw(st.sampled_from(["Healthy"] * 5 + ["Unhealthy"]))
        gpus.append(gpu(number, model, ecc=draw(st.sampled_from(["on", "off", ""])), health=health, **leftovers))
    return tuple(gpus)


def amounts(kind: str, shared: bool) -> st.SearchStrategy[dict[str, Any]]:
    millicores = st.sampled_from([None, 100, 400, 600])
    counted = (kind == "vf" and not shared) or (kind == "gpu" and shared)
    return st.fixed_dictionaries(
        {
            "memory": st.sampled_from([None, GIB, 5 * GIB, 15 * GIB, 40 * GIB]),
            "millicores": millicores if counted else st.none(),
        }
    )


@st.composite
def claims(draw: st.DrawFn, uid: str, most: int = 5) -> Wish:
    kind = draw(st.sampled_from(["gpu", "gpu", "vf", "vf", "any"]))
    shared = draw(st.booleans())
    monitor = kind == "gpu" and draw(st.sampled_from([True, *[False] * 7]))
    asked = draw(amounts(kind, shared))
    return wish(uid, kind, shared=shared, monitor=monitor, count=draw(st.integers(1, most)), **asked)


def sets(most: int, prefix: str = "c") -> st.SearchStrategy[list[Wish]]:
    return st.integers(1, most).flatmap(
        lambda size: st.tuples(*(claims(f"{prefix}{number}") for number in range(size))).map(list)
    )


def room(gpus: Sequence[DeviceStatus], entries: Sequence[Entry] = ()) -> NodeRoom:
    allocations = (held("gone", f"{name(1)}-m2-vf0"),)
    source = NodeRoomSource(name=NODE, devices=gpus, entries=entries, policy=_FEW_MODES, allocations=allocations)
    return room_of(source, table())


def profile_of(seen: DeviceStatus, device: EntryDevice) -> Profile:
    assert device.virtual_function is not None
    found = table().find(device_id(seen), device.virtual_function.profile, total_vfs=63)
    assert found is not None
    return found


def check_together(gpus: Sequence[DeviceStatus], devices: Iterable[EntryDevice]) -> None:
    """All that is given of each GPU can be had at the same time, by the rules alone."""
    by_gpu: dict[str, list[EntryDevice]] = {}
    for device in devices:
        if not device.admin_access:
            by_gpu.setdefault(device.physical_function, []).append(device)
    for seen in gpus:
        given_of_it = by_gpu.pop(seen.name, [])
        uses = {parse_logical_device(device.device).use for device in given_of_it}
        assert len(uses) <= 1
        if not uses:
            continue
        assert seen.health == "Healthy"
        memory = 0 if seen.memory is None else seen.memory.bytes
        assert sum(device.memory or 0 for device in given_of_it) <= memory
        if uses == {Use.WHOLE}:
            assert len(given_of_it) == 1
        elif uses == {Use.SHARED}:
            assert sum(device.millicores or 0 for device in given_of_it) <= 1000
        else:
            (profile,) = {profile_of(seen, device) for device in given_of_it}
            indexes = [device.virtual_function.index for device in given_of_it if device.virtual_function]
            assert sorted(set(indexes)) == sorted(indexes)
            assert 0 <= min(indexes) <= max(indexes) < profile.count
    assert not by_gpu


def check_granted(gpus: Sequence[DeviceStatus], asking: Wish, devices: Sequence[EntryDevice]) -> None:
    """The claim has what it asked for."""
    if asking.of_class.monitor:
        assert [device.device for device in devices] == [f"{seen.name}-monitor" for seen in gpus]
        assert all(device.admin_access for device in devices)
        return
    assert len(devices) == asking.claim.count
    assert len({device.device for device in devices}) == len(devices)
    by_name = {seen.name: seen for seen in gpus}
    for device in devices:
        logical = parse_logical_device(device.device)
        assert logical.use in asking.uses
        assert device.pool == NODE
        if logical.use is Use.VF:
            profile = profile_of(by_name[device.physical_function], device)
            assert (logical.mode, profile.mode in _MODES) == (profile.mode, True)
            assert device.memory == vf_memory(by_name[device.physical_function], profile)
            assert (device.memory or 0) >= (asking.claim.memory or 0)
            assert device.millicores == profile.millicores >= (asking.claim.millicores or 0)


@settings(max_examples=150)
@given(machines(), sets(4, "old"), sets(4), policies, st.randoms(use_true_random=False))
def test_what_is_placed_can_be_had_beside_what_was_before(
    gpus: tuple[DeviceStatus, ...], before: list[Wish], wishes: list[Wish], policy: Policy, chance: Any
) -> None:
    there: list[Entry] = []
    for asking in before:
        outcome = place(room(gpus, there), [asking], policy)
        if isinstance(outcome, Placement):
            there.append(entry(asking.uid, *outcome.devices[asking.uid]))
    where = room(gpus, there)
    outcome = place(where, wishes, policy)
    shuffled = chance.sample(wishes, len(wishes))
    assert place(where, shuffled, policy) == outcome
    if isinstance(outcome, Unsuitable):
        assert outcome.reasons.keys() == {asking.uid for asking in wishes}
        assert all(outcome.reasons.values())
        return
    assert outcome.devices.keys() == {asking.uid for asking in wishes}
    for asking in wishes:
        check_granted(gpus, asking, outcome.devices[asking.uid])
    entries = [*there, *(entry(uid, *devices) for uid, devices in outcome.devices.items())]
    check_together(gpus, (device for one in entries for device in one.devices))
    filled = occupied(where, entries[len(there) :])
    assert filled == replace(room(gpus, entries), decided=filled.decided)
    assert place(filled, wishes, policy) == outcome


@dataclass(frozen=True, slots=True)
class Kept:
    """One GPU in the search through everything: how it is used, by how much."""

    use: str = ""
    users: int = 0
    memory: int = 0
    millicores: int = 0


def can_be_had(gpus: Sequence[DeviceStatus], wishes: Sequence[Wish], kept: dict[str, Kept]) -> bool:
    """Whether one device for each wish can be had, by trying everything."""
    if not wishes:
        return True
    first, *others = wishes
    return any(
        can_be_had(gpus, others, {**kept, seen.name: after})
        for seen in gpus
        if seen.health == "Healthy"
        for after in _afterwards(seen, kept[seen.name], first)
    )


def _afterwards(seen: DeviceStatus, before: Kept, asking: Wish) -> Iterable[Kept]:
    memory, millicores = asking.claim.memory or 0, asking.claim.millicores or 0
    total = 0 if seen.memory is None else seen.memory.bytes
    if Use.WHOLE in asking.uses and not before.use and memory <= total:
        yield Kept("whole", 1)
    if Use.SHARED in asking.uses and before.use in ("", "shared"):
        after = Kept("shared", 1, before.memory + memory, before.millicores + (millicores or 1))
        if after.memory <= total and after.millicores <= 1000:
            yield after
    for profile in table().of(device_id(seen)) if Use.VF in asking.uses else ():
        fits = (vf_memory(seen, profile) or 0) >= memory and profile.millicores >= millicores
        if fits and profile.mode in _MODES and before.use in ("", profile.name) and before.users < profile.count:
            yield Kept(profile.name, before.users + 1)


@settings(max_examples=150)
@given(
    machines(), st.integers(1, 4).flatmap(lambda n: st.tuples(*(claims(f"c{i}", 1) for i in range(n)))), policies
)
def test_a_set_of_single_devices_is_placed_if_it_can_be_had_at_all(
    gpus: tuple[DeviceStatus, ...], wishes: tuple[Wish, ...], policy: Policy
) -> None:
    outcome = place(room(gpus), wishes, policy)
    seeking = [asking for asking in wishes if not asking.of_class.monitor]
    possible = can_be_had(gpus, seeking, {seen.name: Kept() for seen in gpus})
    assert isinstance(outcome, Placement) == possible
