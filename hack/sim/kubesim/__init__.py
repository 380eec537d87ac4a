"""A simulated Kubernetes API server for tests and demonstrations. It is not a cluster."""

from kubesim.access import ADMIN, ANONYMOUS, AllowAll, Attributes, Authorizer, User
from kubesim.clock import Clock, ManualClock, SystemClock
from kubesim.cluster import Cluster, Logged
from kubesim.faults import Fault, Rule
from kubesim.messages import Request, Response, Stream
from kubesim.refusals import Refusal
from kubesim.server import Served, serving
from kubesim.watching import Dropped, Watch

__all__ = [
    "ADMIN",
    "ANONYMOUS",
    "AllowAll",
    "Attributes",
    "Authorizer",
    "Clock",
    "Cluster",
    "Dropped",
    "Fault",
    "Logged",
    "ManualClock",
    "Refusal",
    "Request",
    "Response",
    "Rule",
    "Served",
    "Stream",
    "SystemClock",
    "User",
    "Watch",
    "serving",
]
