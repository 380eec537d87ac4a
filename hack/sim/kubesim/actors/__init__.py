"""The rest of a cluster, as far as a driver of devices meets it: scheduler, controllers and kubelets."""

from kubesim import Cluster
from kubesim.actors.claim_controller import ClaimController
from kubesim.actors.classic.claim_controller import ClassicClaimController
from kubesim.actors.classic.scheduler import ClassicScheduler
from kubesim.actors.eviction import TaintEviction
from kubesim.actors.running import Actor, acting, settle
from kubesim.actors.scheduler import Scheduler
from kubesim.actors.timing import RECORDED, Timing
from kubesim.actors.workloads import Workloads

__all__ = [
    "RECORDED",
    "Actor",
    "ClaimController",
    "ClassicClaimController",
    "ClassicScheduler",
    "Scheduler",
    "TaintEviction",
    "Timing",
    "Workloads",
    "acting",
    "control_plane",
    "settle",
]


def control_plane(cluster: Cluster, timing: Timing = RECORDED, *, immediate: bool = False) -> tuple[Actor, ...]:
    """All actors that work without a node; `immediate` allocates claims that no pod uses, too.

    On a classic cluster these are those which leave allocation to drivers' controllers, the scheduler first: like
    the recorded one it sees a pod before the pod's claims are there.
    """
    if cluster.release.classic:
        return Workloads(cluster), ClassicScheduler(cluster, timing), ClassicClaimController(cluster)
    return (
        Workloads(cluster),
        ClaimController(cluster),
        Scheduler(cluster, timing, immediate=immediate),
        TaintEviction(cluster, timing),
    )
