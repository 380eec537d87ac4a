"""Measure on a real cluster what hack/bench/run measures in a simulated one: pods from creation to Running.

Needs a kubeconfig, Kubernetes 1.34 or newer, and the driver on one node at least. Makes a namespace of its own,
ResourceClaimTemplates and pods in it, and deletes them again, also when interrupted. Times are those at which
watches told this process, so it should be near the API server; Prepare is in "Ready → Running".

Nobody has run this on a real cluster for doc/BENCHMARKS.md: the figures there are from simulated ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from hack.bench import cluster_pods, objects
from hack.bench.figures import Figure, as_json, as_table
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.config import Cluster, ConfigError
from reconciler.runtime.kube.connecting import connect
from reconciler.runtime.kube.errors import ApiError, NotFound

_NAMESPACES = "/api/v1/namespaces"


def main() -> int:
    """Exit status 1 if the cluster can't be reached, or pods don't run."""
    options = _parser().parse_args()
    try:
        client = connect(Cluster(user_agent="gpu-bench", kubeconfig=options.kubeconfig, context=options.context))
        with contextlib.closing(client):
            figures = list(_measure(client, options))
    except (ApiError, ConfigError, TimeoutError) as error:
        print(f"real-cluster: {error}", file=sys.stderr)
        return 1
    print(as_json(figures) if options.json else as_table(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/bench/real-cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--node", required=True, help="the node to measure on; pods are sent there")
    parser.add_argument("--kubeconfig", type=Path, help="default: KUBECONFIG, ~/.kube/config")
    parser.add_argument("--context", help="which context of it")
    parser.add_argument("--class", dest="device_class", default="gpu.intel.com", help="device class (%(default)s)")
    parser.add_argument(
        "--memory", default="", help="so much memory for each pod, as shared.gpu.intel.com needs it"
    )
    parser.add_argument("--select", default="", metavar="CEL", help="a selector, as a certain VF needs it")
    parser.add_argument(
        "--pods", type=int, action="append", metavar="N", help="so many at once (1); may be repeated"
    )
    parser.add_argument("--times", type=int, default=5, help="each burst so often (%(default)s)")
    parser.add_argument("--image", default=objects.IMAGE, help="what the pods run (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _measure(client: KubeClient, options: argparse.Namespace) -> Iterator[Figure]:
    spec = objects.claim_spec(options.device_class, memory=options.memory, selector=options.select)
    with _namespace(client) as namespace, cluster_pods.seen(client, options.node, namespace) as cluster:
        cluster.timeline.until([(f"node {options.node}", "there")], 30.0)
        cluster.add_template("claimed", spec)
        cluster.look = objects.Look(image=options.image, node=options.node)
        warm_up = ["warm-up"]
        cluster.run_pods(warm_up, "claimed")  # the image is pulled now
        cluster.delete_pods(warm_up)
        for pods in options.pods or [1]:
            for template, what in ((None, "no claim"), ("claimed", options.device_class)):
                yield from cluster_pods.burst(cluster, pods, template, options.times, what=what)


@contextlib.contextmanager
def _namespace(client: KubeClient) -> Iterator[str]:
    """A namespace, which goes with all that is in it."""
    name = f"gpu-bench-{uuid.uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {objects.LABEL: "true"}}}
    client.create(_NAMESPACES, json.dumps(body).encode())
    try:
        yield name
    finally:
        with contextlib.suppress(NotFound):
            client.delete(f"{_NAMESPACES}/{name}")


if __name__ == "__main__":
    sys.exit(main())
