"""The rest of a cluster, as far as a driver of devices meets it: scheduler, controllers and kubelets."""

from kubesim import Cluster
from kubesim.actors.claim_controller import ClaimController
from kubesim.actors.eviction import TaintEviction
from kubesim.actors.running import Actor, acting, settle
from kubesim.actors.scheduler import Scheduler
from kubesim.actors.timing import RECORDED, Timing
from kubesim.actors.workloads import Workloads

__all__ = [
    "RECORDED",
    "Actor",
    "ClaimController",
    "Scheduler",
    "TaintEviction",
    "Timing",
    "Workloads",
    "acting",
    "control_plane",
    "settle",
]


def control_plane(cluster: Cluster, timing: Timing = RECORDED, *, immediate: bool = False) -> tuple[Actor, ...]:
    """All actors that work without a node; `immediate` allocates claims that no pod uses, too."""
    return (
        Workloads(cluster),
        ClaimController(cluster),
        Scheduler(cluster, timing, immediate=immediate),
        TaintEviction(cluster, timing),
    )
