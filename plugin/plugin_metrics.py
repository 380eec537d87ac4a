"""What the plugin counts."""

from __future__ import annotations

from reconciler.runtime.metrics import Kind, Metric

PREPARE_SECONDS = "gpu_plugin_prepare_seconds"
PREPARED = "gpu_plugin_prepared_claims_total"
UNPREPARED = "gpu_plugin_unprepared_claims_total"
REGISTERED = "gpu_plugin_registered"

DECLARED = (
    Metric(
        name=PREPARE_SECONDS,
        help="Time to answer a call that prepares the claims of one pod, with all waiting.",
        kind=Kind.HISTOGRAM,
        labels=("service",),
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40),
    ),
    Metric(
        name=PREPARED,
        help="Claims that the kubelet asked to prepare, by how that ended: prepared or failed.",
        kind=Kind.COUNTER,
        labels=("service", "result"),
    ),
    Metric(
        name=UNPREPARED,
        help="Claims that the kubelet gave back, by how that ended: given back or failed.",
        kind=Kind.COUNTER,
        labels=("service", "result"),
    ),
    Metric(
        name=REGISTERED,
        help="1 while the kubelet has the driver registered.",
        kind=Kind.GAUGE,
        labels=("driver",),
    ),
)
