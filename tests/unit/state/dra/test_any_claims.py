"""Whatever claims and nodes say, what is written is a manifest, settles at once, and moves nobody."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from state.dra.deciding import decide
from state.dra.node_object import NodeObject
from state.dra.node_view import NeedsLiveLook, Nothing, SpecWrite
from state.dra.resource_claims import Claim
from state.manifest_decoding import decode
from tests.unit.state.dra.objects import (
    OTHER_PF,
    PF,
    after,
    claim,
    gpu_config,
    looks,
    node,
    opaque,
    raw_node,
    result,
    spec_of,
    view,
)

devices = st.sampled_from(
    [
        *(PF, f"{PF}-m4", f"{PF}-m4", f"{PF}-m2", f"{PF}-m4-vf1", f"{PF}-shared", f"{PF}-monitor"),
        *(OTHER_PF, f"{OTHER_PF}-m16", f"{OTHER_PF}-fs3", f"{PF}-m99", "gpu-0", "", f"{PF}-m4-vf9"),
    ]
)
amounts = st.sampled_from(["4Gi", "1", "0", "500m", "1e3", "x", "9E"])
configs = st.sampled_from(
    [
        gpu_config("drm"),
        gpu_config("vfio"),
        gpu_config("xe-vfio"),
        gpu_config("nvme"),
        {},
        [],
        {"kind": "GpuConfig"},
    ]
)


@st.composite
def claims(draw: st.DrawFn, uid: str) -> Claim:
    results = []
    for number in range(draw(st.integers(1, 3))):
        more: dict[str, Any] = {"shareID": f"share-{uid}-{number}"} if draw(st.booleans()) else {}
        more["adminAccess"] = draw(st.integers(0, 4)) == 0
        if draw(st.booleans()):
            more["consumedCapacity"] = {"memory": draw(amounts), "millicores": draw(amounts)}
        results.append(result(draw(devices), f"r{number}/sub" if draw(st.booleans()) else f"r{number}", **more))
    config = [
        opaque(parameters, *draw(st.sampled_from([(), ("r0",), ("r1/sub",)])), source=draw(sources))
        for parameters in draw(st.lists(configs, max_size=2))
    ]
    return claim(uid, *results, config=config)


sources = st.sampled_from(["FromClass", "FromClaim"])


@st.composite
def nodes(draw: st.DrawFn) -> NodeObject:
    """A node that still has VFs of claims long gone, and perhaps of ours."""
    given_out = [
        {
            "name": draw(st.sampled_from(["c0", "c1", "gone"])),
            "origin": "claim",
            "devices": [
                {"device": f"{PF}-m4-vf{index}", "request": "r0", "shareId": draw(st.sampled_from(["", "s"]))}
            ],
        }
        for index in draw(st.lists(st.integers(0, 5), unique=True, max_size=4))
    ]
    return node(status={"observedGeneration": 1, "allocations": given_out})


everybody = st.integers(0, 5).flatmap(lambda count: st.tuples(*(claims(f"c{number}") for number in range(count))))


def settled(state: NodeObject, *present: Claim) -> SpecWrite | None:
    """The write for these claims; None if there is nothing to write."""
    decision = decide(view(state, *present, looks=looks(*present)))
    assert isinstance(decision, SpecWrite | Nothing)
    return decision if isinstance(decision, SpecWrite) else None


@given(nodes(), everybody)
def test_what_is_written_is_a_manifest_and_settles(state: NodeObject, present: tuple[Claim, ...]) -> None:
    write = settled(state, *present)
    assert (write is None) == (not present)
    if write is not None:
        manifest = decode(raw_node(spec_of(write)), cluster=True)
        assert {entry.name for entry in manifest.spec.allocations} == {one.uid for one in present}
        assert settled(after(write), *present) is None


@given(nodes(), everybody)
def test_no_vf_is_given_twice(state: NodeObject, present: tuple[Claim, ...]) -> None:
    write = settled(state, *present)
    chosen = [
        (device["physicalFunction"], device["virtualFunction"]["profile"], device["virtualFunction"]["index"])
        for entry in (spec_of(write)["allocations"] if write else ())
        for device in entry.get("devices", ())
        if "virtualFunction" in device and "-vf" not in device["device"]
    ]
    assert len(chosen) == len(set(chosen))


@given(nodes(), everybody, claims("late"))
def test_whoever_comes_moves_nobody(state: NodeObject, present: tuple[Claim, ...], late: Claim) -> None:
    write = settled(state, *present)
    before = after(write) if write else state
    more = settled(before, *present, late)
    assert more is not None
    entries = {entry["name"]: entry for entry in spec_of(more)["allocations"]}
    for entry in spec_of(write)["allocations"] if write else ():
        assert entries[entry["name"]] == entry


@given(nodes(), everybody)
def test_nobody_is_removed_without_a_look(state: NodeObject, present: tuple[Claim, ...]) -> None:
    write = settled(state, *present)
    decision = decide(view(after(write) if write else state))
    if write is not None:
        assert isinstance(decision, NeedsLiveLook)
        assert set(decision.refs) == {one.ref for one in present}
