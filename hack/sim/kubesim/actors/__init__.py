"""The rest of a cluster, as far as a driver of devices meets it: scheduler, controllers and kubelets."""

from kubesim.actors.claim_controller import ClaimController
from kubesim.actors.eviction import TaintEviction
from kubesim.actors.running import Actor, acting, settle
from kubesim.actors.scheduler import Scheduler
from kubesim.actors.timing import Timing

__all__ = ["Actor", "ClaimController", "Scheduler", "TaintEviction", "Timing", "acting", "settle"]
