"""Atomic writing and untrusting reading, on real files."""

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.runtime.files import FileRefused, read_bounded, remove_durable, sweep_temporaries, write_atomic


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "node.json"
    write_atomic(path, b"old", durable=durable)
    write_atomic(path, b"new", durable=durable)
    assert read_bounded(path, 3) == b"new"
    assert os.listdir(tmp_path) == ["node.json"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), limit=st.integers(0, 300))
def test_a_file_is_read_whole_or_refused(tmp_path: Path, data: bytes, limit: int) -> None:
    path = tmp_path / "f"
    write_atomic(path, data, durable=False)
    if len(data) <= limit:
        assert read_bounded(path, limit) == data
    else:
        with pytest.raises(FileRefused, match=f"longer than {limit} bytes") as caught:
            read_bounded(path, limit)
        assert caught.value.errno == errno.EFBIG


def test_permissions_are_as_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "f", b"", mode=0o664, durable=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o664


def test_a_symbolic_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"untouched")
    (tmp_path / "f").symlink_to(tmp_path / "victim")
    write_atomic(tmp_path / "f", b"mine", durable=True)
    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert not (tmp_path / "f").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys; from pathlib import Path;"
        "from reconciler.runtime.files import write_atomic;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "\ntry: write_atomic(Path(sys.argv[1]), bytes(5000), durable=True)"
        "\nexcept OSError as error: print(error.errno, error.filename)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG), str(path)]
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_rename_that_fails_names_the_file_and_cleans_up(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomic(tmp_path / "d", b"x", durable=False)
    assert caught.value.filename == str(tmp_path / "d")
    assert os.listdir(tmp_path) == ["d"]


def test_writing_into_an_absent_directory_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "no" / "f", b"x", durable=True)
    assert caught.value.filename == str(tmp_path / "no" / "f")


@pytest.mark.parametrize("durable", [False, True])
def test_durable_means_content_before_name_and_name_before_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    calls: list[str] = []
    fsync, rename, unlink = os.fsync, os.rename, os.unlink

    def noted_fsync(file: int) -> None:
        calls.append("sync directory" if stat.S_ISDIR(os.fstat(file).st_mode) else "sync file")
        fsync(file)

    def noted_rename(source: Path, target: Path) -> None:
        calls.append("rename")
        rename(source, target)

    def noted_unlink(path: Path) -> None:
        calls.append("unlink")
        unlink(path)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    monkeypatch.setattr(os, "unlink", noted_unlink)
    write_atomic(tmp_path / "f", b"x", durable=durable)
    remove_durable(tmp_path / "f", durable=durable)
    remove_durable(tmp_path / "f", durable=durable)  # absent already, perhaps not yet for good
    everything = ["sync file", "rename", "sync directory", *["unlink", "sync directory"] * 2]
    assert calls == [call for call in everything if durable or "sync" not in call]


def test_readers_see_old_or_new_and_never_a_part(tmp_path: Path) -> None:
    path = tmp_path / "f"
    contents = [bytes([number]) * 50_000 for number in range(4)]
    write_atomic(path, contents[0], durable=False)

    def write_often(content: bytes) -> None:
        for _ in range(25):
            write_atomic(path, content, durable=False)

    threads = [threading.Thread(target=write_often, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert read_bounded(path, 50_000) in contents
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("durable", [False, True])
def test_removing_says_whether_there_was_something(tmp_path: Path, durable: bool) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert remove_durable(tmp_path / "f", durable=durable)
    assert not remove_durable(tmp_path / "f", durable=durable)
    assert not remove_durable(tmp_path / "no" / "f", durable=durable)
    with pytest.raises(OSError, match=str(tmp_path)):
        remove_durable(tmp_path, durable=durable)


def test_odd_files_are_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir").mkdir()
    cases = {"fifo": errno.EINVAL, "dir": errno.EISDIR, "absent": errno.ENOENT}
    for name, number in cases.items():
        for follow in (False, True):
            with pytest.raises(FileRefused, match=name) as caught:
                read_bounded(tmp_path / name, 10, follow=follow)
            assert caught.value.errno == number
            assert caught.value.absent == (name == "absent")
    with pytest.raises(FileRefused, match="not a regular file"):
        read_bounded(Path("/dev/zero"), 10)


def test_what_is_no_file_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> int:
        raise AssertionError("opened")

    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(os, "open", never)
    with pytest.raises(FileRefused, match="not a regular file"):
        read_bounded(tmp_path / "fifo", 10)


def test_a_file_that_becomes_a_fifo_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    real_stat = os.stat

    def stat_then_swap(name: Path, *, follow_symlinks: bool) -> os.stat_result:
        status = real_stat(name, follow_symlinks=follow_symlinks)
        monkeypatch.undo()
        path.unlink()
        os.mkfifo(path)
        return status

    monkeypatch.setattr(os, "stat", stat_then_swap)
    with pytest.raises(FileRefused, match="not a regular file"):
        read_bounded(path, 10)


def test_links_are_followed_only_if_asked_and_only_to_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    for name in ("f", "fifo", "absent"):
        (tmp_path / f"to-{name}").symlink_to(name)
    with pytest.raises(FileRefused, match="symbolic link") as caught:
        read_bounded(tmp_path / "to-f", 10)
    assert caught.value.errno == errno.ELOOP
    assert read_bounded(tmp_path / "to-f", 10, follow=True) == b"x"
    with pytest.raises(FileRefused, match="not a regular file"):
        read_bounded(tmp_path / "to-fifo", 10, follow=True)
    with pytest.raises(FileRefused) as gone:
        read_bounded(tmp_path / "to-absent", 10, follow=True)
    assert gone.value.absent


def test_an_endless_file_of_size_zero_is_refused() -> None:
    """Files in /proc claim to be empty, so the limit must hold while reading, too."""
    path = Path("/proc/self/maps")
    assert path.stat().st_size == 0
    with pytest.raises(FileRefused, match="longer than 10 bytes"):
        read_bounded(path, 10)


def test_no_descriptor_is_lost(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        write_atomic(tmp_path / "g", b"x", durable=True)
        read_bounded(tmp_path / "f", 5)
        with pytest.raises(FileRefused):
            read_bounded(tmp_path / "f", 4)
    assert len(os.listdir("/proc/self/fd")) == before


def test_leftovers_of_a_killed_writer_are_swept_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from reconciler.runtime import files;"
        "files.os.rename = lambda *names: os.kill(os.getpid(), 9);"
        "files.write_atomic(Path(sys.argv[1]), b'half', durable=False)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "f"], check=False)
    assert done.returncode == -9
    for name in ("f.json", ".hidden", ".tmp-x", "tmp-1-2-3"):
        (tmp_path / name).write_bytes(b"")
    (left,) = (name for name in os.listdir(tmp_path) if name.startswith(".tmp-") and name != ".tmp-x")
    assert sweep_temporaries(tmp_path) == (left,)
    assert sorted(os.listdir(tmp_path)) == [".hidden", ".tmp-x", "f.json", "tmp-1-2-3"]
    assert sweep_temporaries(tmp_path / "absent") == ()


def test_running_out_of_descriptors_keeps_the_errno(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(FileRefused) as caught:
            read_bounded(tmp_path / "f", 10)
        with pytest.raises(OSError, match=str(tmp_path)) as written:
            write_atomic(tmp_path / "f", b"y", durable=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == written.value.errno == errno.EMFILE
    assert not caught.value.absent
    assert (tmp_path / "f").read_bytes() == b"x"
