"""The controller as a process, in clusters of two sizes: how long it takes to know all, what a change costs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.bench.big_cluster import BigCluster, serving
from hack.bench.figures import Figure, milliseconds

PATIENCE = 180.0
CLAIMS_PER_NODE = 10
_TICKS = os.sysconf("SC_CLK_TCK")


def in_a_cluster(where: Path, *, nodes: int, changes: int) -> Iterator[Figure]:
    """Start the controller in a cluster of `nodes` nodes, then allocate and delete claims one after the other."""
    cluster = BigCluster(nodes=nodes, claims_per_node=CLAIMS_PER_NODE)
    claims = nodes * CLAIMS_PER_NODE
    size = f"{nodes} nodes, {claims} claims"
    with serving(cluster) as address, running(where, address) as process:
        began = time.perf_counter()
        _change(cluster, changes, 0)  # it works only once all has been listed, and so the write is the sign
        listed = time.perf_counter() - began
        used = cpu_seconds(process.pid)
        yield Figure(
            name=f"start → all known, {size}", samples=(listed,), unit="s", note="the server's part included"
        )
        yield Figure(name=f"CPU per claim listed, {size}", samples=(1e6 * used / claims,), unit="µs")
        time.sleep(1.0)
        before, took = cpu_seconds(process.pid), []
        for number in range(changes):
            took += _change(cluster, number, number * 7 % nodes)
        used = cpu_seconds(process.pid) - before
        yield milliseconds(f"claim event → spec written, {size}", took, note="an add and a removal each")
        yield Figure(name=f"CPU per change, {size}", samples=(1000 * used / (2 * changes),), unit="ms")
        yield Figure(name=f"controller RSS, {size}", samples=(memory(process.pid, "VmRSS"),), unit="MiB")
        yield Figure(name=f"controller peak RSS, {size}", samples=(memory(process.pid, "VmHWM"),), unit="MiB")


def _change(cluster: BigCluster, number: int, node: int) -> list[float]:
    """A claim comes and goes; seconds until each has been written."""
    took = []
    name = ""
    for _ in range(2):
        began = time.perf_counter()
        if not name:
            name = cluster.new_claim(number, node)["metadata"]["name"]
        else:
            cluster.delete_claim(name)
        written = cluster.written.get(timeout=PATIENCE)
        took.append(time.perf_counter() - began)
        if written != f"node-{node:05}":
            raise RuntimeError(f"{written} was written for a change on node {node}")
    return took


@contextmanager
def running(where: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """The controller, against the API server at an address."""
    where.mkdir(parents=True, exist_ok=True)
    kubeconfig = where / "kubeconfig.yaml"
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}], "
        "contexts: [{name: c, context: {cluster: c, user: u}}], "
        f"clusters: [{{name: c, cluster: {{server: '{address}'}}}}]}}\n"
    )
    words = ("gpu-reconciler", "controller", "--kubeconfig", str(kubeconfig), "--log-level", "warning")
    with open(where / "controller.log", "ab") as log:
        process = subprocess.Popen(words, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def cpu_seconds(pid: int) -> float:
    """Time a process spent on processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory(pid: int, name: str) -> float:
    """MiB, by a name of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
