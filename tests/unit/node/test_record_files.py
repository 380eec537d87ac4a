"""Records survive restarts, newer releases and corruption without anybody's device being disturbed."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.node.record_files import (
    LARGEST_MARK,
    QUARANTINED_KEPT,
    OwnershipFile,
    read_held,
    read_marks,
    read_ownership,
    write_held,
)
from state.observed import Unreadable
from state.record_coding import NewerRecord, RecordError, decode_record, encode_record
from state.records import (
    FORMAT_VERSION,
    AppliedDevice,
    Held,
    HeldClaim,
    Mark,
    OwnedBinding,
    OwnedLayout,
    Ownership,
)

TEXT = st.text(max_size=8)
DEVICES = st.lists(
    st.builds(
        AppliedDevice,
        device=TEXT,
        profile=TEXT,
        kernel_driver=TEXT,
        memory=st.none() | st.integers(1, 2**62),
        admin_access=st.booleans(),
        request=TEXT,
        share_id=TEXT,
    ),
    max_size=2,
).map(tuple)
OWNERSHIPS = st.builds(
    Ownership,
    format_version=st.just(FORMAT_VERSION),
    layouts=st.dictionaries(
        TEXT, st.builds(OwnedLayout, profile=TEXT, count=st.integers(0, 62), boot_id=TEXT), max_size=2
    ),
    bindings=st.dictionaries(
        TEXT, st.builds(OwnedBinding, driver=TEXT, original=st.none() | TEXT, boot_id=TEXT), max_size=2
    ),
    applied=st.dictionaries(TEXT, DEVICES, max_size=2),
    withdrawals=st.dictionaries(TEXT, TEXT, max_size=2),
)
HELDS = st.builds(
    Held,
    boot_id=TEXT,
    format_version=st.just(FORMAT_VERSION),
    claims=st.dictionaries(TEXT, st.builds(HeldClaim, nonce=TEXT, devices=DEVICES), max_size=2),
)
MARKS = st.builds(Mark, uid=TEXT, nonce=TEXT, boot_id=TEXT, grpc_version=TEXT)

OURS = Ownership(layouts={"gpu": OwnedLayout(profile="m4", count=4, boot_id="b")})
CORRUPT = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b"\x00" * 100,
    b'{"layouts": {"gpu": {}}}',
    b'{"formatVersion": 0}',
    b"[" * 100_000,
]


@given(OWNERSHIPS)
def test_ownership_round_trips(record: Ownership) -> None:
    assert decode_record(encode_record(record), Ownership) == record


@given(HELDS)
def test_held_round_trips(record: Held) -> None:
    assert decode_record(encode_record(record), Held) == record


@given(MARKS)
def test_marks_round_trip(record: Mark) -> None:
    assert decode_record(encode_record(record), Mark) == record


@given(st.dictionaries(TEXT, TEXT, min_size=2))
def test_equal_records_are_equal_bytes(tokens: dict[str, str]) -> None:
    backwards = dict(reversed(tokens.items()))
    assert encode_record(Ownership(withdrawals=tokens)) == encode_record(Ownership(withdrawals=backwards))


@given(st.binary(max_size=100), st.sampled_from([Ownership, Held, Mark]))
def test_any_bytes_are_a_record_or_an_error(data: bytes, kind: type[Ownership]) -> None:
    with contextlib.suppress(RecordError):
        assert isinstance(decode_record(data, kind), kind)


@pytest.mark.parametrize("content", CORRUPT, ids=lambda content: repr(content[:12]))
def test_what_is_no_record_is_an_error_in_words(content: bytes) -> None:
    with pytest.raises(RecordError) as caught:
        decode_record(content, Ownership)
    assert caught.value.why.startswith(("is not a valid Ownership record: ", "has formatVersion 0"))
    assert "\n" not in caught.value.why


def test_a_newer_record_is_not_gone_by() -> None:
    with pytest.raises(NewerRecord, match=r"^formatVersion 7 is of a newer release \(this one knows up to 1\)"):
        decode_record(b'{"formatVersion": 7, "layouts": "are something else there"}', Ownership)


def test_a_mark_has_a_version_in_the_file_only() -> None:
    assert encode_record(Mark(uid="u", nonce="n", boot_id="b")) == (
        b'{"bootID":"b","formatVersion":1,"grpcVersion":"","nonce":"n","uid":"u"}\n'
    )


def test_nothing_is_ours_where_nothing_was_written(tmp_path: Path) -> None:
    assert OwnershipFile(tmp_path / "ownership.json", Ownership).load() == Ownership()
    assert read_ownership(tmp_path / "ownership.json") == Ownership()


def test_what_is_stored_is_loaded_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "ownership.json"
    OwnershipFile(path, Ownership).store(OURS)
    assert OwnershipFile(path, Ownership).load() == read_ownership(path) == OURS
    assert os.listdir(tmp_path) == ["ownership.json"]


@pytest.mark.parametrize("content", CORRUPT, ids=lambda content: repr(content[:12]))
def test_a_corrupt_record_is_moved_aside_and_rebuilt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ownership.json"
    path.write_bytes(content)
    assert OwnershipFile(path, lambda: OURS).load() == OURS
    assert (tmp_path / "ownership.json.corrupt-1").read_bytes() == content
    assert read_ownership(path) == OURS  # written at once: the next process may have nothing to rebuild from


def test_an_absent_record_is_rebuilt_and_written(tmp_path: Path) -> None:
    path = tmp_path / "ownership.json"
    assert OwnershipFile(path, lambda: OURS).load() == OURS
    assert read_ownership(path) == OURS


def test_a_rebuilt_record_holds_even_where_it_cannot_be_written(tmp_path: Path) -> None:
    file = OwnershipFile(tmp_path / "absent" / "ownership.json", lambda: OURS)
    assert file.load() == OURS


def test_only_the_latest_corrupt_records_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "ownership.json"
    (tmp_path / "ownership.json.corrupt-x").touch()
    for number in range(1, 12):
        path.write_text(f"broken {number}")
        OwnershipFile(path, Ownership).load()
    kept = sorted(one.read_text() for one in tmp_path.glob("*.corrupt-[0-9]*"))
    assert kept == ["broken 10", "broken 11", "broken 9"]
    assert len(kept) == QUARANTINED_KEPT
    assert (tmp_path / "ownership.json.corrupt-x").exists()


def test_a_look_at_a_corrupt_record_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ownership.json"
    path.write_text("broken")
    assert isinstance(read_ownership(path), Unreadable)
    assert os.listdir(tmp_path) == ["ownership.json"]


def test_what_cannot_be_read_is_unreadable_and_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ownership.json"
    path.mkdir()
    file = OwnershipFile(path, Ownership)
    assert file.load() == read_ownership(path) == Unreadable(path=str(path), why="is a directory")
    path.rmdir()
    assert file.load() == Ownership()


def test_a_store_that_fails_names_the_file_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "ownership.json"
    file = OwnershipFile(path, Ownership)
    with pytest.raises(OSError, match=r"ownership\.json"):
        file.store(OURS)
    assert file.load() == Ownership()


def test_held_is_none_until_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "held.json"
    assert read_held(path) is None
    held = Held(boot_id="b", claims={"u": HeldClaim(nonce="n", devices=(AppliedDevice(device="d"),))})
    write_held(path, held)
    assert read_held(path) == held


@pytest.mark.parametrize("content", CORRUPT, ids=lambda content: repr(content[:12]))
def test_a_corrupt_held_record_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "held.json"
    path.write_bytes(content)
    assert isinstance(read_held(path), Unreadable)


def mark(directory: Path, uid: str, name: str | None = None) -> Mark:
    made = Mark(uid=uid, nonce=f"nonce of {uid}", boot_id="b", grpc_version="v1")
    (directory / (name or f"{uid}.json")).write_bytes(encode_record(made))
    return made


def test_marks_are_listed_by_uid(tmp_path: Path) -> None:
    made = {uid: mark(tmp_path, uid) for uid in ("b", "a")}
    mark(tmp_path, "c", ".tmp-1-2-3")
    mark(tmp_path, "c", ".c.json")
    (tmp_path / "README").touch()
    marks = read_marks(tmp_path)
    assert marks == made
    assert isinstance(marks, dict)
    assert list(marks) == ["a", "b"]


def test_no_directory_holds_no_marks(tmp_path: Path) -> None:
    assert read_marks(tmp_path / "marks") == {}


def test_marks_are_unreadable_where_no_directory_is(tmp_path: Path) -> None:
    (tmp_path / "marks").touch()
    assert read_marks(tmp_path / "marks") == Unreadable(path=str(tmp_path / "marks"), why="Not a directory")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b'{"uid": "other", "nonce": "n", "bootID": "b"}', b" " * (LARGEST_MARK + 1)]
)
def test_one_bad_mark_makes_all_unreadable_and_is_named(tmp_path: Path, content: bytes) -> None:
    mark(tmp_path, "a")
    (tmp_path / "bad.json").write_bytes(content)
    mark(tmp_path, "c")
    marks = read_marks(tmp_path)
    assert isinstance(marks, Unreadable)
    assert marks.path == str(tmp_path / "bad.json")


@pytest.mark.parametrize("what", ["fifo", "link", "directory"])
def test_a_mark_that_is_no_file_is_not_waited_for(tmp_path: Path, what: str) -> None:
    path = tmp_path / "u.json"
    match what:
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/dev/zero")
        case _:
            path.mkdir()
    marks = read_marks(tmp_path)
    assert isinstance(marks, Unreadable)
    assert marks.path == str(path)
