"""What the controller counts, for Prometheus."""

from __future__ import annotations

from reconciler.runtime.kube.measures import DECLARED as KUBE_DECLARED
from reconciler.runtime.metrics import Kind, Metric

ROUNDS = "gpu_controller_rounds_total"
ROUND_SECONDS = "gpu_controller_round_seconds"
WRITES = "gpu_controller_writes_total"
LOOKS = "gpu_controller_live_looks_total"
LISTS = "gpu_controller_lists_total"
REFUSALS = "gpu_controller_refusals_total"
NEGOTIATIONS = "gpu_controller_negotiations_total"
NEGOTIATION_SECONDS = "gpu_controller_negotiation_seconds"
LEADING = "gpu_controller_leading"
NODES = "gpu_controller_nodes"
CLAIMS = "gpu_controller_claims"
WAITING = "gpu_controller_waiting_nodes"

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

DECLARED = (
    *KUBE_DECLARED,
    Metric(name=ROUNDS, help="Looks at a node, by result.", kind=Kind.COUNTER, labels=("result",)),
    Metric(name=ROUND_SECONDS, help="Time a look at a node took.", kind=Kind.HISTOGRAM, buckets=_FAST),
    Metric(name=WRITES, help="Writes of a node's spec, by result.", kind=Kind.COUNTER, labels=("result",)),
    Metric(name=LOOKS, help="Claims read anew before a decision.", kind=Kind.COUNTER),
    Metric(
        name=LISTS, help="Lists of all claims for withdrawals, by result.", kind=Kind.COUNTER, labels=("result",)
    ),
    Metric(name=REFUSALS, help="Claims refused.", kind=Kind.COUNTER),
    Metric(
        name=NEGOTIATIONS,
        help="Turns of pods and claims of classic DRA, by result.",
        kind=Kind.COUNTER,
        labels=("about", "result"),
    ),
    Metric(
        name=NEGOTIATION_SECONDS,
        help="Time a turn of a pod or claim of classic DRA took.",
        kind=Kind.HISTOGRAM,
        labels=("about",),
        buckets=_FAST,
    ),
    Metric(name=LEADING, help="1 while this replica leads, else 0.", kind=Kind.GAUGE),
    Metric(name=NODES, help="GpuNodeStates known.", kind=Kind.GAUGE),
    Metric(name=CLAIMS, help="Claims known that have devices of ours.", kind=Kind.GAUGE),
    Metric(name=WAITING, help="Nodes waiting to be looked at.", kind=Kind.GAUGE),
)
