"""What of a GPU is open to claims: people's word, the policy, health, and what is there already."""

from typing import Any

import pytest

from state.classic.room import occupied
from state.dra.node_object import EntryDevice, NodeAllocation, SeenFunction
from state.manifest import Override, OverrideDriver, OverrideMode, Policy, VirtualFunctions
from state.records import AppliedDevice
from state.status import DeviceStatus, SicknessStatus, SriovStatus
from tests.unit.state.classic.nodes import GIB, NODE, entry, gpu, held, name, placed, refused, room, taken, wish

SPLIT_BY_OTHERS = SriovStatus(total=31, enabled=4, layout="flex170_m4", owner="foreign", quotas=True)


def override(mode: OverrideMode, profile: str = "", **more: Any) -> Override:
    layout = VirtualFunctions(profile=profile) if profile else None
    return Override(device=name(1), mode=mode, virtual_functions=layout, **more)


@pytest.mark.parametrize(
    ("seen", "source", "why"),
    [
        ({"health": "Unhealthy"}, {}, "is not healthy"),
        (
            {"health": "Unhealthy", "sickness": (SicknessStatus(cause="Wedged", message="it hangs"),)},
            {},
            "is not healthy (it hangs)",
        ),
        ({"sriov": SPLIT_BY_OTHERS}, {}, "has 4 VFs that somebody else made"),
        ({"driver": "vfio-pci"}, {}, "is bound to vfio-pci, and not by us"),
        ({}, {"manual": (f"{name(1)}-m4-vf3",)}, "is given to a manual allocation"),
        ({}, {"withdrawn": {name(1): "token"}}, "is being withdrawn: people had other plans with it"),
        ({}, {"overrides": (override(OverrideMode.DRAIN),)}, "is drained by an override"),
        (
            {},
            {"overrides": (override(OverrideMode.IGNORE, reason="mine"),)},
            "is left alone by an override (mine)",
        ),
        (
            {},
            {"overrides": (override(OverrideMode.MANAGED, kernel_driver=OverrideDriver.VFIO),)},
            "is kept at kernel driver vfio by an override",
        ),
        (
            {},
            {"overrides": (override(OverrideMode.MANAGED, kernel_driver=OverrideDriver.XE),)},
            "is yet to be bound to xe for an override",
        ),
    ],
)
def test_closed_to_all_claims(seen: dict[str, Any], source: dict[str, Any], why: str) -> None:
    where = room(gpu(1, **seen), **source)
    for asking in (wish(), wish(shared=True), wish(kind="vf"), wish(kind="any")):
        assert refused(where, asking) == {"a": f"{name(1)}: {why}"}
    assert placed(room(gpu(1, **seen), gpu(2), **source), wish()) == {"a": ["02"]}


def test_a_paused_node_has_nothing_for_anybody() -> None:
    where = room(gpu(1), paused=True)
    assert refused(where, wish()) == {"a": f"{name(1)}: is on a node that is paused"}
    assert refused(where, wish(monitor=True)) == {"a": "no GPU of this node can be looked at"}


@pytest.mark.parametrize(
    ("seen", "source"),
    [
        ({"health": "Unknown"}, {}),
        ({"driver": ""}, {}),
        ({"driver": "vfio-pci", "original_driver": "i915"}, {}),
        ({"changing": "VFs are made"}, {}),
        ({}, {"manual": (f"{name(1)}-monitor", "nonsense")}),
        ({}, {"overrides": (override(OverrideMode.MANAGED),)}),
        ({}, {"overrides": (override(OverrideMode.MANAGED, kernel_driver=OverrideDriver.DRM),)}),
    ],
)
def test_open_to_all_claims(seen: dict[str, Any], source: dict[str, Any]) -> None:
    where = room(gpu(1, **seen), **source)
    assert placed(where, wish()) == {"a": ["01"]}
    assert placed(where, wish(kind="vf")) == {"a": ["01-m16-vf0"]}


def test_a_layout_fixed_by_people_is_all_there_is_also_where_somebody_else_made_it() -> None:
    fixed = (override(OverrideMode.FIXED, "m4"),)
    for seen in (gpu(1), gpu(1, sriov=SPLIT_BY_OTHERS)):
        where = room(seen, overrides=fixed, withdrawn={name(1): "token"})
        assert placed(where, wish(kind="vf")) == {"a": ["01-m4-vf0"]}
        assert refused(where, wish()) == {"a": f"{name(1)}: is kept split into m4 by an override"}
        assert "4000 MiB" in refused(where, wish(kind="vf", memory=5 * GIB))["a"]
    other = room(gpu(1, sriov=SPLIT_BY_OTHERS), overrides=(override(OverrideMode.FIXED, "m8"),))
    assert refused(other, wish(kind="vf")) == {"a": f"{name(1)}: has 4 VFs that somebody else made"}
    unknown = room(gpu(1), overrides=(override(OverrideMode.FIXED, "m7"),))
    assert refused(unknown, wish(kind="vf")) == {
        "a": f"{name(1)}: can't be split into m7, as an override wants it"
    }


def test_fixed_without_vfs_is_for_whole_and_shared_use() -> None:
    where = room(gpu(1), overrides=(override(OverrideMode.FIXED),), policy=Policy(shared_memory=False))
    assert placed(where, wish()) == {"a": ["01"]}
    assert placed(where, wish(shared=True)) == {"a": ["01-shared"]}
    assert refused(where, wish(kind="vf")) == {"a": f"{name(1)}: is kept without VFs by an override"}


def test_the_policy_says_which_modes_there_are() -> None:
    where = room(gpu(1), policy=Policy(profiles=("m2", "fs3"), shared_memory=False))
    assert placed(where, wish(kind="vf")) == {"a": ["01-fs3-vf0"]}
    assert placed(where, wish(kind="vf", memory=6 * GIB)) == {"a": ["01-m2-vf0"]}
    assert refused(where, wish(shared=True)) == {"a": f"{name(1)}: is not to be shared, says the policy"}
    none = room(gpu(1), policy=Policy(profiles=()))
    assert refused(none, wish(kind="vf")) == {"a": f"{name(1)}: is not to be split, says the policy"}


def test_a_layout_that_the_policy_has_no_more_serves_only_those_who_have_it() -> None:
    there = taken(room(gpu(1)), wish("old", "vf", memory=3 * GIB))
    where = room(gpu(1), entries=there, policy=Policy(profiles=("m2",)))
    assert refused(where, wish(kind="vf")) == {
        "a": f"{name(1)}: is split into flex170_m5, of which no more VFs are given"
    }


def test_gpus_that_failed_to_make_vfs_are_whole_ones_only() -> None:
    where = room(gpu(1), failed=frozenset({name(1)}))
    assert refused(where, wish(kind="vf")) == {"a": f"{name(1)}: failed to make VFs"}
    assert placed(where, wish()) == {"a": ["01"]}


def test_what_somebody_is_about_to_leave_is_taken_last() -> None:
    at_first = taken(room(gpu(1)), wish("x", "vf", memory=3 * GIB))
    where = room(
        gpu(1), entries=at_first, allocations=(held("x", f"{name(1)}-m5-vf0"), held("gone", f"{name(1)}-m5-vf1"))
    )
    assert placed(where, wish(kind="vf")) == {"a": ["01-m5-vf2"]}
    assert placed(where, wish(kind="vf", count=4)) == {"a": [f"01-m5-vf{index}" for index in (1, 2, 3, 4)]}


def test_a_vf_that_somebody_is_about_to_leave_is_taken_after_those_of_other_gpus() -> None:
    there = taken(room(gpu(1)), wish("x", "vf", count=4, memory=3 * GIB))
    last = held("gone", f"{name(1)}-m5-vf4")
    assert placed(room(gpu(1), gpu(2), entries=there, allocations=(last,)), wish(kind="vf")) == {
        "a": ["02-m16-vf0"]
    }
    assert placed(room(gpu(1), entries=there, allocations=(last,)), wish(kind="vf")) == {"a": ["01-m5-vf4"]}


def test_whoever_only_looks_on_leaves_nothing_behind() -> None:
    watched = AppliedDevice(device=name(1), admin_access=True)
    allocations = (
        held("monitor", f"{name(1)}-monitor"),
        NodeAllocation(name="admin", origin="claim", devices=(watched,)),
    )
    assert placed(room(gpu(1), gpu(2), allocations=allocations), wish()) == {"a": ["01"]}


@pytest.mark.parametrize("left", [name(1), f"{name(1)}-m4-vf0", f"{name(1)}-shared"])
@pytest.mark.parametrize("origin", ["claim", "alloc"])
def test_a_gpu_that_somebody_is_about_to_leave_is_taken_last(left: str, origin: str) -> None:
    allocations = (held("gone", left, origin=origin),)
    where = room(gpu(1), gpu(2), allocations=allocations)
    for asking in (wish(), wish(kind="vf", memory=3 * GIB)):
        (device,) = placed(where, asking)["a"]
        assert device.startswith("02")
        (device,) = placed(room(gpu(1), allocations=allocations), asking)["a"]
        assert device.startswith("01")


def test_shares_go_beside_shares_that_somebody_is_about_to_leave() -> None:
    where = room(gpu(1), gpu(2), allocations=(held("gone", f"{name(1)}-shared"),))
    assert placed(where, wish(shared=True)) == {"a": ["01-shared"]}


def test_shares_under_the_name_of_a_gpu_are_shares() -> None:
    share = EntryDevice(
        request="gpu", pool=NODE, device=name(1), physical_function=name(1), share_id="s", memory=6 * GIB
    )
    where = room(gpu(1), entries=(entry("x", share),))
    assert placed(where, wish(shared=True, memory=10 * GIB)) == {"a": ["01-shared"]}
    assert refused(where, wish(shared=True, memory=11 * GIB)) == {"a": f"{name(1)}: has 10240 MiB left"}


def _device(device: str, profile: str = "") -> EntryDevice:
    function = SeenFunction(profile=profile, index=0) if profile else None
    return EntryDevice(request="", pool=NODE, device=device, physical_function=name(1), virtual_function=function)


@pytest.mark.parametrize(
    "devices",
    [
        (_device(name(1)), _device(f"{name(1)}-m4-vf0", "flex170_m4")),
        (_device(f"{name(1)}-m8-vf0", "flex170_m8"), _device(f"{name(1)}-m4-vf0", "flex170_m4")),
        (_device(f"{name(1)}-of-a-newer-release"),),
        (_device(f"{name(1)}-monitor"),),
    ],
)
def test_a_gpu_claimed_in_two_ways_or_in_an_unknown_one_is_closed(devices: tuple[EntryDevice, ...]) -> None:
    where = room(gpu(1), entries=[entry(f"x{number}", device) for number, device in enumerate(devices)])
    assert "claimed in more than one way" in refused(where, wish(kind="any"))["a"]


def test_a_room_filled_later_is_the_room_of_all_entries() -> None:
    gpus: tuple[DeviceStatus, ...] = (gpu(1), gpu(2), gpu(3))
    empty = room(*gpus)
    entries = taken(empty, wish("v", "vf", count=3), wish("w"), wish("s", shared=True, memory=GIB))
    filled = empty
    for one in entries:
        filled = occupied(filled, [one])
    assert filled == occupied(empty, entries) == room(*gpus, entries=entries)
