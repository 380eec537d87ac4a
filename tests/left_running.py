"""What a test started and did not end: threads that would keep the process alive, and child processes."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The non-daemon threads and the child processes at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]


def running() -> Running:
    """What runs now. Children that have ended but that nobody waited for count too."""
    return Running(
        threads=frozenset(t for t in threading.enumerate() if not t.daemon),
        children=frozenset(
            int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in _read(file).split()
        ),
    )


def started_since(before: Running, patience_seconds: float) -> list[str]:
    """What was not there `before` and does not end within the given time, in words."""
    deadline = time.monotonic() + patience_seconds
    while True:
        now = running()
        left = [f"thread {thread.name}" for thread in now.threads - before.threads]
        left += [f"process {pid}: {_command_line(pid)}" for pid in now.children - before.children]
        if not left or time.monotonic() >= deadline:
            return sorted(left)
        time.sleep(0.01)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):  # the thread or process has just ended
        return ""


def _command_line(pid: int) -> str:
    return (
        _read(Path("/proc", str(pid), "cmdline")).replace("\0", " ").strip() or "ended, but nobody waited for it"
    )
