"""Watching directories with real inotify.

Events come from another thread, so waits have deadlines. That something wakes nobody is shown by an event behind
it in the same directory, which arrives alone.
"""

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.runtime.files import write_atomic
from reconciler.runtime.wakeups import WakeSet
from reconciler.runtime.watching import FileWatcher, Interest

FILE = "file"
BARRIERS = tuple(f"barrier-{number}" for number in range(10))


class Watched:
    """Somebody who watches node.json in a directory."""

    def __init__(self, directory: Path, names: frozenset[str] | None = frozenset({"node.json"})) -> None:
        self.directory = directory
        self.wakes = WakeSet()
        interests = [Interest(directory=directory, names=names, wake=lambda: self.wakes.wake(FILE))]
        for name in BARRIERS if names is not None else ():
            wake = lambda name=name: self.wakes.wake(name)  # noqa: E731
            interests.append(Interest(directory=directory, names=frozenset({name}), wake=wake))
        self.watcher = FileWatcher(tuple(interests))
        self.barriers = iter(BARRIERS)
        assert self.watcher.check()

    def woken_before_now(self) -> bool:
        """The file's topic came before that of a directory made now: a single event, and inotify keeps order."""
        barrier = next(self.barriers)
        (self.directory / barrier).mkdir()
        seen: frozenset[str] = frozenset()
        while barrier not in seen:
            taken = self.wakes.wait(10)
            assert taken, "inotify is silent"
            seen |= taken
        return FILE in seen

    def await_wake(self) -> None:
        while FILE not in (taken := self.wakes.wait(10)):
            assert taken, "no wake for the file"


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "d").mkdir()
    watched = Watched(tmp_path / "d")
    yield watched
    watched.watcher.stop()


def test_every_way_to_change_a_file_wakes(watched: Watched, tmp_path: Path) -> None:
    file = watched.directory / "node.json"
    write_atomic(file, b"1", durable=False)
    assert watched.woken_before_now()
    file.write_bytes(b"2")
    assert watched.woken_before_now()
    (tmp_path / "elsewhere").write_bytes(b"3")
    os.replace(tmp_path / "elsewhere", file)
    assert watched.woken_before_now()
    file.unlink()
    assert watched.woken_before_now()
    file.symlink_to("nothing")
    assert watched.woken_before_now()
    file.rename(watched.directory / "other")
    assert watched.woken_before_now()


def test_reading_wakes_nobody(watched: Watched) -> None:
    file = watched.directory / "node.json"
    file.write_bytes(b"1")
    assert watched.woken_before_now()
    for _ in range(3):
        file.read_bytes()
        file.stat()
        os.listdir(watched.directory)
    assert not watched.woken_before_now()


def test_other_files_wake_nobody(watched: Watched) -> None:
    write_atomic(watched.directory / "other.json", b"", durable=False)
    (watched.directory / "other.json").unlink()
    assert not watched.woken_before_now()


def test_a_file_moved_out_wakes(watched: Watched, tmp_path: Path) -> None:
    (watched.directory / "node.json").write_bytes(b"1")
    assert watched.woken_before_now()
    os.rename(watched.directory / "node.json", tmp_path / "away")
    watched.await_wake()  # watchdog waits half a second for the other half of the move


def test_all_names_but_hidden_ones(tmp_path: Path) -> None:
    watched = Watched(tmp_path, None)
    try:
        (tmp_path / ".tmp-1-2-3").mkdir()
        (tmp_path / "uid.json").mkdir()
        watched.await_wake()
        while watched.wakes.wait(0.05):
            pass
        (tmp_path / ".hidden").mkdir()
        assert not watched.wakes.wait(0.3)
    finally:
        watched.watcher.stop()


@pytest.mark.parametrize("missing", ["d", "a/b/d"])
def test_a_directory_made_later_is_watched(tmp_path: Path, missing: str) -> None:
    directory = tmp_path / missing
    watched = Watched(directory)
    try:
        directory.mkdir(parents=True)
        watched.await_wake()
        assert watched.watcher.check()
        settle(watched)
        write_atomic(directory / "node.json", b"1", durable=False)
        assert watched.woken_before_now()
    finally:
        watched.watcher.stop()


@pytest.mark.parametrize("how", ["removed", "renamed", "parent removed"])
def test_a_directory_made_anew_is_watched_anew(tmp_path: Path, how: str) -> None:
    parent = tmp_path / "p"
    directory = parent / "d"
    directory.mkdir(parents=True)
    watched = Watched(directory)
    try:
        for _ in range(3):
            if how == "renamed":
                directory.rename(tmp_path / f"old-{next(COUNTER)}")
            else:
                for barrier in directory.iterdir():
                    barrier.rmdir() if barrier.is_dir() else barrier.unlink()
                directory.rmdir()
            if how == "parent removed":
                parent.rmdir()
                parent.mkdir()
            directory.mkdir()
            watched.await_wake()
            assert watched.watcher.check()
            settle(watched)
            write_atomic(directory / "node.json", b"1", durable=False)
            assert watched.woken_before_now()
    finally:
        watched.watcher.stop()


COUNTER = itertools.count()


def settle(watched: Watched) -> None:
    """Be what a loop is: check whenever woken, until it is quiet."""
    while watched.wakes.wait(0.05):
        watched.watcher.check()


@pytest.mark.parametrize("path", ["to-d", "to-real/d"])
def test_a_directory_reached_through_a_link(tmp_path: Path, path: str) -> None:
    (tmp_path / "real" / "d").mkdir(parents=True)
    (tmp_path / "to-real").symlink_to("real")
    (tmp_path / "to-d").symlink_to("real/d")
    watched = Watched(tmp_path / path)
    try:
        write_atomic(tmp_path / "real" / "d" / "node.json", b"1", durable=False)
        assert watched.woken_before_now()
    finally:
        watched.watcher.stop()


LIMITED = """
import logging, resource, sys
from pathlib import Path
from reconciler.runtime.watching import FileWatcher, Interest
logging.basicConfig(format="%(levelname)s %(message)s %(path)s", stream=sys.stdout)
used = 3 + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (used, 100))
watcher = FileWatcher((Interest(directory=Path(sys.argv[1]), names=None, wake=lambda: None),))
print(watcher.check(), watcher.check())
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
print(watcher.check())
watcher.stop()
"""


def test_a_limit_is_one_warning_and_another_try_later(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED, tmp_path, "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if not line.startswith((" ", "Traceback", "OSError"))]
    assert lines == ["WARNING cannot watch, polling instead inotify", "False False", "True"], done.stdout


def test_a_directory_that_may_not_be_watched_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        return -1

    monkeypatch.setattr("watchdog.observers.inotify_c.inotify_add_watch", full)
    monkeypatch.setattr("watchdog.observers.inotify_c.ctypes.get_errno", lambda: 28)
    watcher = FileWatcher((Interest(directory=tmp_path, names=None, wake=lambda: None),))
    try:
        with caplog.at_level(logging.WARNING):
            assert not watcher.check()
            assert not watcher.check()
        texts = [record.getMessage() for record in caplog.records]
        assert texts == ["cannot watch, polling instead"] * 2  # one for the directory, one for its parent
        assert "inotify watch limit reached" in caplog.text
        monkeypatch.undo()
        assert watcher.check()
    finally:
        watcher.stop()


def test_after_stop_nothing_is_watched(tmp_path: Path) -> None:
    watcher = FileWatcher((Interest(directory=tmp_path, names=None, wake=lambda: None),))
    assert watcher.check()
    watcher.stop()
    watcher.stop()
    assert not watcher.check()
    never_started = FileWatcher(())
    never_started.stop()


names = st.lists(st.sampled_from(["a", "b", ".c", "..data"]), min_size=1, max_size=4)


@given(directory=names, path=names, wanted=st.frozensets(st.sampled_from(["a", "b"])))
def test_what_concerns_a_reader(directory: list[str], path: list[str], wanted: frozenset[str]) -> None:
    own, changed = Path("/", *directory), Path("/", *path)
    interest = Interest(directory=own, names=wanted, wake=lambda: None)
    inside = path[:-1] == directory and path[-1] in wanted
    above = directory[: len(path)] == path
    assert interest.concerned_by(changed) == (inside or above)
    every = Interest(directory=own, names=None, wake=lambda: None)
    assert every.concerned_by(changed) == (above or (path[:-1] == directory and path[-1][0] != "."))
