"""Which files of the CDI directory are ours, and how they come and go."""

import os
import stat
from pathlib import Path

import pytest

from reconciler.node import cdi_dir
from state.observed import CdiFileSeen, Unreadable

OURS = b'{"cdiVersion":"0.5.0","kind":"intel.com/gpu","devices":[]}'
CLAIM = "intel.com-gpu_claim-7d3f.json"
ALLOC = "intel.com-gpu_alloc-jupyter.json"


def seen(directory: Path) -> dict[str, bytes | str]:
    """Contents by name, the reason in place of one that can't be read."""
    files = cdi_dir.observe_cdi(str(directory))
    assert not isinstance(files, Unreadable), files
    return {f.name: f.content.why if isinstance(f.content, Unreadable) else f.content for f in files}


def test_no_directory_is_an_empty_one(tmp_path: Path) -> None:
    assert cdi_dir.observe_cdi(str(tmp_path / "cdi")) == ()


def test_a_directory_that_cannot_be_listed_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "cdi").write_text("")
    assert cdi_dir.observe_cdi(str(tmp_path / "cdi")) == Unreadable(
        path=str(tmp_path / "cdi"), why="Not a directory"
    )


def test_only_files_of_our_names_and_kind_are_ours_sorted(tmp_path: Path) -> None:
    for name in (CLAIM, ALLOC, "intel.com-gpu.yaml", "intel.com-gpu-mei.yaml", "intel.com-gpu_claim-1.yaml"):
        (tmp_path / name).write_bytes(OURS)
    (tmp_path / "nvidia.json").write_bytes(OURS)
    (tmp_path / "intel.com-gpu_claim-.json").write_bytes(OURS)
    (tmp_path / "intel.com-gpu_claim-other.json").write_bytes(b'{"kind": "intel.com/npu"}')
    assert cdi_dir.observe_cdi(str(tmp_path)) == (
        CdiFileSeen(name=ALLOC, content=OURS),
        CdiFileSeen(name=CLAIM, content=OURS),
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"kind": 3}', b'{"kind": "\xff"}', b"\x00" * 10])
def test_what_cannot_be_parsed_is_ours_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CLAIM).write_bytes(content)
    assert seen(tmp_path) == {CLAIM: content}


def test_what_is_no_plain_file_of_reasonable_size_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "intel.com-gpu_claim-directory.json").mkdir()
    (tmp_path / "intel.com-gpu_claim-link.json").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "intel.com-gpu_claim-pipe.json")
    (tmp_path / "intel.com-gpu_claim-long.json").write_bytes(b" " * (cdi_dir.SIZE_LIMIT + 1))
    assert seen(tmp_path) == {
        "intel.com-gpu_claim-directory.json": "is a directory",
        "intel.com-gpu_claim-link.json": "is a symbolic link",
        "intel.com-gpu_claim-long.json": "is longer than 1048576 bytes",
        "intel.com-gpu_claim-pipe.json": "is not a regular file",
    }


def test_writing_makes_the_directory_and_files_that_everybody_may_read(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "cdi"
    umask = os.umask(0o077)
    try:
        cdi_dir.write_spec(str(directory), CLAIM, b"{}")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert stat.S_IMODE((directory / CLAIM).stat().st_mode) == 0o644


def test_writing_replaces_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    cdi_dir.write_spec(str(tmp_path), CLAIM, b"old and longer")
    cdi_dir.write_spec(str(tmp_path), CLAIM, OURS)
    assert seen(tmp_path) == {CLAIM: OURS}
    assert os.listdir(tmp_path) == [CLAIM]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700  # a directory that was there keeps its mode


def test_removing_is_repeatable_and_leaves_others_alone(tmp_path: Path) -> None:
    (tmp_path / CLAIM).write_bytes(OURS)
    (tmp_path / ALLOC).write_bytes(OURS)
    cdi_dir.remove_spec(str(tmp_path), CLAIM)
    cdi_dir.remove_spec(str(tmp_path), CLAIM)
    assert os.listdir(tmp_path) == [ALLOC]
    cdi_dir.remove_spec(str(tmp_path / "absent"), CLAIM)


@pytest.mark.parametrize(
    "name", ["intel.com-gpu.yaml", "../intel.com-gpu_claim-1.json", "intel.com-gpu_claim-/x.json"]
)
def test_names_that_are_not_ours_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a CDI spec of ours"):
        cdi_dir.write_spec(str(tmp_path), name, OURS)
    with pytest.raises(ValueError, match="no name of a CDI spec of ours"):
        cdi_dir.remove_spec(str(tmp_path), name)


def test_leftovers_of_a_killed_writer_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".tmp-12-34-56").write_bytes(b"half")
    (tmp_path / ".tmp-of-somebody").write_bytes(b"")
    (tmp_path / CLAIM).write_bytes(OURS)
    assert cdi_dir.sweep(str(tmp_path)) == (".tmp-12-34-56",)
    assert sorted(os.listdir(tmp_path)) == [".tmp-of-somebody", CLAIM]
    assert cdi_dir.sweep(str(tmp_path / "absent")) == ()


def test_untouched_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cdi_dir.write_spec(str(tmp_path), ALLOC, b"1")
    cdi_dir.write_spec(str(tmp_path), CLAIM, b"2")
    directory = cdi_dir.CdiDirectory(str(tmp_path))
    first = directory.observe()

    def refuse(path: Path, limit: int) -> bytes:
        raise AssertionError(f"{path} is read")

    with monkeypatch.context() as patched:
        patched.setattr("reconciler.node.cdi_dir.files.read_bounded", refuse)
        assert directory.observe() == first
        with pytest.raises(AssertionError, match="is read"):
            directory.observe(anew=True)
    assert directory.observe(anew=True) == first


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    cdi_dir.write_spec(str(tmp_path), ALLOC, b"1")
    directory = cdi_dir.CdiDirectory(str(tmp_path))
    directory.observe()
    cdi_dir.write_spec(str(tmp_path), ALLOC, b"2")  # another inode
    assert directory.observe() == cdi_dir.observe_cdi(str(tmp_path)) == (CdiFileSeen(name=ALLOC, content=b"2"),)
    (tmp_path / ALLOC).write_bytes(b"33")  # the same inode, another size
    assert directory.observe() == (CdiFileSeen(name=ALLOC, content=b"33"),)
    (tmp_path / ALLOC).unlink()
    assert directory.observe() == ()


def test_nesting_without_end_is_ours_to_mend(tmp_path: Path) -> None:
    content = b'{"x":' + b"[" * 100_000
    cdi_dir.write_spec(str(tmp_path), ALLOC, content)
    assert cdi_dir.observe_cdi(str(tmp_path)) == (CdiFileSeen(name=ALLOC, content=content),)
