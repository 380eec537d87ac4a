"""What of a record of another release survives when this one writes it."""

import contextlib
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.node.record_files import OwnershipFile, read_held, write_held
from reconciler.runtime.files import FileRefused
from state.observed import Unreadable
from state.record_coding import NewerRecord, decode_record, encode_record
from state.records import AppliedDevice, Held, HeldClaim, OwnedLayout, Ownership

DEVICE = {"device": "gpu-m4-vf0", "profile": "flex170_m4", "new": {"a": [1]}}
WRITTEN: dict[str, Any] = {
    "formatVersion": 1,
    "bootID": "b",
    "new": "x",
    "claims": {
        "stays": {"nonce": "1", "devices": [DEVICE], "new": 1},
        "changes": {"nonce": "2", "devices": [DEVICE], "new": 2},
        "goes": {"nonce": "3", "devices": [], "new": 3},
    },
}
GIVEN = (AppliedDevice(device="gpu-m4-vf0", profile="flex170_m4"),)
NOW = Held(
    boot_id="b",
    claims={
        "stays": HeldClaim(nonce="1", devices=GIVEN),
        "changes": HeldClaim(nonce="20", devices=GIVEN),
        "comes": HeldClaim(nonce="4", devices=()),
    },
)
NEWER = b'{"formatVersion": 2, "bootID": "b", "claims": []}'


def test_new_fields_stay_with_what_has_not_changed() -> None:
    device = {"device": "gpu-m4-vf0", "profile": "flex170_m4"}
    assert json.loads(encode_record(NOW, json.dumps(WRITTEN).encode())) == {
        "formatVersion": 1,
        "bootID": "b",
        "new": "x",
        "claims": {
            "stays": {"nonce": "1", "devices": [DEVICE], "new": 1},
            "changes": {"nonce": "20", "devices": [device]},
            "comes": {"nonce": "4", "devices": []},
        },
    }


def test_an_older_record_gets_the_fields_of_this_release() -> None:
    older = b'{"layouts": {"gpu": {"profile": "m4", "count": 4, "bootID": "b"}}, "bindings": {}}'
    now = Ownership(layouts={"gpu": OwnedLayout(profile="m4", count=4, boot_id="b")})
    assert encode_record(now, older) == encode_record(now)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["claims", "new", "stays"]), inner)
    ),
    max_leaves=6,
)


@given(st.binary(max_size=40) | _JSON.map(lambda value: json.dumps(value).encode()), _JSON)
def test_whatever_was_there_nothing_of_ours_is_lost(before: bytes, more: object) -> None:
    for data in (before, json.dumps({**WRITTEN, "more": more}).encode()):
        with contextlib.suppress(NewerRecord):
            assert decode_record(encode_record(NOW, data), Held) == NOW


def test_held_record_of_a_newer_format_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "held.json"
    path.write_bytes(NEWER)
    with pytest.raises(FileRefused, match="formatVersion 2 is of a newer release") as caught:
        write_held(path, NOW)
    assert (caught.value.errno, caught.value.path) == (errno.EPROTO, path)
    assert path.read_bytes() == NEWER
    assert isinstance(read_held(path), Unreadable)


def test_ownership_record_of_a_newer_format_is_neither_rebuilt_nor_moved(tmp_path: Path) -> None:
    path = tmp_path / "ownership.json"
    path.write_bytes(NEWER)
    file = OwnershipFile(path, rebuild=Ownership)
    found = file.load()
    assert isinstance(found, Unreadable)
    assert "go on with that release" in found.why
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == NEWER


def test_new_fields_outlive_several_writes(tmp_path: Path) -> None:
    path = tmp_path / "ownership.json"
    path.write_text('{"new": 1, "layouts": {"gpu": {"profile": "m4", "count": 4, "bootID": "b", "new": 2}}}')
    file = OwnershipFile(path, rebuild=Ownership)
    known = file.load()
    assert isinstance(known, Ownership)
    file.store(Ownership(layouts=known.layouts, applied_boot_id="b"))
    file.store(Ownership(layouts=known.layouts, applied_boot_id="c"))
    written = json.loads(path.read_bytes())
    assert (written["new"], written["layouts"]["gpu"]["new"], written["appliedBootID"]) == (1, 2, "c")
