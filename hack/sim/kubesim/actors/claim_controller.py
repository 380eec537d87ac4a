"""The controller of ResourceClaims: claims from templates, reservations of pods that are gone, deallocation."""

from collections.abc import Callable

from kubesim import Cluster, Refusal
from kubesim.actors import reservations
from kubesim.actors.api import Api, deleting, finished, owner
from kubesim.actors.reservations import EXTENDED_CLAIM, POD_CLAIM, allocated, consumers
from kubesim.values import Object, at, copy, objects


class ClaimController:
    """Level-triggered: every step looks at every pod and claim."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = Api(cluster, "resource_claim")

    def step(self) -> float | None:
        """Do what is to do; only a change gives more."""
        for pod in self._api.all("pods"):
            if not finished(pod) and not deleting(pod):
                self._try(self._make_claims, pod)
                self._try(self._reserve, pod)
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
        """Make the claims of a pod's templates, and say in its status which they are."""
        known = {each["name"]: each for each in objects(at(pod, "status", "resourceClaimStatuses"))}
        if not pod["spec"].get("nodeName"):
            known = {name: each for name, each in known.items() if self._is_there(pod, each)}
        made = []
        for entry in objects(pod["spec"].get("resourceClaims")):
            template = entry.get("resourceClaimTemplateName")
            if template and entry["name"] not in known:
                claim = self._made_before(pod, entry["name"]) or self._made(pod, entry["name"], template)
                if claim is not None:
                    made.append({"name": entry["name"], "resourceClaimName": claim["metadata"]["name"]})
        if made:
            statuses = copy([*known.values(), *made])
            self._api.patch("pods", pod, {"status": {"resourceClaimStatuses": statuses}}, "status")

    def _is_there(self, pod: Object, status: Object) -> bool:
        """Whether the claim that was made, if one was needed, has not been deleted by somebody since."""
        name = status.get("resourceClaimName")
        return not name or self._api.find("resourceclaims", pod["metadata"]["namespace"], name) is not None

    def _made_before(self, pod: Object, name: str) -> Object | None:
        for claim in self._api.all("resourceclaims"):
            annotated = at(claim, "metadata", "annotations", POD_CLAIM) == name
            if annotated and owner(claim).get("uid") == pod["metadata"]["uid"] and not deleting(claim):
                return claim
        return None

    def _made(self, pod: Object, name: str, template_name: str) -> Object | None:
        meta = pod["metadata"]
        template = self._api.find("resourceclaimtemplates", meta["namespace"], template_name)
        if template is None:
            text = f'PodResourceClaim "{name}": resource claim template "{template_name}" not found'
            self._api.event(pod, "Warning", "FailedResourceClaimCreation", text)
            return None
        wanted = at(template, "spec", "metadata") or {}
        body = {
            "metadata": {
                "generateName": f"{meta['name']}-{name}-",
                "labels": wanted.get("labels") or {},
                "annotations": {**(wanted.get("annotations") or {}), POD_CLAIM: name},
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": meta["name"],
                        "uid": meta["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": copy(template["spec"]["spec"]),
        }
        return self._api.create("resourceclaims", meta["namespace"], body)

    def _reserve(self, pod: Object) -> None:
        """Reserve claims for a pod that is on its node without: somebody else put it there."""
        if not pod["spec"].get("nodeName"):
            return
        for _, name in reservations.claim_names(pod):
            claim = self._api.find("resourceclaims", pod["metadata"]["namespace"], name) if name else None
            if claim is not None and allocated(claim) and not reservations.reserved_for(claim, pod):
                reserved = {"status": {"reservedFor": reservations.with_consumer(claim, pod)}}
                self._api.patch("resourceclaims", claim, reserved, "status")

    def _tidy(self, claim: Object) -> None:
        """Drop reservations nobody needs; what nobody has reserved any more is deallocated and let go."""
        before = consumers(claim)
        needed = [each for each in before if self._needs(claim["metadata"]["namespace"], each)]
        abandoned = deleting(claim) or self._pod_is_done(claim)
        if not needed and (before or (abandoned and allocated(claim))):
            claim = reservations.deallocate(self._api, claim)
        elif len(needed) < len(before):
            claim = self._api.patch("resourceclaims", claim, {"status": {"reservedFor": needed}}, "status")
        if reservations.protected(claim) and not allocated(claim) and (before or abandoned) and not needed:
            claim = reservations.unprotect(self._api, claim)
        if not needed and self._pod_is_done(claim) and not deleting(claim):
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
        annotations = at(claim, "metadata", "annotations") or {}
        if POD_CLAIM not in annotations and annotations.get(EXTENDED_CLAIM) != "true":
            return False
        reference = owner(claim)
        pod = self._api.find("pods", claim["metadata"]["namespace"], reference.get("name", ""))
        return pod is None or pod["metadata"]["uid"] != reference["uid"] or finished(pod)
