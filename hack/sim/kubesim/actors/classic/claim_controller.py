"""The controller of ResourceClaims where drivers' controllers allocate: claims of templates, consumers gone."""

from collections.abc import Callable

from kubesim import Cluster, Refusal
from kubesim.actors import reservations
from kubesim.actors.api import Api, deleting, finished, owner
from kubesim.actors.classic import forms
from kubesim.actors.reservations import POD_CLAIM, allocated, consumers
from kubesim.values import Object, at, copy, objects


class ClassicClaimController:
    """Level-triggered: every step looks at every pod and claim."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = Api(cluster, "resource_claim")
        self._generates = cluster.release.generates_claim_names
        self._told: set[tuple[str, str]] = set()

    def step(self) -> float | None:
        """Do what is to do; only a change gives more."""
        for pod in self._api.all("pods"):
            if not finished(pod) and not deleting(pod):
                self._try(self._make_claims, pod)
        for claim in self._api.all("resourceclaims"):
            self._try(self._tidy, claim)
        return None

    def _try(self, act: Callable[[Object], None], seen: Object) -> None:
        try:
            act(seen)
        except Refusal as refusal:
            if refusal.code not in (403, 404, 409):
                raise  # what changed meanwhile is looked at in the next step

    def _make_claims(self, pod: Object) -> None:
        """Make the claims of a pod's templates; with names of their own, say in its status which they are."""
        known = {each["name"]: each for each in objects(at(pod, "status", "resourceClaimStatuses"))}
        made = []
        for name, source in reservations.sources(pod):
            template = source.get("resourceClaimTemplateName")
            if not template or name in known:
                continue
            claim = self._made_before(pod, name) or self._made(pod, name, template)
            if claim is not None:
                made.append({"name": name, "resourceClaimName": claim["metadata"]["name"]})
        if made and self._generates:
            statuses = copy([*known.values(), *made])
            self._api.patch("pods", pod, {"status": {"resourceClaimStatuses": statuses}}, "status")

    def _made_before(self, pod: Object, name: str) -> Object | None:
        meta = pod["metadata"]
        if not self._generates:
            found = self._api.find("resourceclaims", meta["namespace"], f"{meta['name']}-{name}")
            if found is not None and owner(found).get("uid") != meta["uid"]:
                self._complain(
                    pod, name, f'ResourceClaim "{found["metadata"]["name"]}" was not created for this pod'
                )
            return found
        for claim in self._api.all("resourceclaims"):
            annotated = at(claim, "metadata", "annotations", POD_CLAIM) == name
            if annotated and owner(claim).get("uid") == meta["uid"] and not deleting(claim):
                return claim
        return None

    def _made(self, pod: Object, name: str, template_name: str) -> Object | None:
        meta = pod["metadata"]
        template = self._api.find("resourceclaimtemplates", meta["namespace"], template_name)
        if template is None:
            self._complain(pod, name, f'resource claim template "{template_name}" not found')
            return None
        wanted = at(template, "spec", "metadata") or {}
        annotations = wanted.get("annotations") or {}
        own_name = (
            {"generateName": f"{meta['name']}-{name}-"} if self._generates else {"name": f"{meta['name']}-{name}"}
        )
        reference = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        body = {
            "metadata": {
                **own_name,
                "labels": wanted.get("labels") or {},
                "annotations": {**annotations, POD_CLAIM: name} if self._generates else annotations,
                "ownerReferences": [{**reference, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": copy(template["spec"]["spec"]),
        }
        return self._api.create("resourceclaims", meta["namespace"], body)

    def _complain(self, pod: Object, name: str, why: str) -> None:
        """Tell people, once."""
        if (pod["metadata"]["uid"], name) not in self._told:
            self._told.add((pod["metadata"]["uid"], name))
            text = f'PodResourceClaim "{name}": {why}'
            self._api.event(pod, "Warning", "FailedResourceClaimCreation", text)

    def _tidy(self, claim: Object) -> None:
        """Take away what is reserved for pods that are gone or done. The driver's controller does the rest.

        Since 1.28 it is asked to, if a claim was allocated for a consumer; and claims of done pods are deleted.
        """
        before = consumers(claim)
        needed = [each for each in before if self._needs(claim["metadata"]["namespace"], each)]
        if len(needed) < len(before):
            status: Object = {"reservedFor": needed or None}
            if self._generates and not needed and allocated(claim) and forms.delayed(claim):
                status["deallocationRequested"] = True
            claim = self._api.patch("resourceclaims", claim, {"status": status}, "status")
        if self._generates and not needed and not deleting(claim) and self._pod_is_done(claim):
            self._api.delete("resourceclaims", claim)

    def _needs(self, namespace: str, consumer: Object) -> bool:
        """Whether a pod still uses what is reserved for it: it is there, not done, not deleted before it ran."""
        if consumer.get("resource") != "pods":
            return True
        pod = self._api.find("pods", namespace, consumer["name"])
        if pod is None or pod["metadata"]["uid"] != consumer["uid"] or finished(pod):
            return False
        return not (deleting(pod) and not pod["spec"].get("nodeName"))

    def _pod_is_done(self, claim: Object) -> bool:
        """Whether a claim was made for one pod that is done or gone."""
        if POD_CLAIM not in (at(claim, "metadata", "annotations") or {}):
            return False
        reference = owner(claim)
        pod = self._api.find("pods", claim["metadata"]["namespace"], reference.get("name", ""))
        return pod is None or pod["metadata"]["uid"] != reference["uid"] or finished(pod)
