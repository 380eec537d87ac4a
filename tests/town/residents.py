"""Pods with claims of their own that come to a town, live there and leave, and a guard of their devices."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubesim
from hack.lab.pods import NodeUnderTest, Town
from hack.lab.processes import eventually
from state.record_coding import decode_record
from state.records import Mark

PODS = "/api/v1/namespaces/default/pods"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
EVENTS = "/api/v1/namespaces/default/events"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"

FLAGS = ("--layout", "Dynamic", "--linger-seconds", "0")
"""What agents are started with, the first time and again."""

JsonObject = dict[str, Any]


def _vf_of(mode: str) -> JsonObject:
    chosen = f'device.attributes["gpu.intel.com"].profile == "{mode}"'
    return {"deviceClassName": "vf.gpu.intel.com", "selectors": [{"cel": {"expression": chosen}}]}


GPU: JsonObject = {"deviceClassName": "gpu.intel.com"}
HALF = _vf_of("m2")
QUARTER = _vf_of("m4")


@dataclass(frozen=True, slots=True)
class Residents:
    """Who lives in a town: each pod has one container, and a claim of the pod's name or another's."""

    town: Town

    # -- come and go ---------------------------------------------------------------------------------------

    def come(self, name: str, wish: JsonObject) -> None:
        """A pod with a claim of its own."""
        request = {"name": "gpu", "exactly": wish}
        self.town.lab.cluster.create(
            CLAIMS,
            {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceClaim",
                "metadata": {"name": name},
                "spec": {"devices": {"requests": [request]}},
            },
        )
        self.join(name, name)

    def join(self, name: str, claim: str) -> None:
        """A pod that uses a claim."""
        spec = {
            "containers": [{"name": "work", "image": "work", "resources": {"claims": [{"name": "gpu"}]}}],
            "resourceClaims": [{"name": "gpu", "resourceClaimName": claim}],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.town.lab.cluster.create(PODS, pod)

    def leave(self, *names: str) -> None:
        """Delete pods and the claims of their names; nothing waits for the end of it."""
        for name in names:
            for path in (f"{PODS}/{name}", f"{CLAIMS}/{name}"):
                try:
                    self.town.lab.cluster.delete(path)
                except kubesim.Refusal as refusal:
                    if refusal.code != 404:
                        raise

    def all_leave(self) -> None:
        """Delete every pod and claim, and wait until nothing is left of them."""
        for path in (PODS, CLAIMS):
            self.leave(*(each["metadata"]["name"] for each in self.town.lab.cluster.get(path)["items"]))
        eventually("no pods, no claims", lambda: self._empty() or None, self.town.explain)
        self.town.until_nothing_left()

    def _empty(self) -> bool:
        return not any(self.town.lab.cluster.get(path)["items"] for path in (PODS, CLAIMS))

    def claim_vanishes(self, name: str) -> None:
        """Somebody deletes a claim and its finalizers: schedulers take its devices for free."""
        self.town.lab.cluster.delete(f"{CLAIMS}/{name}")
        self.town.lab.cluster.merge(f"{CLAIMS}/{name}", {"metadata": {"finalizers": None}})

    def pod_vanishes(self, name: str) -> None:
        """``kubectl delete pod --force --grace-period=0``: the object goes at once, the containers later."""
        self.town.lab.cluster.delete(f"{PODS}/{name}?gracePeriodSeconds=0")

    # -- look ----------------------------------------------------------------------------------------------

    def claim(self, name: str) -> JsonObject:
        found: JsonObject = self.town.lab.cluster.get(f"{CLAIMS}/{name}")
        return found

    def uid(self, claim: str) -> str:
        return str(self.claim(claim)["metadata"]["uid"])

    def device(self, claim: str) -> str:
        """The device that a claim has. Raises IndexError while it has none."""
        allocation: JsonObject = self.claim(claim)["status"]["allocation"]
        return str(allocation["devices"]["results"][0]["device"])

    def node_of(self, pod: str) -> NodeUnderTest:
        """Where a pod is. Raises KeyError while it is nowhere."""
        return self.town.nodes[self.town.lab.cluster.get(f"{PODS}/{pod}")["spec"]["nodeName"]]

    def nodes(self, pod: str) -> tuple[str, ...]:
        """Device nodes that a running pod has."""
        return self.town.devices(pod, "work")

    def mark(self, node: str, claim: str) -> Mark | None:
        """The kubelet plugin's mark of a claim in use."""
        try:
            found = (self.place(node) / "run/marks" / f"{self.uid(claim)}.json").read_bytes()
        except FileNotFoundError:
            return None
        return decode_record(found, Mark)

    def place(self, node: str) -> Path:
        """The directory of a node's machine."""
        return self.town.lab.machines[node].where

    def events(self, reason: str, pod: str) -> list[str]:
        """What Events with this reason say of a pod that is there."""
        uid = self.town.lab.cluster.get(f"{PODS}/{pod}")["metadata"]["uid"]
        found = self.town.lab.cluster.get(EVENTS)["items"]
        return [
            one["message"]
            for one in found
            if one.get("reason") == reason and one.get("involvedObject", {}).get("uid") == uid
        ]

    def slices(self) -> dict[str, JsonObject]:
        """What is offered, by UID: one that was deleted and made again is another."""
        return {each["metadata"]["uid"]: each for each in self.town.lab.cluster.get(SLICES)["items"]}

    def phase(self, node: str, claim: str) -> str:
        """The phase of a claim in the node's status, "" if it isn't there."""
        return self.town.lab.allocations(node).get(self.uid(claim), "")

    # -- wait ----------------------------------------------------------------------------------------------

    def until(self, what: str, look: Callable[[], object]) -> None:
        """Wait until something is so."""
        eventually(what, lambda: look() or None, self.explain)

    def until_running(self, *pods: str) -> None:
        self.town.until_phase("Running", *pods)

    def until_phase(self, node: str, claim: str, phase: str) -> None:
        """Wait until a claim has come to a phase in the node's status."""
        self.until(f"{claim}: {phase}", lambda: self.phase(node, claim) == phase)

    def explain(self) -> str:
        states = {name: self.town.lab.node_state(name) for name in self.town.nodes}
        return f"{json.dumps(states, indent=1)}\n{self.town.explain()}"


_Use = tuple[str, str]
"""A pod's UID and the path of a device node that a container of it has."""

_File = tuple[int, int]
"""Inode and time of its making: another node of the same name is another file."""

_REAL = re.compile(r"/dev/(dri/(card|renderD)|vfio/)\d+")


@dataclass(slots=True)
class Guard:
    """Looks at the containers that run, as long as a test takes: no device has two users, and none loses its own.

    What counts is what the runtime made of CDI, whether or not the API server knows the pod. Pods that share a
    claim share its devices.
    """

    town: Town
    complaints: list[str] = field(default_factory=list)
    looks: int = 0
    _claims: dict[str, str] = field(default_factory=dict)
    _first: dict[tuple[str, _Use], _File | None] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until told that it is over."""
        while not self._over.wait(0.01):
            self._look()

    def end(self) -> None:
        self._over.set()

    def _look(self) -> None:
        for pod in self.town.lab.cluster.get(PODS)["items"]:
            claims = pod["spec"].get("resourceClaims", [])
            uid = pod["metadata"]["uid"]
            self._claims[uid] = ",".join(one.get("resourceClaimName", f"made for {uid}") for one in claims)
        for name, node in self.town.nodes.items():
            before = self._running(node)
            files = {use: _file(self.town.lab.machines[name].where, use[1]) for use in before}
            after = self._running(node)
            ended = {key for key in self._first if key[0] == name and key[1] not in before | after}
            self._first = {key: file for key, file in self._first.items() if key not in ended}
            for use in sorted(before & after):  # these ran all the time that we looked
                self._judge(name, use, files[use])
            self._compare(name, before & after)
        self.looks += 1

    def _running(self, node: NodeUnderTest) -> set[_Use]:
        found = set()
        for uid in self._claims:
            for edits in (node.kubelet.containers("default", uid) or {}).values():
                found |= {(uid, path) for path in edits.nodes if _REAL.fullmatch(path)}
        return found

    def _judge(self, node: str, use: _Use, file: _File | None) -> None:
        if file is None or self._first.setdefault((node, use), file) != file:
            self._complain(f"{node}: {use[1]} was taken from {use[0]}")

    def _compare(self, node: str, uses: set[_Use]) -> None:
        users: dict[str, str] = {}
        for uid, path in sorted(uses):
            other = users.setdefault(path, uid)
            if self._claims[other] != self._claims[uid]:
                self._complain(f"{node}: {path} is used by {other} and by {uid}")

    def _complain(self, words: str) -> None:
        if words not in self.complaints:
            self.complaints.append(words)


def _file(machine: Path, path: str) -> _File | None:
    """Which file a device node is, None if there is none."""
    try:
        found = (machine / path.lstrip("/")).stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns
