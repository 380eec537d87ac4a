"""Extended resources that a DeviceClass offers: `limits: {intel.com/gpu: 1}` without a claim (since 1.34)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kubesim.actors.api import Api, owner
from kubesim.actors.reservations import EXTENDED_CLAIM
from kubesim.quantities import quantity
from kubesim.values import Object, at, objects

IMPLICIT = "deviceclass.resource.kubernetes.io/"
SINCE = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a pod's containers ask of device classes: a claim's requests, and which is whose."""

    requests: tuple[Object, ...]
    mappings: tuple[Object, ...]

    def claim(self, pod: Object) -> Object:
        """The claim to make for it."""
        meta = pod["metadata"]
        return {
            "metadata": {
                "generateName": f"{meta['name']}-extended-resources-",
                "annotations": {EXTENDED_CLAIM: "true"},
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
            "spec": {"devices": {"requests": list(self.requests)}},
        }

    def status(self, claim: Object) -> Object:
        """pod.status.extendedResourceClaimStatus."""
        return {"requestMappings": list(self.mappings), "resourceClaimName": claim["metadata"]["name"]}


def demand(pod: Object, classes: Iterable[Object], node: Object) -> Demand | None:
    """What a pod asks of classes on a node; what a device plugin there offers is not asked of them."""
    known = _by_resource(classes)
    offered = at(node, "status", "allocatable") or {}
    requests, mappings = [], []
    for place, container in enumerate(_containers(pod)):
        wanted = (at(container, "resources", "requests") or {}) | (at(container, "resources", "limits") or {})
        asked = [name for name in sorted(wanted) if name in known and name not in offered]
        for number, resource in enumerate(asked):
            request = f"container-{place}-request-{number}"
            exactly = {
                "deviceClassName": known[resource],
                "allocationMode": "ExactCount",
                "count": int(quantity(wanted[resource])),
            }
            requests.append({"name": request, "exactly": exactly})
            mapping = {"containerName": container["name"], "resourceName": resource, "requestName": request}
            mappings.append(mapping)
    return Demand(requests=tuple(requests), mappings=tuple(mappings)) if requests else None


def _containers(pod: Object) -> Iterator[Object]:
    yield from objects(pod["spec"].get("initContainers"))
    yield from objects(pod["spec"].get("containers"))


def _by_resource(classes: Iterable[Object]) -> Mapping[str, str]:
    """Class names by extended resource; of two classes for one resource the newer wins, then the first by name."""
    ordered = sorted(classes, key=lambda each: each["metadata"]["name"], reverse=True)
    ordered.sort(key=lambda each: each["metadata"].get("creationTimestamp") or "")
    found = {}
    for each in ordered:
        name = each["metadata"]["name"]
        found[f"{IMPLICIT}{name}"] = name
        if each["spec"].get("extendedResourceName"):
            found[each["spec"]["extendedResourceName"]] = name
    return found


def made_for(pod: Object, api: Api) -> Object | None:
    """The claim that was made for a pod's extended resources, also if the pod's status does not say so yet."""
    for claim in api.all("resourceclaims"):
        annotated = at(claim, "metadata", "annotations", EXTENDED_CLAIM) == "true"
        if annotated and owner(claim).get("uid") == pod["metadata"]["uid"]:
            return claim
    return None
