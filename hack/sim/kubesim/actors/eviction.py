"""Taints of devices that pods must leave: effect NoExecute, in slices and in DeviceTaintRules."""

from collections.abc import Iterator
from datetime import datetime

from kubesim import Cluster, Refusal
from kubesim.actors import devices, nodes, reservations
from kubesim.actors.api import Api, condition, deleting, finished, with_condition
from kubesim.actors.devices import DeviceId, Taint
from kubesim.actors.timing import RECORDED, Timing
from kubesim.values import Object, at, objects


class TaintEviction:
    """Deletes pods whose devices have taints they don't tolerate, or no longer."""

    def __init__(self, cluster: Cluster, timing: Timing = RECORDED) -> None:
        self._api = Api(cluster, "device-taint-eviction-controller")
        self._second = timing.second
        self._inventory = devices.Inventory()
        self._first_seen: dict[tuple[DeviceId, Taint], datetime] = {}

    def step(self) -> float | None:
        """Delete the pods that are due; in how many seconds the next one is."""
        taints = self._taints()
        claims = {claim["metadata"]["uid"]: claim for claim in self._api.all("resourceclaims")} if taints else {}
        left = {uid: seconds for claim in claims.values() for uid, seconds in self._leaving(claim, taints)}
        soonest = None
        for pod in self._api.all("pods") if left else ():
            seconds = left.get(pod["metadata"]["uid"])
            if seconds is None or deleting(pod) or finished(pod):
                continue
            if seconds > 0:
                soonest = seconds if soonest is None else min(soonest, seconds)
            else:
                self._evict(pod)
        return soonest

    def _taints(self) -> dict[DeviceId, list[Taint]]:
        found: dict[DeviceId, list[Taint]] = {}
        rules = self._api.all("devicetaintrules")
        for each in self._inventory.slices(self._api.all("resourceslices")):
            for device in each.devices:
                taints = [taint for taint in device.taints if taint.effect == "NoExecute"]
                ruled = (Taint.of(rule["spec"]["taint"]) for rule in rules if devices.applies(rule, device.id))
                taints += [taint for taint in ruled if taint.effect == "NoExecute"]
                if taints:
                    found[device.id] = taints
        present = {(device, taint) for device, taints in found.items() for taint in taints}
        self._first_seen = {each: self._first_seen.get(each, self._api.now()) for each in present}
        return found

    def _leaving(self, claim: Object, taints: dict[DeviceId, list[Taint]]) -> Iterator[tuple[str, float]]:
        """The pods that use a claim and must go, and in how many seconds."""
        waits = [
            self._left(DeviceId.of(result), taint, list(objects(result.get("tolerations"))))
            for result in objects(at(claim, "status", "allocation", "devices", "results"))
            for taint in taints.get(DeviceId.of(result), ())
        ]
        due = [wait for wait in waits if wait is not None]
        if due:
            for consumer in reservations.consumers(claim):
                yield consumer["uid"], min(due)

    def _left(self, device: DeviceId, taint: Taint, tolerations: list[Object]) -> float | None:
        """Seconds until a taint is no longer tolerated, counted from when it was added; None if it always is."""
        fitting = [each for each in tolerations if nodes.tolerated(each, taint.key, taint.value, taint.effect)]
        if not fitting:
            return 0.0
        limits: list[float] = [
            each["tolerationSeconds"] for each in fitting if each.get("tolerationSeconds") is not None
        ]
        if not limits:
            return None
        since = datetime.fromisoformat(taint.added) if taint.added else self._first_seen[device, taint]
        return max(0.0, min(limits) * self._second - (self._api.now() - since).total_seconds())

    def _evict(self, pod: Object) -> None:
        text = "Device Taint manager: deleting due to NoExecute taint"
        said = condition(
            "DisruptionTarget", "True", self._api.time(), reason="DeletionByDeviceTaintManager", message=text
        )
        try:
            self._api.event(pod, "Normal", "DeviceTaintManagerEviction", "Marking for deletion")
            self._api.patch("pods", pod, {"status": {"conditions": with_condition(pod, said)}}, "status")
            self._api.delete("pods", pod)
        except Refusal as refusal:
            if refusal.code not in (404, 409):
                raise
