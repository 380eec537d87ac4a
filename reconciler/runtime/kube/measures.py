"""What is counted about talking to the API server, for Prometheus."""

from reconciler.runtime.metrics import Kind, Metric

REQUESTS = "kube_requests_total"
REQUEST_SECONDS = "kube_request_seconds"
RELISTS = "kube_relists_total"
WATCHES = "kube_watches_total"
WATCH_EVENTS = "kube_watch_events_total"
UNDECODABLE = "kube_undecodable_objects_total"
EVENTS = "kube_events_total"

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

DECLARED = (
    Metric(
        name=REQUESTS,
        help="Requests to the API server, by verb and HTTP status (none: no answer).",
        kind=Kind.COUNTER,
        labels=("verb", "code"),
    ),
    Metric(
        name=REQUEST_SECONDS,
        help="Time until the answer (watches: its head).",
        kind=Kind.HISTOGRAM,
        labels=("verb",),
        buckets=_BUCKETS,
    ),
    Metric(name=RELISTS, help="Complete lists for a cache.", kind=Kind.COUNTER, labels=("path",)),
    Metric(name=WATCHES, help="Watches opened.", kind=Kind.COUNTER, labels=("path",)),
    Metric(name=WATCH_EVENTS, help="Changes heard of.", kind=Kind.COUNTER, labels=("path",)),
    Metric(name=UNDECODABLE, help="Objects that could not be decoded.", kind=Kind.COUNTER, labels=("path",)),
    Metric(name=EVENTS, help="Kubernetes Events, by what became of them.", kind=Kind.COUNTER, labels=("result",)),
)
