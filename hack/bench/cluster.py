"""The whole driver in a simulated cluster, over a simulated kernel that takes as long as a real one.

`gpu-simulate --realistic --namespace` starts this module again inside, where the simulated machine is /sys and
its uevents are genuine. Each of simulated kernel, simulated cluster, controller, node agent, plugin, and whoever
measures, is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import gpusim
from hack.bench import cluster_pods, hops, machines, objects
from hack.bench.figures import Figure, milliseconds
from hack.bench.staff import NODE, Staff, staff_at
from reconciler.node.roots import Roots
from state.ids import PciAddress, device_name

MACHINE = "flex170-x8"
VFS = 4
"""The layout of the VF claims: mode m4."""


def on_a_plain_tree(where: Path, *, times: int, idle_seconds: float) -> Iterator[Figure]:
    """The hops from allocation to Ready on a machine that costs nothing to look at; then what all use at rest.

    Without a kubelet, too: the simulated one lives faster than a real one, and looks at sockets more often.
    """
    machine = gpusim.Machine(gpusim.load_machine(MACHINE))
    with machines.as_directories(machine, where / "tree") as site, staff_at(where / "staff", site.roots) as staff:
        yield from hops.figures(staff, str(site.gpus[0]), what="plain tree", times=times)
        yield from cluster_pods.at_rest(staff, idle_seconds)


def over_fuse(where: Path, parts: tuple[str, ...], *, more: int) -> list[Figure]:
    """The parts "hops", "pods" and "vfs", over the simulated kernel. Needs root and FUSE."""
    found = []
    for part in parts:
        here, results = where / part, where / f"{part}.json"
        here.mkdir(parents=True)
        simulate = ["gpu-simulate", MACHINE, "--at", str(here), "--realistic", "--namespace", "--"]
        words = [sys.executable, "-m", "hack.bench.cluster", part, str(here), str(results)]
        words += ["--more", str(more)]
        subprocess.run([*simulate, *words], check=True, timeout=600)
        found += [Figure(**{**one, "samples": tuple(one["samples"])}) for one in json.loads(results.read_text())]
    return found


def main() -> int:
    """Inside the namespace."""
    parser = argparse.ArgumentParser(prog="python -m hack.bench.cluster", description=__doc__)
    parser.add_argument("part", choices=("hops", "pods", "vfs"))
    parser.add_argument("where", type=Path, help="the simulated machine's directory")
    parser.add_argument("results", type=Path, help="where to write the figures, as JSON")
    parser.add_argument("--more", type=int, default=1)
    options = parser.parse_args()
    where: Path = options.where
    roots = Roots(
        devfs=str(where / "dev"), cdi=str(where / "cdi"), run=str(where / "run"), state=str(where / "lib")
    )
    with staff_at(where / "staff", roots) as staff:
        figures = list(_measure(options.part, staff, options.more))
    options.results.write_text(json.dumps([asdict(figure) for figure in figures]))
    return 0


def _measure(part: str, staff: Staff, more: int) -> Iterator[Figure]:
    match part:
        case "hops":
            gpu = gpusim.load_machine(MACHINE).gpus[0]
            name = str(device_name(PciAddress(gpu.address), gpu.device))
            yield from hops.figures(staff, name, what="FUSE", times=60 * more)
        case "pods":
            yield from cluster_pods.figures(staff, more=more)
        case _:
            yield from _vfs(staff, times=4 * more)


def _vfs(staff: Staff, *, times: int) -> Iterator[Figure]:
    """A pod with a VF of a GPU that has none, and its own share in it."""
    kernel = gpusim.REALISTIC.enable + VFS * gpusim.REALISTIC.probe
    staff.start_cluster(actors=True)
    staff.start_controller()
    staff.start_agent()
    staff.start_plugin()
    client = staff.client()
    spec = objects.claim_spec(
        "vf.gpu.intel.com", selector=f'device.attributes["gpu.intel.com"].profile == "m{VFS}"'
    )
    with cluster_pods.seen(client, NODE, cluster_pods.NAMESPACE) as cluster:
        cluster_pods.until_slices(client)
        cluster.add_template("vf", spec)
        rounds = []
        for number in range(times):
            names = [f"vf-{number}"]
            rounds += cluster.run_pods(names, "vf")
            cluster.delete_pods(names)
            cluster_pods.until_no_vfs(staff)
    client.close()
    whole = [one["running"] - one["created"] for one in rounds]
    yield milliseconds(f"1 pod, a VF made for it (none → {VFS}): create → Running", whole)
    made = [one["ready"] - one["entry"] for one in rounds]
    yield milliseconds("  entry → Ready published", made, note=f"the kernel's own time: {1000 * kernel:.0f} ms")
    over = [one - kernel for one in made]
    yield milliseconds("  our overhead above the kernel's own time", over, note="FUSE included")


if __name__ == "__main__":
    sys.exit(main())
