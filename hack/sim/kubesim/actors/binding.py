"""Binding conditions: what a device's driver must have said before a pod is bound to the device's node."""

from collections.abc import Iterator

from kubesim.values import Object, at, objects


def _results(claim: Object) -> Iterator[tuple[Object, dict[str, Object]]]:
    """Each allocated device and what its driver says of it, by type of condition."""
    said = {_identity(each): each for each in objects(at(claim, "status", "devices"))}
    for result in objects(at(claim, "status", "allocation", "devices", "results")):
        conditions = objects(said.get(_identity(result), {}).get("conditions"))
        yield result, {each["type"]: each for each in conditions}


def _identity(device: Object) -> tuple[str, str, str, str]:
    return device["driver"], device["pool"], device["device"], device.get("shareID") or ""


def failure(claim: Object) -> Object | None:
    """The first failure condition that is true."""
    for result, conditions in _results(claim):
        for name in result.get("bindingFailureConditions") or ():
            if conditions.get(name, {}).get("status") == "True":
                return conditions[name]
    return None


def pending(claim: Object) -> bool:
    """Whether a condition is still waited for."""
    return any(
        conditions.get(name, {}).get("status") != "True"
        for result, conditions in _results(claim)
        for name in result.get("bindingConditions") or ()
    )
