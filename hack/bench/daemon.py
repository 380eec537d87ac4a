"""The real daemon and the commands, as processes: latency, processor time, memory, and how fast they start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hack.bench.figures import Figure, milliseconds
from hack.bench.machines import Site, allocation_of
from reconciler.node.status_file import read_status
from reconciler.runtime.files import FileRefused
from state.status import NodeStatus, StatusError

PATIENCE = 30.0
START_BUDGET_MS = 600.0
READY_BUDGET_MS, READY_P99_BUDGET_MS = 15.0, 60.0
RSS_BUDGET_MIB = 75.0
IDLE_BUDGET_PERCENT = 0.2
_LOOK_AGAIN = 0.0002


@contextlib.contextmanager
def running(site: Site, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """`gpu-reconciler run` on a machine; its log goes to a file beside it."""
    words = [
        "gpu-reconciler",
        "run",
        "-f",
        str(site.file),
        "--processes",
        "visible",
        "--log-level",
        "warning",
        *more,
    ]
    with open(site.where / "agent.log", "ab") as log:
        process = subprocess.Popen(words, env=_environment(site), stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def allocation_latency(site: Site, vfs: tuple[str, ...], *, times: int, budgets: bool) -> Figure:
    """From the desired-state file's renaming to Ready in the status file, with no hardware to change."""
    name = allocation_of(vfs[-1])
    took = []
    site.forget()
    site.want(vfs)
    with running(site, "--uevents", "off"):
        await_status(site, lambda status: phase_of(status, name) == "Ready")
        for _ in range(times):
            site.want(vfs[:-1])
            await_status(site, lambda status: phase_of(status, name) is None)
            began = time.perf_counter()
            site.want(vfs)
            took.append(await_status(site, lambda status: phase_of(status, name) == "Ready") - began)
    return milliseconds(
        f"allocation → Ready, {len(vfs)} in all",
        took,
        budget=READY_BUDGET_MS if budgets else None,
        budget_p99=READY_P99_BUDGET_MS if budgets else None,
        note="daemon, plain tree",
    )


def at_rest(site: Site, *, seconds: float) -> list[Figure]:
    """Processor time and memory of a daemon that has nothing to do, with an allocation of every VF."""
    site.forget()
    site.want(site.vfs)
    name = allocation_of(site.vfs[-1])
    with running(site, "--uevents", "off") as process:
        await_status(site, lambda status: phase_of(status, name) == "Ready")
        time.sleep(1.0)
        before = _processor_seconds(process.pid)
        time.sleep(seconds)
        used = _processor_seconds(process.pid) - before
        rss = _rss_mib(process.pid)
    count = len(site.vfs)
    return [
        Figure(
            name="idle processor time",
            samples=(100 * used / seconds,),
            unit="%",
            budget=IDLE_BUDGET_PERCENT,
            note=f"of one core over {seconds:.0f} s, {count} allocations"
            + (", one resync" if seconds >= 60 else ", no resync"),
        ),
        Figure(
            name="resident memory",
            samples=(rss,),
            unit="MiB",
            budget=RSS_BUDGET_MIB,
            note=f"{count} allocations, without metrics",
        ),
    ]


def cold_start(site: Site, *, times: int) -> Figure:
    """From starting the process to its first status file, with nothing of ours there but the records."""
    took = []
    for _ in range(times):
        Path(site.roots.status_file).unlink(missing_ok=True)
        began = time.perf_counter()
        with running(site, "--uevents", "off"):
            took.append(await_status(site, lambda _: True) - began)
    return milliseconds("cold start → first status", took, budget=START_BUDGET_MS, note="496 VFs")


def commands(site: Site, *, times: int) -> list[Figure]:
    """From start to end of commands that people wait for."""
    return [
        milliseconds(f"gpu-reconciler {words[0]}", [_run(site, *words) for _ in range(times)])
        for words in (("--help",), ("status",), ("discover",), ("plan", "-f", str(site.file)))
    ]


def await_status(site: Site, holds: Callable[[NodeStatus], bool]) -> float:
    """The moment at which the status file first says so, on the clock of time.perf_counter."""
    path = Path(site.roots.status_file)
    deadline = time.monotonic() + PATIENCE
    last = 0
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, FileRefused, StatusError):
            inode = os.stat(path).st_ino
            if inode != last:
                seen = time.perf_counter()
                if holds(read_status(path).status):
                    return seen
                last = inode
        time.sleep(_LOOK_AGAIN)
    raise TimeoutError(f"the status did not come to it:\n{(site.where / 'agent.log').read_text()}")


def phase_of(status: NodeStatus, name: str) -> str | None:
    """The phase of an allocation, None if the status doesn't have it."""
    return next((one.phase for one in status.allocations if one.name == name), None)


def _environment(site: Site) -> dict[str, str]:
    roots = site.roots
    return {
        **os.environ,
        "SYSFS_ROOT": roots.sysfs,
        "DEVFS_ROOT": roots.devfs,
        "PROCFS_ROOT": roots.procfs,
        "CDI_ROOT": roots.cdi,
        "RUN_DIR": roots.run,
        "STATE_DIR": roots.state,
    }


def _run(site: Site, *words: str) -> float:
    began = time.perf_counter()
    done = subprocess.run(["gpu-reconciler", *words], env=_environment(site), capture_output=True, check=False)
    took = time.perf_counter() - began
    if done.stderr:
        raise RuntimeError(f"gpu-reconciler {' '.join(words)}: {done.stderr.decode()}")
    return took


def _processor_seconds(pid: int) -> float:
    """Time on a processor, of all threads, to the nanosecond."""
    tasks = Path("/proc", str(pid), "task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def _rss_mib(pid: int) -> float:
    status = Path("/proc", str(pid), "status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
