"""The files of deploy/examples in a town: applied with kubectl as they are, looked at, and deleted again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from hack.lab.cluster import Result
from hack.lab.pods import Town
from hack.lab.processes import REPOSITORY, eventually

EXAMPLES = REPOSITORY / "deploy/examples"

JsonObject = dict[str, Any]

_PODS = "/api/v1/namespaces/{}/pods"


@dataclass(slots=True)
class Examples:
    """What is applied in a town. Whatever it is, ``tidy`` takes it away."""

    town: Town
    _applied: list[str] = field(default_factory=list)

    # -- kubectl -------------------------------------------------------------------------------------------

    def apply(self, name: str, *running: str, namespace: str = "default") -> None:
        """Apply an example, and wait until these pods of it run."""
        self._applied.append(name)
        self._kubectl("apply", "-f", str(EXAMPLES / name))
        self.until_running(*running, namespace=namespace)

    def delete(self, name: str) -> None:
        """Delete what an example made, and wait until it is gone."""
        self._applied.remove(name)
        self._kubectl("delete", "--ignore-not-found", "-f", str(EXAMPLES / name))

    def override(self, name: str) -> None:
        """Say what an example says of a GPU."""
        self._kubectl("apply", "--server-side", "-f", str(EXAMPLES / name))

    def apply_pod_again(self, name: str, pod: str, to: str) -> None:
        """Apply a pod of an example once more, under another name; it uses the same claim or template."""
        found = next(one for one in _documents(name) if (one["kind"], one["metadata"]["name"]) == ("Pod", pod))
        found["metadata"]["name"] = to
        self.town.lab.apply(yaml.safe_dump(found))

    def delete_pod(self, pod: str) -> None:
        self._kubectl("delete", "pod", pod)

    def tidy(self) -> None:
        """Delete every example and every pod that is left, and wait until no node has anything of them."""
        for name in reversed(self._applied):
            self.delete(name)
        self._kubectl("delete", "pods", "--all")
        self.town.until_nothing_left()

    def _kubectl(self, *words: str) -> Result:
        done = self.town.lab.kubectl(*words)
        assert done.code == 0, f"kubectl {' '.join(words)}: {done.err}"
        return done

    # -- wait ----------------------------------------------------------------------------------------------

    def until(self, what: str, look: Callable[[], object]) -> None:
        """Wait until something is so."""
        eventually(what, lambda: look() or None, self.town.explain)

    def until_running(self, *pods: str, namespace: str = "default") -> None:
        self.town.until_phase("Running", *pods, namespace=namespace)

    def until_unschedulable(self, pod: str) -> None:
        """Wait until the scheduler has looked at a pod, and found nothing for it."""

        def refused() -> bool:
            found = self.pod(pod).get("status", {}).get("conditions", ())
            return any(one["type"] == "PodScheduled" and one.get("reason") == "Unschedulable" for one in found)

        self.until(f"{pod} has nowhere to go", refused)
        assert self.town.phase(pod) == "Pending"

    # -- look ----------------------------------------------------------------------------------------------

    def pod(self, name: str, namespace: str = "default") -> JsonObject:
        found: JsonObject = self.town.lab.cluster.get(f"{_PODS.format(namespace)}/{name}")
        return found

    def pods_of(self, app: str) -> list[str]:
        """Names of the pods with a label ``app``."""
        found = self.town.lab.cluster.get(_PODS.format("default"))["items"]
        return sorted(
            one["metadata"]["name"] for one in found if one["metadata"].get("labels", {}).get("app") == app
        )

    def nodes(self, pod: str, container: str = "main", namespace: str = "default") -> frozenset[str]:
        """Device nodes that a container has, without the names below by-path."""
        found = self.town.devices(pod, container, namespace)
        return frozenset(path for path in found if "by-path" not in path)

    def claims(self, pod: str, namespace: str = "default") -> list[JsonObject]:
        """The claims that are reserved for a pod."""
        uid = self.pod(pod, namespace)["metadata"]["uid"]
        path = self.town.resource_api(f"namespaces/{namespace}/resourceclaims")
        found: list[JsonObject] = self.town.lab.cluster.get(path)["items"]
        return [
            one for one in found if uid in {user["uid"] for user in one.get("status", {}).get("reservedFor", ())}
        ]

    def devices(self, pod: str, namespace: str = "default") -> list[str]:
        """The devices that the scheduler chose for a pod, in order of its requests."""
        return [
            result["device"]
            for claim in self.claims(pod, namespace)
            for result in claim["status"]["allocation"]["devices"]["results"]
        ]

    def on_node(self, pod: str, namespace: str = "default") -> JsonObject:
        """What the pod's node says of its claim once that is in use: an entry of status.allocations.

        A pod may run a moment before the API server hears of it.
        """
        (claim,) = self.claims(pod, namespace)
        node, uid = self.pod(pod, namespace)["spec"]["nodeName"], claim["metadata"]["uid"]

        def found() -> JsonObject | None:
            status: JsonObject = (self.town.lab.node_state(node) or {}).get("status", {})
            entries: list[JsonObject] = [one for one in status.get("allocations", ()) if one["name"] == uid]
            return next((one for one in entries if one["phase"] == "Ready" and one.get("inUse")), None)

        return eventually(f"in use: {pod}", found, self.town.explain)

    def given(self, pod: str, namespace: str = "default") -> list[str]:
        """The devices that a pod's node gave it: for a virtual function its number too."""
        return [one["device"] for one in self.on_node(pod, namespace)["devices"]]

    def gpu(self, node: str, gpu: str) -> JsonObject:
        """What a node says of one of its GPUs: an entry of status.devices."""
        state = self.town.lab.node_state(node) or {}
        found: JsonObject = next(one for one in state["status"]["devices"] if one["name"] == gpu)
        return found

    def blocked(self, node: str) -> list[JsonObject]:
        """What waits on a node, and why."""
        state = self.town.lab.node_state(node) or {}
        found: list[JsonObject] = state.get("status", {}).get("plan", {}).get("blocked", [])
        return found


def _documents(name: str) -> list[JsonObject]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def dri(*numbers: int) -> frozenset[str]:
    """The nodes of GPUs by their number: each has a card and a render node."""
    return frozenset(
        path for number in numbers for path in (f"/dev/dri/card{number}", f"/dev/dri/renderD{128 + number}")
    )
