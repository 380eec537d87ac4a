"""Which kind behaves how. Kinds that are not named are merely stored."""

from collections.abc import Mapping

from kubesim.kinds import classic_claims, core, definitions, device_claims, device_slices, workloads
from kubesim.kinds.behaviour import Behaviour

PLAIN = Behaviour()
DEVICES = "resource.k8s.io"
BEHAVIOURS: Mapping[tuple[str, str], Behaviour] = {
    ("", "configmaps"): core.CONFIG_MAP,
    ("", "events"): core.EVENT,
    ("", "namespaces"): core.NAMESPACE,
    ("", "nodes"): core.NODE,
    ("", "pods"): core.POD,
    ("", "secrets"): core.SECRET,
    ("apiextensions.k8s.io", "customresourcedefinitions"): definitions.BEHAVIOUR,
    ("apps", "daemonsets"): workloads.DAEMON_SET,
    ("apps", "deployments"): workloads.DEPLOYMENT,
    ("apps", "replicasets"): workloads.REPLICA_SET,
    ("events.k8s.io", "events"): core.EVENT,
    (DEVICES, "deviceclasses"): device_claims.CLASS,
    (DEVICES, "devicetaintrules"): device_slices.TAINT_RULE,
    (DEVICES, "resourceclaims"): device_claims.CLAIM,
    (DEVICES, "resourceclaimtemplates"): device_claims.TEMPLATE,
    (DEVICES, "resourceslices"): device_slices.SLICE,
}
CLASSIC: Mapping[tuple[str, str], Behaviour] = {
    (DEVICES, "podschedulingcontexts"): classic_claims.SCHEDULING,
    (DEVICES, "podschedulings"): classic_claims.SCHEDULING,
    (DEVICES, "resourceclaims"): classic_claims.CLAIM,
    (DEVICES, "resourceclaimtemplates"): classic_claims.TEMPLATE,
    (DEVICES, "resourceclasses"): classic_claims.CLASS,
    (DEVICES, "resourceslices"): PLAIN,
}
"""Up to 1.30."""


def behaviour_of(key: tuple[str, str], minor: int) -> Behaviour:
    """How a built-in kind behaves in a release."""
    if minor <= 30 and key in CLASSIC:
        return CLASSIC[key]
    return BEHAVIOURS.get(key, PLAIN)
