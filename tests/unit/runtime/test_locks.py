"""Locks between processes: the other process is a real one."""

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reconciler.runtime.locks import FileLock, LockBusy

HOLD = (
    "import sys; from pathlib import Path; from reconciler.runtime.locks import FileLock;"
    "lock = FileLock(Path(sys.argv[1]), owner='the other'); print(lock.try_acquire(), flush=True);"
    "sys.stdin.read()"
)


def hold_elsewhere(path: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_one_holder_at_a_time_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    lock = FileLock(path)
    with hold_elsewhere(path) as other:
        assert not lock.try_acquire()
        assert lock.holder() == "the other"
        with pytest.raises(LockBusy, match="held by the other"), lock.hold():
            pass
        other.kill()
        other.wait()
    assert lock.try_acquire()
    assert lock.held
    lock.release()
    assert not lock.held


def test_waiting_ends_when_the_lock_is_let_go(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert first.try_acquire()
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(second.acquire(threading.Event(), every=0.005)))
    thread.start()
    first.release()
    thread.join(10)
    assert got == [True]
    assert not first.try_acquire()
    second.release()


def test_waiting_ends_when_asked_to(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    stop = threading.Event()
    with first.hold():
        got: list[bool] = []
        thread = threading.Thread(target=lambda: got.append(second.acquire(stop, every=60)))
        thread.start()
        stop.set()
        thread.join(10)
        assert got == [False]
    assert not second.held


def test_the_holder_says_who_it_is_also_after_a_longer_name(tmp_path: Path) -> None:
    long, short = FileLock(tmp_path / "l", owner="long " * 20), FileLock(tmp_path / "l", owner="me")
    with long.hold():
        pass
    with short.hold():
        assert long.holder() == "me"
    with FileLock(tmp_path / "l").hold():
        assert "pid " in short.holder()
    assert FileLock(tmp_path / "absent").holder() == ""


def test_a_lock_file_made_anew_is_locked_anew(tmp_path: Path) -> None:
    path = tmp_path / "l"
    first, second = FileLock(path), FileLock(path)
    assert first.try_acquire()
    path.unlink()
    assert second.try_acquire()
    first.release()
    assert not first.try_acquire()
    second.release()


def test_a_lock_file_removed_while_locking_guards_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l"
    flock = fcntl.flock
    removals = iter([path.unlink])

    def flock_of_a_file_just_removed(descriptor: int, operation: int) -> None:
        for remove in removals:
            remove()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_of_a_file_just_removed)
    lock = FileLock(path)
    assert lock.try_acquire()
    assert not FileLock(path).try_acquire()
    lock.release()


def test_holding_twice_is_a_mistake(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "l")
    with lock.hold(), pytest.raises(ValueError, match="already held"):
        lock.try_acquire()


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "no" / "l").try_acquire()
