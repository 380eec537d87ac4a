"""From the node's object to the file the machine follows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.manifest_decoding import decode
from state.mirroring import OwnMetadata, OwnObject, decode_own, is_adopted, mirrored

ENTRY = {
    "name": "c1",
    "claimNamespace": "ml",
    "claimName": "job",
    "source": "resource.k8s.io/v1",
    "devices": [{"request": "gpu", "pool": "n", "device": "d", "physicalFunction": "d"}],
}


def own(spec: dict[str, object], *, uid: str = "u1", generation: int = 3) -> OwnObject:
    return OwnObject(metadata=OwnMetadata(name="node-a", uid=uid, generation=generation), spec=spec)


def spec_of(file: bytes) -> dict[str, object]:
    spec = json.loads(file)["spec"]
    assert isinstance(spec, dict)
    return spec


def test_an_adopted_object_is_mirrored_as_it_is() -> None:
    spec = {"adoptedUID": "u1", "allocations": [ENTRY], "paused": True, "fromANewerRelease": {"x": 1}}
    file = mirrored(own(spec), None)
    assert json.loads(file) == {
        "apiVersion": "gpu.dra.intel.com/v1alpha1",
        "kind": "GpuNodeState",
        "metadata": {"name": "node-a", "uid": "u1", "generation": 3},
        "spec": spec,
    }
    assert mirrored(own(spec), file) == file


def test_an_adopted_object_may_take_everything_away() -> None:
    before = mirrored(own({"adoptedUID": "u1", "allocations": [ENTRY]}), None)
    assert "allocations" not in spec_of(mirrored(own({"adoptedUID": "u1"}), before))


def test_a_new_object_keeps_the_last_entries_until_it_is_adopted() -> None:
    spec = {"adoptedUID": "u1", "allocations": [ENTRY], "withdrawalsConfirmed": {"d": "t"}, "paused": True}
    before = mirrored(own(spec), None)
    made_anew = mirrored(own({}, uid="u2", generation=1), before)
    assert spec_of(made_anew) == {"allocations": [ENTRY], "withdrawalsConfirmed": {"d": "t"}}
    assert mirrored(own({}, uid="u2", generation=1), made_anew) == made_anew
    adopted = mirrored(own({"adoptedUID": "u2"}, uid="u2", generation=2), made_anew)
    assert spec_of(adopted) == {"adoptedUID": "u2"}


def test_a_restored_object_is_not_trusted_with_the_entries_of_another_time() -> None:
    before = mirrored(own({"adoptedUID": "u1", "allocations": [ENTRY]}), None)
    backup = own({"adoptedUID": "u0", "allocations": [], "paused": True}, uid="u2")
    assert not is_adopted(backup)
    assert spec_of(mirrored(backup, before)) == {"adoptedUID": "u0", "allocations": [ENTRY], "paused": True}


@pytest.mark.parametrize("garbage", [b"", b"\x00\xff", b"[]", b'{"spec": 3}', b"paused: true\n"])
def test_a_file_that_says_nothing_adds_nothing(garbage: bytes) -> None:
    assert spec_of(mirrored(own({}), garbage)) == {}


@pytest.mark.parametrize("spoilt", [7, [{"name": "c1"}], [ENTRY, ENTRY], [{**ENTRY, "source": 1}]])
def test_entries_that_the_node_could_not_follow_are_not_kept(spoilt: object) -> None:
    """It would wait to be adopted for ever: the controller adopts what has a status of its own generation."""
    file = json.dumps({"spec": {"allocations": spoilt, "withdrawalsConfirmed": {}}}).encode()
    assert spec_of(mirrored(own({"paused": True}), file)) == {"paused": True}


def test_what_is_mirrored_is_a_manifest() -> None:
    file = mirrored(own({"adoptedUID": "u1", "allocations": [ENTRY]}), None)
    state = decode(json.loads(file), cluster=True)
    assert (state.metadata.uid, state.metadata.generation) == ("u1", 3)
    assert [entry.name for entry in state.spec.allocations] == ["c1"]


def test_newer_metadata_is_no_obstacle() -> None:
    raw = {
        "metadata": {"name": "n", "uid": "u", "generation": 1, "managedFields": [{}]},
        "kind": "x",
        "status": {},
    }
    assert decode_own(json.dumps(raw).encode()) == OwnObject(
        metadata=OwnMetadata(name="n", uid="u", generation=1), status={}
    )


@given(st.binary())
def test_whatever_is_in_the_file_it_is_never_an_error(garbage: bytes) -> None:
    assert json.loads(mirrored(own({"paused": True}), garbage))["metadata"]["uid"] == "u1"
