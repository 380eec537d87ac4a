"""Which devices claims get on one node: a case for each rule of the policy."""

from typing import Any

import msgspec
import pytest

from state.classic.parameters import DeviceSelector, DeviceType
from state.classic.placing import MOST_CLAIMS, Placement, place
from state.classic.reasons import LONGEST
from state.classic.room import occupied
from state.classic.spots import Policy, PolicyResource, PreferredAllocation
from state.dra.node_object import EntryDevice, SeenFunction
from state.profiles import MIB
from state.status import MemoryStatus, NodesStatus, SriovStatus
from tests.unit.state.classic.nodes import (
    ARC,
    FLEX,
    GIB,
    MAX,
    NODE,
    entry,
    gpu,
    held,
    name,
    placed,
    refused,
    room,
    taken,
    wish,
)

PACKED = Policy(preferred=PreferredAllocation.PACKED)
BALANCED = Policy(preferred=PreferredAllocation.BALANCED)


@pytest.mark.parametrize(
    ("asked", "device"),
    [
        ({}, "01-m16-vf0"),
        ({"memory": 800 * MIB}, "01-m16-vf0"),
        ({"memory": 1001 * MIB}, "01-m8-vf0"),
        ({"memory": 3 * GIB}, "01-m5-vf0"),
        ({"memory": 15 * GIB}, "01-m1-vf0"),
        ({"millicores": 63}, "01-m8-vf0"),
        ({"memory": GIB, "millicores": 200}, "01-m5-vf0"),
    ],
)
def test_a_vf_is_the_smallest_that_is_enough(asked: dict[str, Any], device: str) -> None:
    assert placed(room(gpu(1)), wish("a", "vf", **asked)) == {"a": [device]}


def test_with_ecc_on_vfs_are_smaller() -> None:
    wanted = wish("a", "vf", memory=1900 * MIB)
    assert placed(room(gpu(1, ecc="off")), wanted) == {"a": ["01-m8-vf0"]}
    assert placed(room(gpu(1, ecc="on")), wanted) == {"a": ["01-m5-vf0"]}


def test_without_writable_quotas_only_equal_shares_can_be_had() -> None:
    sriov = SriovStatus(total=31, enabled=0)
    assert placed(room(gpu(1, sriov=sriov)), wish("a", "vf", memory=3 * GIB)) == {"a": ["01-fs4-vf0"]}


def test_a_vf_is_charged_what_its_profile_has() -> None:
    outcome = place(room(gpu(1)), [wish("a", "vf", memory=GIB)], Policy())
    assert outcome == Placement(
        devices={
            "a": (
                EntryDevice(
                    request="",
                    pool=NODE,
                    device=f"{name(1)}-m8-vf0",
                    physical_function=name(1),
                    virtual_function=SeenFunction(profile="flex170_m8", index=0),
                    memory=2097152000,
                    millicores=125,
                ),
            )
        }
    )


def test_claims_of_different_pods_share_a_split_gpu_also_in_bigger_vfs_than_they_need() -> None:
    where = room(gpu(1), gpu(2))
    where = occupied(where, taken(where, wish("a", "vf", memory=3 * GIB)))
    assert placed(where, wish("b", "vf")) == {"b": ["01-m5-vf1"]}
    assert placed(where, wish("c", "vf", memory=8000 * MIB)) == {"c": ["02-m2-vf0"]}


def test_vfs_that_stand_unused_are_taken_where_they_fit_and_made_over_where_nothing_else_does() -> None:
    where = room(gpu(1), gpu(2, layout="flex170_m4", enabled=4))
    assert placed(where, wish("a", "vf", memory=GIB)) == {"a": ["02-m4-vf0"]}
    assert placed(where, wish("a", "vf", memory=6 * GIB)) == {"a": ["01-m2-vf0"]}
    assert placed(room(gpu(2, layout="flex170_m4", enabled=4)), wish("a", "vf", memory=6 * GIB)) == {
        "a": ["02-m2-vf0"]
    }
    assert placed(where, wish("a"), wish("b")) == {"a": ["01"], "b": ["02"]}


def test_many_vfs_fill_one_gpu_and_go_on_in_the_next() -> None:
    assert placed(room(gpu(1), gpu(2)), wish("a", "vf", count=6, memory=3 * GIB)) == {
        "a": [*(f"01-m5-vf{index}" for index in range(5)), "02-m5-vf0"]
    }


def test_a_claim_never_has_vfs_of_two_layouts_of_one_gpu() -> None:
    where = room(gpu(1), gpu(2), allocations=(held("gone", name(2)),))
    assert placed(where, wish("a", "vf", count=6, memory=3 * GIB)) == {
        "a": [*(f"01-m5-vf{index}" for index in range(5)), "02-m5-vf0"]
    }


def test_a_gpu_has_no_more_vfs_than_its_layout() -> None:
    where = room(gpu(1))
    where = occupied(where, taken(where, wish("x", "vf", count=5, memory=3 * GIB)))
    assert refused(where, wish("a", "vf")) == {"a": f"{name(1)}: is split into flex170_m5: all 5 VFs are taken"}


def test_whole_and_split_never_meet_on_one_gpu() -> None:
    empty = room(gpu(1))
    split = occupied(empty, taken(empty, wish("v", "vf")))
    whole = occupied(empty, taken(empty, wish("w")))
    shared = occupied(empty, taken(empty, wish("s", shared=True)))
    assert refused(split, wish("a")) == {"a": f"{name(1)}: is split into flex170_m16 for other claims"}
    assert refused(split, wish("a", shared=True)) == {
        "a": f"{name(1)}: is split into flex170_m16 for other claims"
    }
    assert refused(whole, wish("a", "vf")) == {"a": f"{name(1)}: is in use as a whole"}
    assert refused(whole, wish("a")) == {"a": f"{name(1)}: is in use as a whole"}
    assert refused(whole, wish("a", shared=True)) == {"a": f"{name(1)}: is in use as a whole"}
    assert refused(shared, wish("a", "vf")) == {"a": f"{name(1)}: is in use by claims that share it"}
    assert refused(shared, wish("a")) == {"a": f"{name(1)}: is in use by claims that share it"}


def test_memory_asked_of_a_whole_gpu_must_be_there() -> None:
    assert placed(room(gpu(1, ARC), gpu(2, MAX)), wish("a", memory=20 * GIB)) == {"a": ["02"]}
    assert refused(room(gpu(1, ARC)), wish("a", memory=20 * GIB)) == {"a": f"{name(1, ARC)}: has 16384 MiB left"}
    assert refused(room(gpu(1, ARC, memory=None)), wish("a", memory=GIB)) == {
        "a": f"{name(1, ARC)}: has memory of unknown size"
    }
    assert placed(room(gpu(1, ARC, memory=None)), wish("a")) == {"a": ["01"]}


def test_shares_of_a_gpu_add_up_in_memory_and_millicores() -> None:
    where = room(gpu(1, ARC))
    where = occupied(where, taken(where, wish("a", shared=True, memory=10 * GIB, millicores=400)))
    assert placed(where, wish("b", shared=True, memory=6 * GIB, millicores=600)) == {"b": ["01-shared"]}
    assert refused(where, wish("b", shared=True, memory=7 * GIB)) == {"b": f"{name(1, ARC)}: has 6144 MiB left"}
    assert refused(where, wish("b", shared=True, millicores=601)) == {
        "b": f"{name(1, ARC)}: has 600 millicores left"
    }
    where = occupied(where, taken(where, wish("c", shared=True, millicores=600)))
    assert refused(where, wish("d", shared=True)) == {"d": f"{name(1, ARC)}: has 0 millicores left"}


def test_a_share_is_charged_what_was_asked_for_and_one_millicore_if_nothing_was() -> None:
    outcome = place(room(gpu(1)), [wish("a", shared=True, memory=GIB)], Policy())
    assert isinstance(outcome, Placement)
    (device,) = outcome.devices["a"]
    assert (device.device, device.memory, device.millicores) == (f"{name(1)}-shared", GIB, 1)


def test_several_shares_of_one_claim_are_of_several_gpus() -> None:
    assert placed(room(gpu(1), gpu(2)), wish("a", shared=True, count=2)) == {"a": ["01-shared", "02-shared"]}
    assert refused(room(gpu(1)), wish("a", shared=True, count=2)) == {"a": "1 of 2 devices can be had"}


def test_any_device_is_a_vf_first_and_a_gpu_last() -> None:
    where = room(gpu(1, ARC), gpu(2))
    assert placed(where, wish("a", "any")) == {"a": ["02-m16-vf0"]}
    assert placed(where, wish("a", "any", memory=16 * GIB)) == {"a": ["01"]}
    assert placed(where, wish("a", "any", memory=15 * GIB, count=2)) == {"a": ["01", "02-m1-vf0"]}
    assert placed(room(gpu(1, ARC)), wish("a", "any", shared=True)) == {"a": ["01-shared"]}


def test_a_monitor_sees_all_gpus_whoever_uses_them() -> None:
    where = room(gpu(1), gpu(2, health="Unhealthy"), gpu(3, driver="vfio-pci"), gpu(4, nodes=NodesStatus()))
    where = occupied(where, taken(where, wish("w")))
    outcome = place(where, [wish("m", monitor=True)], Policy())
    assert isinstance(outcome, Placement)
    assert [(each.device, each.admin_access) for each in outcome.devices["m"]] == [
        (f"{name(1)}-monitor", True),
        (f"{name(2)}-monitor", True),
    ]
    assert placed(occupied(where, [entry("m", *outcome.devices["m"])]), wish("n", monitor=True)) == {
        "n": ["01-monitor", "02-monitor"]
    }
    assert refused(room(), wish("m", monitor=True)) == {"m": "no GPU of this node can be looked at"}


@pytest.mark.parametrize(
    ("policy", "device"), [(Policy(), "01"), (PACKED, "02"), (BALANCED, "03")], ids=["none", "packed", "balanced"]
)
def test_policies_choose_among_whole_gpus(policy: Policy, device: str) -> None:
    where = room(gpu(1), gpu(2, ARC, memory=MemoryStatus(bytes=8 * GIB, source="sysfs")), gpu(3, MAX))
    assert placed(where, wish("a"), policy=policy) == {"a": [device]}


def test_policies_choose_among_shared_gpus() -> None:
    where = room(gpu(1), gpu(2), gpu(3))
    some = [
        entry("x", _share(1, memory=2 * GIB, millicores=500)),
        entry("y", _share(2, memory=4 * GIB, millicores=100)),
    ]
    where = occupied(where, some)
    by_millicores = PolicyResource.MILLICORES
    wanted = wish("a", shared=True)
    assert placed(where, wanted) == {"a": ["01-shared"]}
    assert placed(where, wanted, policy=PACKED) == {"a": ["02-shared"]}
    assert placed(where, wanted, policy=BALANCED) == {"a": ["03-shared"]}
    assert placed(where, wanted, policy=Policy(preferred=PACKED.preferred, resource=by_millicores)) == {
        "a": ["01-shared"]
    }


def _share(number: int, **amounts: Any) -> EntryDevice:
    return EntryDevice(
        request="", pool=NODE, device=f"{name(number)}-shared", physical_function=name(number), **amounts
    )


def test_policies_choose_among_split_gpus() -> None:
    where = room(gpu(1), gpu(2))
    one, two = taken(where, wish("x", "vf", count=3)), taken(where, wish("y", "vf", count=5))
    (five,) = two
    other = tuple(
        msgspec.structs.replace(device, device=device.device.replace(name(1), name(2)), physical_function=name(2))
        for device in five.devices
    )
    where = occupied(where, [*one, entry("y", *other)])
    assert placed(where, wish("a", "vf"), policy=PACKED) == {"a": ["02-m16-vf5"]}
    assert placed(where, wish("a", "vf"), policy=BALANCED) == {"a": ["01-m16-vf3"]}


@pytest.mark.parametrize(
    ("kind", "pattern", "devices"),
    [
        ("gpu", "*", ["01"]),
        ("any", "a770", ["02"]),
        ("gpu", "Max*", ["03"]),
        ("gpu", "Data Center *x", ["01"]),
        ("gpu", "0x0bd?", []),
        ("gpu", "0000-02-*", ["02"]),
        ("vf", "*", []),
        ("gpu", "[a-z]*", []),
    ],
)
def test_class_selectors_are_for_models_families_ids_and_names(
    kind: str, pattern: str, devices: list[str]
) -> None:
    where = room(gpu(1), gpu(2, ARC), gpu(3, MAX))
    asking = wish("a", selectors=(DeviceSelector(type=DeviceType(kind), name=pattern),))
    if devices:
        assert placed(where, asking) == {"a": devices}
    else:
        assert "is not of the kinds that the class is for" in refused(where, asking)["a"]


def test_classes_of_gpus_have_their_vfs_and_classes_of_vfs_nothing_else() -> None:
    max_gpus = (DeviceSelector(type=DeviceType.GPU, name="Max*"),)
    only_vfs = (DeviceSelector(type=DeviceType.VF, name="*"),)
    where = room(gpu(1, ARC), gpu(2), gpu(3, MAX))
    assert placed(where, wish("a", "vf", selectors=max_gpus)) == {"a": ["03-c63-vf0"]}
    assert placed(where, wish("a", "any", memory=GIB, selectors=only_vfs)) == {"a": ["03-c32-vf0"]}
    assert placed(where, wish("a", selectors=(*only_vfs, *max_gpus))) == {"a": ["03"]}


def test_whole_gpus_leave_those_that_can_be_split_to_claims_that_need_them() -> None:
    where = room(gpu(1), gpu(2, ARC))
    assert placed(where, wish("w"), wish("v", "vf")) == {"v": ["01-m16-vf0"], "w": ["02"]}


def test_claims_like_those_that_find_no_seat_are_seated_first_the_next_time() -> None:
    where = room(*(gpu(number) for number in range(1, 5)), *(gpu(number, ARC) for number in range(5, 9)))
    big = [wish(f"v{number}", "vf", memory=15 * GIB) for number in range(4)]
    seats = placed(where, *(wish(f"w{number}") for number in range(4)), *big)
    assert sorted(seats[f"w{number}"] for number in range(4)) == [["05"], ["06"], ["07"], ["08"]]


def test_big_vfs_are_seated_before_small_ones_so_that_both_fit() -> None:
    wishes = [wish("a", "vf"), wish("b", "vf", memory=3 * GIB), wish("c", "vf", memory=GIB)]
    assert placed(room(gpu(1)), *wishes) == {"b": ["01-m5-vf0"], "c": ["01-m5-vf1"], "a": ["01-m5-vf2"]}


def test_all_claims_get_devices_or_none_does_and_each_is_told_why() -> None:
    where = room(gpu(1), gpu(2))
    assert refused(where, wish("a", count=2), wish("b", "vf", memory=GIB)) == dict.fromkeys(
        "ab", "it would fit, but not all other claims of the pod fit beside it"
    )
    reasons = refused(where, wish("a"), wish("b", "vf", memory=16 * GIB))
    assert reasons["a"] == "it would fit, but not all other claims of the pod fit beside it"
    assert reasons["b"] == f"{name(1)}, {name(2)}: can have VFs of 16000 MiB and 1000 millicores only"


def test_a_claim_that_has_an_entry_keeps_what_it_has() -> None:
    where = room(gpu(1), gpu(2))
    had = taken(where, wish("a", "vf", memory=3 * GIB))
    where = occupied(where, had)
    outcome = place(where, [wish("a"), wish("b")], Policy())
    assert isinstance(outcome, Placement)
    assert outcome.devices["a"] == had[0].devices
    assert refused(where, wish("a"), wish("b", count=2))["a"] == (
        "it has devices here, but not all other claims of the pod fit beside it"
    )


def test_so_many_claims_are_allocated_together_and_no_more() -> None:
    where = room(*(gpu(number, MAX) for number in range(1, 8)))
    many = [wish(f"v{number:03}", "vf") for number in range(MOST_CLAIMS)]
    assert placed(where, *many)["v255"] == ["05-c63-vf3"]
    assert refused(where, *many, wish("one-more", "vf"))["one-more"] == (
        "no more than 256 claims are allocated together, and the pod has 257"
    )


def test_reasons_are_short_however_many_gpus_there_are() -> None:
    gpus = [gpu(1, health="Unhealthy"), *(gpu(number, ARC) for number in range(2, 9))]
    assert refused(room(*gpus), wish("a", "vf"))["a"] == (
        f"{name(1)}: is not healthy; {name(2, ARC)}, {name(3, ARC)} and 5 more: can't have VFs"
    )
    odd = [gpu(number, FLEX, driver=f"driver-{number}") for number in range(1, 40)]
    text = refused(room(*odd), wish("a"))["a"]
    assert len(text) == LONGEST
    assert text.endswith("…")
    assert refused(room(), wish("a")) == {"a": "no GPU is known on this node"}
