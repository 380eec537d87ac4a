"""Whatever the policy gives of a machine, the node's own planner makes ready: the two judge alike."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from state.classic.placing import Placement, place
from state.classic.room import NodeRoomSource, room_of
from state.classic.spots import Policy
from state.classic.wishes import Wish
from state.desired import resolve
from state.dra.node_object import Entry
from state.foresight import foresee
from state.manifest import API_VERSION, KIND
from state.manifest_decoding import decode
from state.observed import Observed
from state.outcomes import Phase
from state.planning import NOT_SYNCED, Memory, Options, Plan, plan
from state.records import Ownership
from state.status import DeviceStatus
from state.summary import describe_device
from tests.unit.state.classic.nodes import GIB, NODE, entry, wish
from tests.unit.state.on_paper import NOW, TABLES, observe

_EVERYTHING = [
    wish("monitor", monitor=True),
    wish("vf", "vf", memory=GIB),
    wish("vfs", "vf", count=3),
    wish("whole"),
    wish("big", memory=15 * GIB),
    wish("share", shared=True, memory=GIB, millicores=300),
    wish("other-share", shared=True),
    wish("any", "any"),
]


def inventory(observed: Observed) -> tuple[DeviceStatus, ...]:
    return tuple(
        describe_device(seen, observed, NOT_SYNCED, TABLES.profiles, ()) for seen in observed.gpus.values()
    )


def given_out(gpus: tuple[DeviceStatus, ...], wishes: Iterable[Wish]) -> list[Entry]:
    """Entries of those that find room, one after the other."""
    entries: list[Entry] = []
    for asking in wishes:
        room = room_of(NodeRoomSource(name=NODE, devices=gpus, entries=entries), TABLES.profiles)
        outcome = place(room, [asking], Policy())
        if isinstance(outcome, Placement):
            entries.append(entry(asking.uid, *outcome.devices[asking.uid]))
    return entries


@pytest.mark.parametrize(
    ("machine", "given"),
    [
        ("mixed", "any big monitor other-share share vf vfs whole"),
        ("flex170-ecc", "any monitor vf vfs"),
        ("max1550", "any monitor vf vfs"),
        ("b60", "any monitor vfs"),  # its PCI address range tells the least memory only: not how much a VF has
        ("igpu", "monitor whole"),
        ("unbound", "any vfs"),
        ("foreign-vfs", "monitor"),
        ("passthrough", "any monitor vfs"),
        ("survivability", "any monitor vfs"),
    ],
)
def test_all_that_is_given_becomes_ready(machine: str, given: str, tmp_path: Path) -> None:
    observed = observe(machine, tmp_path)
    entries = given_out(inventory(observed), _EVERYTHING)
    spec = {"allocations": msgspec.to_builtins(entries)}
    state = decode({"apiVersion": API_VERSION, "kind": KIND, "spec": spec}, cluster=True)

    def next_wave(seen: Observed) -> Plan:
        assert isinstance(seen.ownership, Ownership)
        desired = resolve(state.spec, seen.gpus, TABLES.profiles, seen.ownership.applied)
        return plan(desired, seen, Memory(), TABLES.profiles, Options(linger=timedelta(0)), NOW)

    foreseen = foresee(observed, next_wave)
    phases = {outcome.name: (outcome.phase, outcome.message) for outcome in foreseen.last.outcomes}
    assert phases == {one.name: (Phase.READY, "") for one in entries}
    assert " ".join(sorted(phases)) == given
