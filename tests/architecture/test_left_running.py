"""The look at what a test left running sees threads and processes, and lets daemons be."""

import os
import subprocess
import sys
import threading

from tests.left_running import running, started_since


def test_a_thread_counts_until_it_ends() -> None:
    before, stop = running(), threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()
    try:
        assert started_since(before, patience_seconds=0) == ["thread forgotten"]
    finally:
        stop.set()
    assert started_since(before, patience_seconds=30) == []


def test_a_daemon_thread_does_not_count() -> None:
    before, stop = running(), threading.Event()
    thread = threading.Thread(target=stop.wait, daemon=True)
    thread.start()
    assert started_since(before, patience_seconds=0) == []
    stop.set()
    thread.join()


def test_a_process_counts_until_somebody_waited_for_it() -> None:
    before = running()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        (left,) = started_since(before, patience_seconds=0)
        child.communicate(b"\n")
    assert left.startswith(f"process {child.pid}: ")
    assert started_since(before, patience_seconds=0) == []


def test_an_ended_process_counts_while_nobody_waited_for_it() -> None:
    before, pid = running(), os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert started_since(before, patience_seconds=0) == [f"process {pid}: ended, but nobody waited for it"]
    os.waitpid(pid, 0)
    assert started_since(before, patience_seconds=0) == []
