"""Which claims a pod uses, and who has reserved which claim."""

from collections.abc import Iterator

from kubesim.actors.api import Api
from kubesim.values import Object, at, objects

PROTECTION = "resource.kubernetes.io/delete-protection"
POD_CLAIM = "resource.kubernetes.io/pod-claim-name"
EXTENDED_CLAIM = "resource.kubernetes.io/extended-resource-claim"


class Waiting(LookupError):
    """A pod's claim is not there; the text is what people are told."""


class NotMadeYet(Waiting):
    """The claim controller has not made a claim yet. Nobody is told: it will."""


def sources(pod: Object) -> Iterator[tuple[str, Object]]:
    """The pod's names for its claims and where they come from: `resourceClaimName` or `resourceClaimTemplateName`.

    Up to 1.30 that is nested in `source`.
    """
    for each in objects(pod["spec"].get("resourceClaims")):
        yield each["name"], each.get("source") or each


def claim_names(pod: Object, *, generated: bool = True) -> Iterator[tuple[str, str | None]]:
    """The pod's names for its claims and the claims' own; None for one that is still to be made.

    A claim of which the controller said that it is not needed is left out. Names that are not `generated` (before
    1.28) follow from the pod's, whether or not the claim is there.
    """
    made = {
        each["name"]: each.get("resourceClaimName") for each in objects(at(pod, "status", "resourceClaimStatuses"))
    }
    for name, source in sources(pod):
        if source.get("resourceClaimName"):
            yield name, source["resourceClaimName"]
        elif not generated:
            yield name, f"{pod['metadata']['name']}-{name}"
        elif name not in made:
            yield name, None
        elif made[name]:
            yield name, made[name]


def extended_claim_name(pod: Object) -> str | None:
    """The claim the scheduler made for extended resources."""
    name: str | None = at(pod, "status", "extendedResourceClaimStatus", "resourceClaimName")
    return name


def claims_of(pod: Object, api: Api) -> list[Object]:
    """The claims of a pod, in its order. Raises Waiting."""
    namespace, found = pod["metadata"]["namespace"], []
    for name, claim_name in claim_names(pod, generated=api.generated_names):
        if claim_name is None:
            raise NotMadeYet("waiting for dynamic resource controller to create the resourceclaim")
        claim = api.find("resourceclaims", namespace, claim_name)
        if claim is None:
            raise Waiting(f'resourceclaim "{claim_name}" not found')
        if _made_for_a_pod(claim, name) and not _belongs_to(claim, pod):
            raise Waiting(f'PodResourceClaim "{name}": ResourceClaim "{claim_name}" was not created for this pod')
        found.append(claim)
    extended = extended_claim_name(pod)
    if extended is not None and (claim := api.find("resourceclaims", namespace, extended)) is not None:
        found.append(claim)
    return found


def _made_for_a_pod(claim: Object, name: str) -> bool:
    return bool(at(claim, "metadata", "annotations", POD_CLAIM) == name)


def _belongs_to(claim: Object, pod: Object) -> bool:
    owners = objects(claim["metadata"].get("ownerReferences"))
    return any(each["uid"] == pod["metadata"]["uid"] for each in owners)


def consumers(claim: Object) -> list[Object]:
    return list(objects(at(claim, "status", "reservedFor")))


def allocated(claim: Object) -> bool:
    return at(claim, "status", "allocation") is not None


def reserved_for(claim: Object, pod: Object) -> bool:
    return any(each["uid"] == pod["metadata"]["uid"] for each in consumers(claim))


def with_consumer(claim: Object, pod: Object) -> list[Object]:
    """reservedFor with this pod too."""
    meta = pod["metadata"]
    return [*consumers(claim), {"resource": "pods", "name": meta["name"], "uid": meta["uid"]}]


def protected(claim: Object) -> bool:
    return PROTECTION in (claim["metadata"].get("finalizers") or ())


def deallocate(api: Api, claim: Object) -> Object:
    """Take back an allocation that nobody uses. Raises Refusal."""
    return api.patch(
        "resourceclaims", claim, {"status": {"allocation": None, "reservedFor": None, "devices": None}}, "status"
    )


def unprotect(api: Api, claim: Object) -> Object:
    """Take our finalizer away. Raises Refusal."""
    rest = [each for each in claim["metadata"]["finalizers"] if each != PROTECTION]
    return api.patch("resourceclaims", claim, {"metadata": {"finalizers": rest or None}})
