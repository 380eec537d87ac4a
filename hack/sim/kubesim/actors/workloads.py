"""Deployments and replica sets: as many pods as are asked for, of the latest template; nothing is rolled out."""

import hashlib

from kubesim import Cluster, Refusal
from kubesim.actors.api import Api, deleting, finished, owner
from kubesim.values import Object, at, copy, sorted_text

HASH_LABEL = "pod-template-hash"


class Workloads:
    """Level-triggered: every step looks at every deployment and replica set."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = Api(cluster, "workloads")

    def step(self) -> float | None:
        """Do what is to do; only a change gives more."""
        try:
            for deployment in self._api.all("deployments"):
                if not deleting(deployment):
                    self._deploy(deployment)
            for replica_set in self._api.all("replicasets"):
                if not deleting(replica_set):
                    self._replicate(replica_set)
        except Refusal as refusal:
            if refusal.code not in (403, 404, 409):
                raise  # what changed meanwhile is looked at in the next step
        return None

    def _deploy(self, deployment: Object) -> None:
        """One replica set for the template as it is now; others go down to nothing."""
        spec = deployment["spec"]
        mark = hashlib.sha256(sorted_text(spec["template"]).encode()).hexdigest()[:10]
        name = f"{deployment['metadata']['name']}-{mark}"
        sets = self._owned("replicasets", deployment)
        current = next((each for each in sets if each["metadata"]["name"] == name), None)
        if current is None:
            current = self._api.create(
                "replicasets", deployment["metadata"]["namespace"], _set(deployment, name, mark)
            )
        for each in sets:
            wanted = spec["replicas"] if each["metadata"]["name"] == name else 0
            if each["spec"]["replicas"] != wanted:
                self._api.patch("replicasets", each, {"spec": {"replicas": wanted}})
        counts = {key: at(current, "status", key) or 0 for key in ("replicas", "readyReplicas")}
        self._say("deployments", deployment, {**counts, "availableReplicas": counts["readyReplicas"]})

    def _replicate(self, replica_set: Object) -> None:
        pods = [each for each in self._owned("pods", replica_set) if not deleting(each) and not finished(each)]
        wanted: int = replica_set["spec"]["replicas"]
        for _ in range(wanted - len(pods)):
            self._api.create("pods", replica_set["metadata"]["namespace"], _pod(replica_set))
        waiting_first = sorted(pods, key=lambda each: at(each, "status", "phase") == "Running")
        for each in waiting_first[: max(0, len(pods) - wanted)]:
            self._api.delete("pods", each)
        ready = sum(at(each, "status", "phase") == "Running" for each in pods)
        self._say("replicasets", replica_set, {"replicas": len(pods), "readyReplicas": ready})

    def _owned(self, plural: str, by: Object) -> list[Object]:
        return [each for each in self._api.all(plural) if owner(each).get("uid") == by["metadata"]["uid"]]

    def _say(self, plural: str, about: Object, counts: Object) -> None:
        status = {**counts, "observedGeneration": about["metadata"].get("generation", 1)}
        live = self._api.same(plural, about)
        if live is not None and any(at(live, "status", key) != value for key, value in status.items()):
            self._api.patch(plural, live, {"status": status}, "status")


def _owner_of(kind: str, by: Object) -> list[Object]:
    meta = by["metadata"]
    return [{"apiVersion": "apps/v1", "kind": kind, "name": meta["name"], "uid": meta["uid"], "controller": True}]


def _set(deployment: Object, name: str, mark: str) -> Object:
    template = copy(deployment["spec"]["template"])
    labels = {**(template["metadata"].get("labels") or {}), HASH_LABEL: mark}
    template["metadata"]["labels"] = labels
    return {
        "metadata": {"name": name, "labels": labels, "ownerReferences": _owner_of("Deployment", deployment)},
        "spec": {
            "replicas": deployment["spec"]["replicas"],
            "selector": {"matchLabels": labels},
            "template": template,
        },
    }


def _pod(replica_set: Object) -> Object:
    template = copy(replica_set["spec"]["template"])
    meta = {
        **template["metadata"],
        "generateName": f"{replica_set['metadata']['name']}-",
        "ownerReferences": _owner_of("ReplicaSet", replica_set),
    }
    return {"metadata": meta, "spec": template["spec"]}
