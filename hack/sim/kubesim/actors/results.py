"""An allocation as it is written into a claim's status."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from kubesim.actors.allocation import Chosen
from kubesim.actors.amounts import written
from kubesim.actors.nodes import name_of
from kubesim.values import Object, objects


def allocation(
    claim: Object,
    chosen: Sequence[Chosen],
    classes: Mapping[str, Object],
    node: Object,
    *,
    time: str | None,
    new_share: Callable[[], str],
) -> Object:
    """The allocation of one claim. `time` is None on servers that don't know allocationTimestamp (before 1.35)."""
    devices: Object = {"results": [_result(each, new_share) for each in chosen]}
    config = [*_class_config(chosen, classes), *_claim_config(claim, chosen)]
    if config:
        devices["config"] = config
    made: Object = {"devices": devices}
    selector = node_selector(chosen, node)
    if selector is not None:
        made["nodeSelector"] = selector
    if time is not None:
        made["allocationTimestamp"] = time
    return made


def _result(chosen: Chosen, new_share: Callable[[], str]) -> Object:
    device, ask = chosen.device, chosen.ask
    result: Object = {
        "request": ask.request,
        "driver": device.id.driver,
        "pool": device.id.pool,
        "device": device.id.device,
    }
    if ask.admin:
        result["adminAccess"] = True
    if ask.tolerations:
        result["tolerations"] = list(ask.tolerations)
    if device.binding_conditions:
        result["bindingConditions"] = list(device.binding_conditions)
        result["bindingFailureConditions"] = list(device.binding_failures)
    if device.shared:
        result["shareID"] = new_share()
        if chosen.amounts:
            result["consumedCapacity"] = {
                name: written(amount, binary=device.capacity[name].binary)
                for name, amount in sorted(chosen.amounts.items())
            }
    return result


def _class_config(chosen: Sequence[Chosen], classes: Mapping[str, Object]) -> Iterator[Object]:
    asks = {each.ask.request: each.ask for each in chosen}
    for request, ask in asks.items():
        for config in objects(classes[ask.class_name]["spec"].get("config")):
            yield {"source": "FromClass", "requests": [request], "opaque": config["opaque"]}


def _claim_config(claim: Object, chosen: Sequence[Chosen]) -> Iterator[Object]:
    names = {each.ask.request for each in chosen}
    known = names | {name.partition("/")[0] for name in names}
    for config in objects(claim["spec"]["devices"].get("config")):
        requests = config.get("requests") or []
        if not requests:
            yield {"source": "FromClaim", "opaque": config["opaque"]}
        elif known & set(requests):
            yield {"source": "FromClaim", "requests": requests, "opaque": config["opaque"]}


def node_selector(chosen: Sequence[Chosen], node: Object) -> Object | None:
    """Where the devices can be used: on this node if one of them is only there; None if everywhere."""
    places = [each.device.place for each in chosen]
    if any(place.get("nodeName") for place in places) or any(each.device.binds_to_node for each in chosen):
        only = {"key": "metadata.name", "operator": "In", "values": [name_of(node)]}
        return {"nodeSelectorTerms": [{"matchFields": [only]}]}
    merged: Object = {}
    for place in places:
        for term in objects((place.get("nodeSelector") or {}).get("nodeSelectorTerms")):
            for part, requirements in term.items():
                merged[part] = [*merged.get(part, []), *(r for r in requirements if r not in merged.get(part, []))]
    return {"nodeSelectorTerms": [merged]} if merged else None
