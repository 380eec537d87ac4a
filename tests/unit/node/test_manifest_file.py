"""Files people write: whatever is in them or instead of them, the answer is plain values or a clear refusal."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.node.manifest_file import (
    LARGEST_FILE,
    PEOPLE_WRITE,
    ManifestFileError,
    dump_manifest,
    parse_manifest,
    read_manifest,
)
from reconciler.node.yaml_values import MAX_DEPTH
from reconciler.runtime.files import FileRefused
from state.manifest import NodeState
from state.manifest_decoding import decode, encode
from tests.unit.manifest_strategies import node_states


def parse(text: str) -> object:
    return parse_manifest(text.encode(), "x.yaml")


def refusal(content: str | bytes) -> ManifestFileError:
    data = content.encode() if isinstance(content, str) else content
    with pytest.raises(ManifestFileError) as caught:
        parse_manifest(data, "x.yaml")
    error = caught.value
    assert str(error) == f"x.yaml:{error.line}:{error.column}: {error.why}"
    assert "\n" not in str(error)
    assert len(str(error)) < 300
    return error


@pytest.mark.parametrize(
    ("content", "line", "column", "why"),
    [
        ("", 1, 1, "nothing in it"),
        (" \n\n", 1, 1, "nothing in it"),
        ("# only\n# comments\n", 1, 1, "nothing in it"),
        ("---\n...\n", 1, 1, "nothing in it"),
        ("null\n", 1, 1, "nothing in it"),
        ("a: 1\nb: [1, 2\n", 3, 1, "flow sequence"),
        ("a: 1\n\tb: 2\n", 2, 1, "tab character"),
        ("a:\n\tb: 2\n", 2, 1, "cannot start any token"),
        (b"a: 1\nb: \xe9\n", 2, 4, "is not UTF-8: byte 8 is 0xe9"),
        (b"a: 1\nb: \x00\n", 2, 4, "byte 8 is NUL"),
        ("a: 1".encode("utf-16"), 1, 4, "byte 3 is NUL"),
        (b"\x7fELF\x02\x01\x01", 1, 1, "control characters are not allowed (U+007F)"),
        ("ä: é\n é\x01", 2, 3, "control characters are not allowed (U+0001)"),
        ("a: 1\n---\nb: 2\n", 2, 1, "second document"),
        ("a: &x 1\nb: *x\n", 1, 4, "anchors (&x) are not allowed"),
        ("a: &x [1]\n", 1, 4, "anchors (&x) are not allowed"),
        ("a: 1\nb: *x\n", 2, 4, "aliases (*name) are not allowed"),
        ("a:\n  <<: {b: 1}\n", 2, 3, "merge keys"),
        ("%YAML 1.2\n---\na: 1\n", 1, 1, "directives"),
        ("a: !local x\n", 1, 4, "the tag '!local' is not allowed"),
        ("a: !!python/object/apply:os.system [x]\n", 1, 4, "the tag '!!python/object/apply:os.system'"),
        ("a: !!int x\n", 1, 4, "the tag '!!int' is not allowed here"),
        ("a: !!set {x}\n", 1, 4, "the tag '!!set' is not allowed here"),
        ("a: 1\nb: 2\na: 3\n", 3, 1, "the key 'a' is there already"),
        ('{"a": 1,\n "a": 2}', 2, 2, "the key 'a' is there already"),
        ('{"a": {"b": 1, "b": 2}}', 1, 16, "the key 'b' is there already"),
        ("1: a\n", 1, 1, "a key must be a string, not '1'; quote it"),
        ("true: a\n", 1, 1, "a key must be a string, not 'true'"),
        ("? [a]\n: b\n", 1, 3, "a key must be a string"),
        ("? {a: 1}\n: b\n", 1, 3, "a key must be a string"),
        ("a: 010\n", 1, 4, "octal"),
        ("a: 0o17\n", 1, 4, "octal"),
        ("a: .inf\n", 1, 4, "not a finite number"),
        ("a: -.INF\n", 1, 4, "not a finite number"),
        ("a: .nan\n", 1, 4, "not a finite number"),
        ("a: 1e999\n", 1, 4, "not a finite number"),
        ('{"a": 1e999}', 1, 7, "not a finite number"),
        ('{"a": NaN, "b": 010}', 1, 17, "octal"),
        (f"a: {'9' * 5000}\n", 1, 4, "more than 40 digits"),
    ],
)  # fmt: skip
def test_refusals_say_where_and_why(content: str | bytes, line: int, column: int, why: str) -> None:
    error = refusal(content)
    assert why in error.why
    assert (error.line, error.column) == (line, column)


@pytest.mark.parametrize("times", [MAX_DEPTH + 1, 1000, 100_000])
@pytest.mark.parametrize(
    "nested",
    [("[", "]"), ("[", ""), ("{a: ", "}"), ("{a: ", ""), ("- ", ""), ('{"a":', "}"), ('{"a":[', "]}")],
    ids=str,
)
def test_deep_nesting_is_refused_where_it_begins(nested: tuple[str, str], times: int) -> None:
    opening, closing = nested
    error = refusal(opening * times + "1" + closing * times)
    assert error.why == f"nested deeper than {MAX_DEPTH} levels"
    assert error.column <= MAX_DEPTH * len(opening) + 1


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ('{"a":', "}")])
def test_nesting_up_to_the_limit_is_fine(opening: str, closing: str) -> None:
    value, depth = parse(opening * MAX_DEPTH + "1" + closing * MAX_DEPTH), 0
    while isinstance(value, dict | list):
        value, depth = value["a"] if isinstance(value, dict) else value[0], depth + 1
    assert (value, depth) == (1, MAX_DEPTH)


def test_large_json_is_held_to_the_same_depth() -> None:
    assert refusal('{"a":' * 100 + f'"{"x" * PEOPLE_WRITE}"' + "}" * 100).why.startswith("nested deeper")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("y", "y"), ("n", "n"), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("<<", "<<"),
        ("2001-12-14", "2001-12-14"), ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("1_000", "1_000"), ("1:30", "1:30"), ("0b11", "0b11"), ("4Gi", "4Gi"), ("0000-b3-00-0-0x56c0",) * 2,
        ("true", True), ("True", True), ("false", False), ("~", None), ("null", None), ("", None),
        ("0", 0), ("12", 12), ("+12", 12), ("-3", -3), ("0x1F", 31), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5),
        ("'1'", "1"), ('"true"', "true"), ("'010'", "010"), ("'<<'", "<<"), ("'.inf'", ".inf"),
        ("!!str 010", "010"), ("!!int '7'", 7), ("! 1", "1"), ("!!map {b: 1}", {"b": 1}), ("!!seq [1]", [1]),
        ("|\n  x\n  y\n", "x\ny\n"), ("[1, two]", [1, "two"]),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    assert parse(f"a: {text}\n") == {"a": value}


def test_words_that_yaml_1_1_takes_for_booleans_may_be_keys() -> None:
    assert parse("n: 1\ny: 2\non: 3\n") == {"n": 1, "y": 2, "on": 3}


def test_json_is_read_as_json() -> None:
    assert parse('\n{\n\t"a": "\\ud83d\\ude00", "<<": {"n": [1, null, true]}}\n') == {
        "a": "\U0001f600",
        "<<": {"n": [1, None, True]},
    }


def test_a_flow_mapping_is_yaml_though_it_begins_like_json() -> None:
    assert parse("{a: [x, 'y'], }  # no JSON") == {"a": ["x", "y"]}


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert parse("\ufeffa: 1") == parse('\ufeff{"a": 1}') == {"a": 1}


def test_the_c_parser_is_there() -> None:
    assert yaml.__with_libyaml__


def test_reads_yaml_and_json_files(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("a: [1]\n")
    (tmp_path / "node.json").write_text('{"a": [1]}')
    assert read_manifest(tmp_path / "node.yaml") == read_manifest(tmp_path / "node.json") == {"a": [1]}


def test_the_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(ManifestFileError) as caught:
        read_manifest(path)
    assert str(caught.value) == f"{path}:2:1: the key 'a' is there already"


def test_a_link_to_a_file_is_followed_as_in_a_config_map(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "node.yaml").write_text("a: 1\n")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "node.yaml").symlink_to("..data/node.yaml")
    assert read_manifest(tmp_path / "node.yaml") == {"a": 1}


@pytest.mark.parametrize("what", ["nothing", "directory", "fifo", "dangling", "loop", "device", "long"])
def test_what_is_no_readable_file_is_refused_by_name(tmp_path: Path, what: str) -> None:
    path = tmp_path / "node.yaml"
    match what:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "long":
            path.touch()
            os.truncate(path, 10_000_000)
        case _:
            assert what == "nothing"
    with pytest.raises(FileRefused) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.absent == (what in ("nothing", "dangling"))


@contextlib.contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Root may read any file, so be nobody for a while."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_one_may_not_read_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("a: 1\n")
    path.chmod(0)
    with as_an_ordinary_user(), pytest.raises(FileRefused) as caught:
        read_manifest(path)
    assert str(caught.value) == f"{path}: Permission denied"
    assert not caught.value.absent


def test_a_file_just_short_enough_is_read(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("a: 1\n#" + "x" * (LARGEST_FILE - 6))
    assert path.stat().st_size == LARGEST_FILE
    assert read_manifest(path) == {"a": 1}


@pytest.mark.parametrize("end", range(0, 70, 7))
def test_json_cut_off_anywhere_is_refused(end: int) -> None:
    whole = json.dumps({"apiVersion": "v", "kind": "k", "spec": {"releases": ["a", "b"]}})
    assert refusal(whole[:end]).line <= 2


@given(st.binary(max_size=200))
def test_any_bytes_give_values_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(ManifestFileError):
        parse_manifest(data, "x")


@given(st.text(st.sampled_from(list("ab:-?[]{},#&*!|>'\"%@ \n\t\\0.<~x{}")), max_size=60))
def test_any_punctuation_gives_values_or_a_refusal(text: str) -> None:
    with contextlib.suppress(ManifestFileError):
        parse_manifest(text.encode(), "x")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=10,
    )
)
def test_json_means_what_it_says(value: object) -> None:
    document = {"a": value}
    assert parse(json.dumps(document)) == document
    assert parse(json.dumps(document, ensure_ascii=False)) == document


@given(node_states(cluster=True))
def test_what_is_written_for_people_is_read_again(state: NodeState) -> None:
    text = dump_manifest(state)
    assert decode(parse(text), cluster=True) == state
    assert yaml.load(text, Loader=yaml.CSafeLoader) == encode(state)


def test_it_is_written_as_people_would() -> None:
    text = """\
apiVersion: gpu.dra.intel.com/v1alpha1
kind: GpuNodeState
metadata:
  name: node-1
spec:
  policy:
    layout: Pinned
  overrides:
  - device: 0000-b3-00-0-0x56c0
    mode: Fixed
    virtualFunctions:
      profile: flex170_m4
    reason: 'yes'
  manualAllocations:
  - name: jupyter
    devices:
    - device: 0000-b3-00-0-0x56c0-m4-vf0
      memory: 4294967296
  releases:
  - '1e5'
"""
    assert dump_manifest(decode(parse(text), cluster=False)) == text


def test_small_json_is_searched_for_repeated_keys_and_large_json_is_not() -> None:
    # Documented: msgspec takes the last of them; a second look at what machines write would cost too much.
    filler = "x" * PEOPLE_WRITE
    assert parse(f'{{"a": 1, "a": 2, "b": "{filler}"}}') == {"a": 2, "b": filler}
    assert "there already" in refusal('{"a": 1, "a": 2}').why
