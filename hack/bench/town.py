"""The simulated cluster in a process of its own: API server, and if asked for a scheduler and one node's kubelet.

What it does takes processor time that a real cluster would spend elsewhere; it must not be that of the driver's
processes, nor of whoever measures.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path

import kubesim
from kubesim.actors import RECORDED, acting, control_plane
from kubesim.actors.kubelet import Kubelet

SPEED = 0.05
"""How long the actors' own waits are (retries, looks into the registry), of those of a real cluster."""


def main() -> int:
    """Serve until SIGTERM. Prints one line when it does."""
    parser = argparse.ArgumentParser(prog="python -m hack.bench.town", description=__doc__)
    parser.add_argument("where", type=Path, help="directory for the kubeconfig")
    parser.add_argument("--node", required=True)
    parser.add_argument("--kubelet-root", type=Path, help="run the node's kubelet there, and a scheduler")
    parser.add_argument("--cdi-root", type=Path, help="where that kubelet's runtime finds CDI files")
    parser.add_argument("--apply", type=Path, action="append", default=[])
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    cluster = kubesim.Cluster("1.36")
    for file in options.apply:
        cluster.load(file.read_text())
    metadata = {"name": options.node, "labels": {"kubernetes.io/hostname": options.node}}
    cluster.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    options.where.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as closing:
        served = closing.enter_context(kubesim.serving(cluster, options.where))
        if options.kubelet_root is not None:
            timing = RECORDED.scaled(SPEED)
            root, cdi = options.kubelet_root, (options.cdi_root,)
            kubelet = Kubelet(cluster, options.node, root=root, cdi_directories=cdi, timing=timing)
            closing.enter_context(kubelet.running())
            closing.enter_context(acting(cluster, *control_plane(cluster, timing)))
        print(served.kubeconfig, flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main())
