"""Measure, and print a table or JSON."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from gpusim import fuse_face
from hack.bench import classic, cluster, controller, daemon, kubelet, layouts, machines, passes
from hack.bench.figures import MISSED, Figure, as_json, as_table

PARTS = (
    *("passes", "fuse", "daemon", "layouts", "idle", "commands"),
    *("controller", "classic", "plugin"),
    *("hops", "hops-fuse", "pods", "vfs"),
)
_OVER_FUSE = {"hops-fuse": "hops", "pods": "pods", "vfs": "vfs"}
_NEED_MOUNTS = {"fuse", "layouts", *_OVER_FUSE}
_ON_FULL_MACHINE = {"passes", "fuse", "daemon", "idle", "commands"}


def main() -> int:
    """Exit status 0, whatever the numbers are; 1 with --strict when a budget is missed."""
    parser = argparse.ArgumentParser(prog="hack/bench/run", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} (all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--more", type=int, default=1, metavar="N", help="N times as many samples (1)")
    parser.add_argument(
        "--idle-seconds", type=float, default=30.0, metavar="S", help="how long to watch it idle (30)"
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 when a budget is missed")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))} (allowed: {', '.join(PARTS)})")
    chosen = frozenset(options.parts or PARTS)
    with machines.scratch() as where:
        figures = list(_measure(chosen, where, options.more, options.idle_seconds))
    print(as_json(figures) if options.json else as_table(figures))
    print(
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} (more than 1 means that others ran too)",
        file=sys.stderr,
    )
    return int(options.strict and any(figure.verdict == MISSED for figure in figures))


def _measure(chosen: frozenset[str], where: Path, more: int, idle_seconds: float) -> Iterator[Figure]:
    mounts = fuse_face.unavailable() is None and os.geteuid() == 0
    if not mounts and chosen & _NEED_MOUNTS:
        print(
            f"root and FUSE are needed, so left out: {', '.join(sorted(chosen & _NEED_MOUNTS))}", file=sys.stderr
        )
        chosen -= _NEED_MOUNTS
    if "controller" in chosen:
        for nodes in (500, 5000):
            yield from controller.in_a_cluster(where / f"controller-{nodes}", nodes=nodes, changes=100 * more)
    if "classic" in chosen:
        yield from classic.figures(where / "classic", more=more)
    if chosen & _ON_FULL_MACHINE:
        yield from _on_full_machine(chosen, where, more, idle_seconds)
    if "layouts" in chosen:
        yield from layouts.layout_changes(where / "layouts", times=2 * more)
    if "plugin" in chosen:
        yield from kubelet.figures(more=more)
    if "hops" in chosen:
        yield from cluster.on_a_plain_tree(where / "hops", times=100 * more, idle_seconds=idle_seconds)
    parts = tuple(inside for part, inside in _OVER_FUSE.items() if part in chosen)
    yield from cluster.over_fuse(where / "cluster", parts, more=more)


def _on_full_machine(chosen: frozenset[str], where: Path, more: int, idle_seconds: float) -> Iterator[Figure]:
    machine = machines.full_machine()
    gc.collect()
    gc.freeze()  # the simulator is no part of what is measured, and so neither is collecting its garbage
    with machines.as_directories(machine, where / "plain") as site:
        some, every = site.vfs[:8], site.vfs
        if "passes" in chosen:
            site.forget()
            site.want(every)
            yield from passes.noop(site, what="plain tree", times=20 * more, budget=passes.NOOP_BUDGET_MS)
            yield from passes.syscalls(site, what="plain tree")
            for vfs in (every, some):
                site.forget()
                yield from passes.one_more(site, vfs, times=15 * more, budget=passes.ONE_MORE_BUDGET_MS)
        if "daemon" in chosen:
            for vfs, budgets in ((some, True), (every, True)):
                yield daemon.allocation_latency(site, vfs, times=40 * more, budgets=budgets)
        if "idle" in chosen:
            yield from daemon.at_rest(site, seconds=idle_seconds)
        if "commands" in chosen:
            site.forget()
            site.want(every)
            yield daemon.cold_start(site, times=5 * more)
            yield from daemon.commands(site, times=5 * more)
    if "fuse" in chosen:
        with machines.over_fuse(machine, where / "fuse") as site:
            site.forget()
            site.want(site.vfs)
            yield from passes.noop(site, what="FUSE", times=3 * more, budget=None)


if __name__ == "__main__":
    sys.exit(main())
