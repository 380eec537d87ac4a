"""Reading and writing single attributes."""

import errno
import os
from pathlib import Path

import pytest

from reconciler.node import sysfs
from state.observed import Unreadable


def test_text_without_its_newline_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"i915\n")
    (tmp_path / "long").write_bytes(b"x" * 10_000)
    (tmp_path / "odd").write_bytes(b"\xff\n")
    assert sysfs.read(f"{tmp_path}/a") == "i915"
    assert sysfs.read(f"{tmp_path}/long") == "x" * 4096
    assert sysfs.read(f"{tmp_path}/odd") == "\\xff"


def test_absent_is_none_everywhere(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (f"{tmp_path}/absent", f"{tmp_path}/file/below"):
        assert sysfs.read(path) is None
        assert sysfs.read_int(path) is None
        assert sysfs.read_link(path) is None
        assert sysfs.link_name(path) is None
        assert sysfs.list_directory(path) is None


def test_what_is_there_but_unreadable_says_where_and_why(tmp_path: Path) -> None:
    assert sysfs.read(str(tmp_path)) == Unreadable(path=str(tmp_path), why="EISDIR: Is a directory")
    (tmp_path / "file").touch()
    file = f"{tmp_path}/file"
    assert sysfs.link_name(file) == Unreadable(path=file, why="EINVAL: Invalid argument")


@pytest.mark.parametrize(
    ("text", "base", "value"),
    [
        ("31", 10, 31),
        ("-1", 10, -1),
        ("0x8086", 16, 0x8086),
        ("0X56C0", 16, 0x56C0),
        ("038000", 16, 0x38000),
    ],
)
def test_numbers(tmp_path: Path, text: str, base: int, value: int) -> None:
    (tmp_path / "a").write_text(f"{text}\n")
    assert sysfs.read_int(f"{tmp_path}/a", base) == value


@pytest.mark.parametrize("text", ["", "x", "1 2", "1_0", "0x10", "+1", "٣", "1" * 21, "1\n2"])
def test_what_is_no_number_is_named_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(f"{text}\n")
    problem = sysfs.read_int(f"{tmp_path}/a")
    assert isinstance(problem, Unreadable)
    assert problem.path == f"{tmp_path}/a"
    assert problem.why == f"expected a decimal number, found {text!r}"


def test_long_nonsense_is_shown_in_part(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("y" * 4000)
    problem = sysfs.read_int(f"{tmp_path}/a")
    assert isinstance(problem, Unreadable)
    assert len(problem.why) < 150


def test_links_by_their_last_component(tmp_path: Path) -> None:
    os.symlink("../../../bus/pci/drivers/i915", tmp_path / "driver")
    assert sysfs.link_name(f"{tmp_path}/driver") == "i915"


def test_writing_is_one_write_and_replaces_all(tmp_path: Path) -> None:
    (tmp_path / "sriov_numvfs").write_text("16\n")
    sysfs.write(f"{tmp_path}/sriov_numvfs", "0")
    assert (tmp_path / "sriov_numvfs").read_text() == "0"


def test_a_refused_write_names_errno_and_file() -> None:
    with pytest.raises(OSError, match="/dev/full") as refused:
        sysfs.write("/dev/full", "1")
    assert refused.value.errno == errno.ENOSPC
    assert refused.value.filename == "/dev/full"


def test_writing_never_creates_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        sysfs.write(f"{tmp_path}/absent", "1")
    assert not (tmp_path / "absent").exists()
