"""Passes of an agent in this process: how long they take, and which part takes how much."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from hack.bench.figures import Figure, milliseconds
from hack.bench.machines import Site
from reconciler.node import agent, agent_metrics, status_file
from reconciler.node.agent import DESIRED, FILES, Agent, Settings
from reconciler.node.apply_host import ApplyHost
from reconciler.node.cdi_dir import CdiDirectory
from reconciler.node.clock import Clock
from reconciler.node.desired_source import FileSource
from reconciler.node.observing import Observer
from reconciler.node.record_files import OwnershipFile
from reconciler.node.tables import load_tables
from reconciler.node.users import Visibility
from reconciler.node.workers import ThreadWorkers
from reconciler.runtime.loop import DUE, RESYNC
from reconciler.runtime.metrics import NoMetrics

NOOP_BUDGET_MS, ONE_MORE_BUDGET_MS = 100.0, 5.0
_PARTS: tuple[tuple[str, object, str], ...] = (
    ("desired file", FileSource, "latest"),
    ("look at GPUs", Observer, "look"),
    ("CDI directory", CdiDirectory, "observe"),
    ("records and marks", agent, "read_held"),
    ("records and marks", agent, "read_marks"),
    ("records and marks", OwnershipFile, "load"),
    ("resolve", agent, "resolve"),
    ("plan", agent, "plan"),
    ("summarise", agent, "summarise"),
    ("status encode", status_file, "encode_status"),
    ("status write", status_file, "write_atomic"),
)


class Bench:
    """An agent on a machine."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.processor_seconds = 0.0
        self._passes: list[agent.Pass] = []
        host = ApplyHost(roots=site.roots, clock=time.monotonic, stopping=lambda: False)
        self._agent = Agent(
            Settings(version="bench", visibility=Visibility.VISIBLE, patience=10.0),
            load_tables(site.roots.pci_ids),
            FileSource(site.file, cluster=False),
            host,
            ThreadWorkers(host, lambda _: None, lambda _: None),
            Clock(),
            NoMetrics(agent_metrics.DECLARED),
            followed=self._passes.append,
        )

    def once(self, *topics: str) -> float:
        """Seconds that one pass takes."""
        self._passes.clear()
        began, busy = time.perf_counter(), time.process_time()
        self._agent.one_pass(frozenset(topics))
        self.processor_seconds = time.process_time() - busy
        return time.perf_counter() - began

    def settle(self) -> None:
        """Passes until nothing is left to do, and everything is as wanted."""
        for _ in range(10):
            self.once(RESYNC, DESIRED, FILES)
            if not self._passes[-1].plan.actions:
                self.require_ready()
                return
        raise RuntimeError(f"no end of it: {self._passes[-1].plan.actions[:3]}")

    def require_ready(self) -> None:
        """Raise RuntimeError unless the last pass found all allocations ready and nothing to do."""
        last = self._passes[-1]
        phases = Counter(one.phase for one in last.status.allocations)
        if last.plan.actions or last.plan.blocked or set(phases) - {"Ready"}:
            raise RuntimeError(f"not converged: {phases}, {last.plan.actions[:3]}, {last.plan.blocked[:3]}")


def noop(site: Site, *, what: str, times: int, budget: float | None) -> list[Figure]:
    """A pass that looks everywhere and finds everything right."""
    bench = Bench(site)
    bench.settle()
    bench.once(RESYNC)
    whole, busy = [], []
    for _ in range(times):
        whole.append(bench.once(RESYNC))
        busy.append(bench.processor_seconds)
    bench.require_ready()
    figures = [
        milliseconds(f"no-op pass, {what}", whole, budget=budget),
        milliseconds("  processor time", busy),
    ]
    shares: dict[str, list[float]] = {}
    for _ in range(times):
        with _timed() as parts:
            parts["the rest"] = bench.once(RESYNC)
        parts["the rest"] -= sum(took for part, took in parts.items() if part != "the rest")
        for part, took in parts.items():
            shares.setdefault(part, []).append(took)
    figures += [milliseconds(f"  of it: {part}", took) for part, took in shares.items()]
    return figures


def one_more(site: Site, vfs: tuple[str, ...], *, times: int, budget: float | None) -> list[Figure]:
    """One allocation more in the file, on VFs that are there: a pass that writes its spec, one that sees it."""
    written, busy, seen = [], [], []
    site.want(vfs)
    bench = Bench(site)
    bench.settle()
    for _ in range(times):
        site.want(vfs[:-1])
        bench.settle()
        site.want(vfs)
        written.append(bench.once(DESIRED))
        busy.append(bench.processor_seconds)
        seen.append(bench.once(DUE))
        bench.require_ready()
    what = f"pass after one allocation, {len(vfs)} in all"
    return [
        milliseconds(what, written, budget=budget, note="writes the CDI spec"),
        milliseconds("  processor time", busy),
        milliseconds("  and the next", seen, budget=budget, note="sees it, says Ready"),
    ]


def syscalls(site: Site, *, what: str) -> Iterator[Figure]:
    """System calls of one no-op pass, from two runs under strace; nothing where there is no strace."""
    if not shutil.which("strace"):
        print("no strace: system calls are not counted", file=sys.stderr)
        return
    few, many = (_count_calls(site, passes) for passes in (2, 5))
    yield Figure(name=f"  system calls, {what}", samples=((many - few) / 3,), unit="", note="strace -c -f")


def _count_calls(site: Site, passes: int) -> float:
    table = site.where / "strace.txt"
    words = ["strace", "-c", "-f", "-o", str(table), sys.executable, "-m", "hack.bench.passes", str(passes)]
    described = json.dumps({"where": str(site.where), "roots": _roots(site)})
    subprocess.run(words, input=described, text=True, check=True, timeout=120)
    total = next(line for line in table.read_text().splitlines() if line.endswith(" total"))
    return float(total.split()[3])


def _roots(site: Site) -> dict[str, str]:
    names = ("sysfs", "devfs", "procfs", "cdi", "run", "state", "pci_ids")
    return {name: getattr(site.roots, name) for name in names}


def _under_strace() -> None:
    """No-op passes on the machine that standard input describes."""
    from reconciler.node.roots import Roots

    described = json.load(sys.stdin)
    site = Site(where=Path(described["where"]), roots=Roots(**described["roots"]), gpus=())
    bench = Bench(site)
    for _ in range(int(sys.argv[1])):
        bench.once(RESYNC)


@contextlib.contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Seconds spent in each part of the pass, while the context lasts. Parts don't nest."""
    parts: dict[str, float] = {}
    with contextlib.ExitStack() as patches:
        for part, owner, name in _PARTS:
            patches.enter_context(mock.patch.object(owner, name, _timing(part, getattr(owner, name), parts)))
        yield parts


def _timing(part: str, call: Callable[..., object], parts: dict[str, float]) -> Callable[..., object]:
    def timed(*positional: object, **named: object) -> object:
        began = time.perf_counter()
        try:
            return call(*positional, **named)
        finally:
            parts[part] = parts.get(part, 0.0) + time.perf_counter() - began

    return timed


if __name__ == "__main__":
    _under_strace()
