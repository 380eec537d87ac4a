"""How actors see the cluster and write to it: directly, without faults, and as anybody else by resourceVersion."""

from datetime import datetime
from typing import Literal

from kubesim import Cluster, Refusal
from kubesim.clock import timestamp
from kubesim.conversion import to_version
from kubesim.resources import Resource
from kubesim.values import Object, at, copy, objects

DEVICES = "resource.k8s.io"
CORE = ""
APPS = "apps"
GROUPS = {
    "deviceclasses": DEVICES,
    "devicetaintrules": DEVICES,
    "podschedulingcontexts": DEVICES,
    "podschedulings": DEVICES,
    "resourceclaims": DEVICES,
    "resourceclaimtemplates": DEVICES,
    "resourceclasses": DEVICES,
    "resourceslices": DEVICES,
    "deployments": APPS,
    "replicasets": APPS,
    "nodes": CORE,
    "pods": CORE,
    "events": CORE,
}
WATCHED = tuple((group, plural) for plural, group in GROUPS.items() if plural != "events")
Severity = Literal["Normal", "Warning"]


class Api:
    """One actor's view. Objects are in their stored form: since 1.31 that of resource.k8s.io/v1, whatever is
    served, before that the only one there is.
    """

    def __init__(self, cluster: Cluster, component: str) -> None:
        self.cluster = cluster
        self._component = component

    def now(self) -> datetime:
        return self.cluster.clock.now()

    def monotonic(self) -> float:
        return self.cluster.clock.monotonic()

    def time(self) -> str:
        """Now, as Kubernetes writes it."""
        return timestamp(self.now())

    def all(self, plural: str) -> list[Object]:
        """Every object of a kind, by namespace and name; none of a kind that is not served."""
        with self.cluster.unobserved() as state:
            return [each for _, each in state.store.all((GROUPS[plural], plural))]

    def find(self, plural: str, namespace: str, name: str) -> Object | None:
        with self.cluster.unobserved() as state:
            return state.store.get((GROUPS[plural], plural), (namespace, name))

    def same(self, plural: str, seen: Object) -> Object | None:
        """The object as it is now; None if it is gone or another one of its name is there."""
        found = self.find(plural, seen["metadata"].get("namespace", ""), seen["metadata"]["name"])
        return found if found is not None and found["metadata"]["uid"] == seen["metadata"]["uid"] else None

    @property
    def generated_names(self) -> bool:
        """Whether claims made from templates have random names, rather than ones that follow from their pods'."""
        return self.cluster.release.generates_claim_names

    def serves(self, plural: str) -> bool:
        with self.cluster.unobserved() as state:
            return (GROUPS[plural], plural) in state.resources

    def create(self, plural: str, namespace: str, body: Object) -> Object:
        """Create an object from its stored form. Raises Refusal."""
        resource = self._resource(plural)
        version = resource.versions[0]
        made = self.cluster.create(self._path(plural, namespace), to_version(resource, version, body))
        return self._stored(plural, made)

    def patch(self, plural: str, seen: Object, patch: Object, part: Literal["", "status"] = "") -> Object:
        """Merge into an object that must not have changed since it was seen. Raises Refusal (404, 409, 422)."""
        meta = seen["metadata"]
        same = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        path = self._path(plural, meta.get("namespace", ""), meta["name"])
        merged = {**patch, "metadata": {**patch.get("metadata", {}), **same}}
        return self._stored(plural, self.cluster.merge(f"{path}/{part}" if part else path, merged))

    def delete(self, plural: str, seen: Object, *, grace: int | None = None) -> None:
        """Raises Refusal (404)."""
        meta = seen["metadata"]
        query = "" if grace is None else f"?gracePeriodSeconds={grace}"
        self.cluster.delete(self._path(plural, meta.get("namespace", ""), meta["name"]) + query)

    def bind(self, pod: Object, node: str) -> None:
        """What POST …/pods/NAME/binding does (kubesim does not serve it). Raises Refusal (404, 409)."""
        with self.cluster.unobserved() as state:
            live = self.same("pods", pod)
            if live is None:
                raise Refusal(404, f'pods "{pod["metadata"]["name"]}" not found')
            if live["spec"].get("nodeName"):
                raise Refusal(409, f"pod {pod['metadata']['name']} is already assigned to a node")
            status = {key: value for key, value in live["status"].items() if key != "nominatedNodeName"}
            status["conditions"] = with_condition(live, condition("PodScheduled", "True", self.time()))
            key = (live["metadata"]["namespace"], live["metadata"]["name"])
            spec = {**live["spec"], "nodeName": node}
            state.store.put((CORE, "pods"), key, {**live, "spec": spec, "status": status})

    def event(self, pod: Object, severity: Severity, reason: str, message: str, *, host: str = "") -> None:
        """Tell people about a pod. A refusal (its namespace is going) is of no consequence."""
        meta, now = pod["metadata"], self.time()
        with self.cluster.unobserved() as state:
            name = f"{meta['name']}.{state.rng.getrandbits(64):016x}"
        about = {"kind": "Pod", "apiVersion": "v1"} | {key: meta[key] for key in ("namespace", "name", "uid")}
        source = {"component": self._component} | ({"host": host} if host else {})
        body = {
            "metadata": {"name": name},
            "involvedObject": about,
            "type": severity,
            "reason": reason,
            "message": message,
            "source": source,
            "reportingComponent": self._component,
            "reportingInstance": host,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self.cluster.create(self._path("events", meta["namespace"]), body)
        except Refusal as refusal:
            if refusal.code not in (403, 404):
                raise

    def new_uid(self) -> str:
        with self.cluster.unobserved() as state:
            return state.new_uid()

    def _resource(self, plural: str) -> Resource:
        with self.cluster.unobserved() as state:
            return state.resources[GROUPS[plural], plural]

    def _path(self, plural: str, namespace: str, name: str = "") -> str:
        resource = self._resource(plural)
        inside = f"namespaces/{namespace}/" if namespace else ""
        path = f"/{resource.base_path(resource.versions[0])}/{inside}{plural}"
        return f"{path}/{name}" if name else path

    def _stored(self, plural: str, answered: Object) -> Object:
        meta = answered["metadata"]
        return self.find(plural, meta.get("namespace", ""), meta["name"]) or answered


def condition(kind: str, status: str, time: str, *, reason: str = "", message: str = "") -> Object:
    """A pod's condition."""
    said = {"reason": reason, "message": message}
    return {
        "type": kind,
        "status": status,
        "lastProbeTime": None,
        "lastTransitionTime": time,
        **{key: text for key, text in said.items() if text},
    }


def with_condition(pod: Object, *changed: Object) -> list[Object]:
    """A pod's conditions with some of them set; times stay where the status does."""
    kept = {each["type"]: each for each in objects(at(pod, "status", "conditions"))}
    for each in changed:
        before = kept.get(each["type"])
        if before is not None and before["status"] == each["status"]:
            each = {**each, "lastTransitionTime": before["lastTransitionTime"]}
        kept[each["type"]] = each
    conditions: list[Object] = copy(list(kept.values()))
    return conditions


def finished(pod: Object) -> bool:
    return at(pod, "status", "phase") in ("Succeeded", "Failed")


def deleting(seen: Object) -> bool:
    return "deletionTimestamp" in seen["metadata"]


def owner(seen: Object) -> Object:
    """The controlling owner's reference, empty if there is none."""
    references = objects(seen["metadata"].get("ownerReferences"))
    return next((each for each in references if each.get("controller")), {})
