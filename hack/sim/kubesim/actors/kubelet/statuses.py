"""What a kubelet writes into a pod's status."""

from collections.abc import Callable, Iterator, Mapping

from kubesim.actors import reservations
from kubesim.actors.api import condition, with_condition
from kubesim.actors.kubelet.claims import Held
from kubesim.actors.kubelet.messages import Health, PreparedDevice
from kubesim.values import Object, at, copy, objects

HealthOf = Callable[[str, str, str], tuple[Health, str]]
"""A device's health and message, by driver, pool and name."""


def waiting(pod: Object, time: str, reason: str, message: str = "") -> Object:
    """Containers that are not there yet, or not again: a pod that ran once stays Running."""
    state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
    containers = [
        {**_container(each), "ready": False, "state": state} for each in objects(pod["spec"]["containers"])
    ]
    phase = "Running" if pod["status"].get("phase") == "Running" else "Pending"
    return {"phase": phase, "conditions": _conditions(pod, time, ready=False), "containerStatuses": containers}


def running(pod: Object, time: str, restarts: int, held: Mapping[str, Held], health: HealthOf) -> Object:
    """Containers that run, with the health of their devices."""
    before = {each["name"]: each for each in objects(at(pod, "status", "containerStatuses"))}
    containers = []
    for spec in objects(pod["spec"]["containers"]):
        known = at(before.get(spec["name"]), "state", "running")
        kept = known is not None and before[spec["name"]].get("restartCount") == restarts
        shown: Object = {
            **_container(spec),
            "ready": True,
            "started": True,
            "restartCount": restarts,
            "state": {"running": copy(known) if kept else {"startedAt": time}},
        }
        resources = list(_health(pod, spec, held, health))
        if resources:
            shown["allocatedResourcesStatus"] = resources
        containers.append(shown)
    return {"phase": "Running", "conditions": _conditions(pod, time, ready=True), "containerStatuses": containers}


def ended(pod: Object, time: str, exit_code: int, phase: str) -> Object:
    """Containers that are done. The phase stays Running until devices are given back."""
    reason = "Completed" if exit_code == 0 else "Error"
    state = {"terminated": {"exitCode": exit_code, "reason": reason, "finishedAt": time}}
    containers = [
        {**_container(each), "ready": False, "started": False, "state": state}
        for each in objects(pod["spec"]["containers"])
    ]
    why = "PodCompleted" if exit_code == 0 else "PodFailed"
    conditions = _conditions(pod, time, ready=False, why=why)
    return {"phase": phase, "conditions": conditions, "containerStatuses": containers}


def _container(spec: Object) -> Object:
    image = spec.get("image", "")
    return {"name": spec["name"], "image": image, "imageID": "", "restartCount": 0, "lastState": {}}


def _conditions(pod: Object, time: str, *, ready: bool, why: str = "ContainersNotReady") -> list[Object]:
    shown = "True" if ready else "False"
    reason = "" if ready else why
    sandbox = "False" if why != "ContainersNotReady" else shown
    return with_condition(
        pod,
        condition("PodReadyToStartContainers", sandbox, time),
        condition("Initialized", "True", time),
        condition("Ready", shown, time, reason=reason),
        condition("ContainersReady", shown, time, reason=reason),
    )


def devices_for(
    pod: Object, container: Object, held: Mapping[str, Held]
) -> Iterator[tuple[str, str, PreparedDevice]]:
    """What a container gets: the name of the resource, the driver and the device."""
    for use in objects(at(container, "resources", "claims")):
        if use["name"] not in held:
            continue
        request = use.get("request") or ""
        shown = f"claim:{use['name']}" + (f"/{request}" if request else "")
        for driver, found in held[use["name"]].devices.items():
            for device in found:
                if not request or request in device.requests:
                    yield shown, driver, device
    mappings = objects(at(pod, "status", "extendedResourceClaimStatus", "requestMappings"))
    for mapping in mappings if "" in held else ():
        if mapping["containerName"] == container["name"]:
            for driver, found in held[""].devices.items():
                for device in found:
                    if mapping["requestName"] in device.requests:
                        yield f"claim:{reservations.extended_claim_name(pod)}", driver, device


def _health(pod: Object, container: Object, held: Mapping[str, Held], health: HealthOf) -> Iterator[Object]:
    by_name: dict[str, list[Object]] = {}
    for shown, driver, device in devices_for(pod, container, held):
        if device.cdi_ids and device.device:
            said, message = health(driver, device.pool, device.device)
            resource = {"resourceID": device.cdi_ids[0], "health": said.value}
            by_name.setdefault(shown, []).append(resource | ({"message": message} if message else {}))
    for shown, resources in by_name.items():
        yield {"name": shown, "resources": resources}
