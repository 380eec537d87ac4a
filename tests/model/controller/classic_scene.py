"""A classic cluster on paper: users, the scheduler, nodes, and replicas of the controller that may die."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from state.classic.claims import Reference
from state.classic.classes import ResourceClass
from tests.model.controller.classic_judge import Judge
from tests.model.controller.classic_paper import (
    NAMESPACE,
    OURS,
    ClassicPaper,
    Crashed,
    NodeOnPaper,
    Raw,
    blank_node,
    entries_of,
    is_releasing,
    node_of,
)
from tests.model.controller.classic_replicas import KINDS, ClassicReplica
from tests.model.controller.classic_world import LATER_PARAMETERS, PARAMETERS, flex170

NODES = {"n0": 2, "n1": 1}
WISHES: dict[str, Raw] = {
    "whole": {"count": 1},
    "pair": {"count": 2},
    "vf": {"count": 1, "type": "vf", "memory": 2000},
    "small": {"count": 2, "type": "vf", "memory": 500},
    "any": {"count": 1, "type": "any"},
    "share": {"count": 1, "memory": 6144},
}
SHARED = "intel-gpu-shared"
_CLASS_PARAMETERS = "/apis/gpu.resource.intel.com/v1alpha2/gpuclassparameters/shared"
CLASSES = (
    ResourceClass(name="intel-gpu", driver=OURS[0], parameters=None, suitable_nodes=None),
    ResourceClass(
        name=SHARED,
        driver=OURS[1],
        parameters=Reference(api_group="gpu.resource.intel.com", kind="GpuClassParameters", name="shared"),
        suitable_nodes=None,
    ),
)
_MOST_TASKS = 200


class Scene:
    """Names of pods are ``p<n>``, of their claims ``<pod>-<n>``, of claims that several may use ``x<n>``."""

    def __init__(self, leading: Sequence[bool]) -> None:
        self.now = 1000.0
        self.serial = itertools.count()
        self.server = ClassicPaper(on_spec=lambda name, before, spec: None)
        self.agents = {
            name: NodeOnPaper(self.server, name, [flex170(3 + bus) for bus in range(gpus)])
            for name, gpus in NODES.items()
        }
        self.judge = Judge(self.server, self.agents)
        self.server.on_spec = self.judge.on_spec
        self.server.on_claim, self.server.on_answer = self.judge.on_claim, self.judge.on_answer
        self.server.parameters = {
            f"{_of_namespace(LATER_PARAMETERS if name == 'share' else PARAMETERS)}/{name}": {
                "metadata": {"namespace": NAMESPACE, "name": name},
                "spec": spec,
            }
            for name, spec in WISHES.items()
        } | {_CLASS_PARAMETERS: {"metadata": {"name": "shared"}, "spec": {"shared": True}}}
        for name in NODES:
            self.server.machines.add(name)
            self.make_object(name)
            self.agents[name].report(prepare=False)
        self.replicas = [self._replica(leads) for leads in leading]
        for number in range(len(leading)):
            self.catch_up(number)

    # Users

    def make_claim(self, name: str, wish: str, *, immediate: bool = False, owner: str = "") -> None:
        shared = wish == "share"
        group = "gpu.resource.intel.com" if shared else "gpu.dra.intel.com"
        metadata: Raw = {"name": name, "namespace": NAMESPACE, "uid": f"c{next(self.serial)}"}
        if owner:
            metadata["ownerReferences"] = [{"kind": "Pod", "uid": owner, "controller": True}]
        spec = {
            "resourceClassName": SHARED if shared else "intel-gpu",
            "allocationMode": "Immediate" if immediate else "WaitForFirstConsumer",
            "parametersRef": {"apiGroup": group, "kind": "GpuClaimParameters", "name": wish},
        }
        self.server.put_claim({"metadata": metadata, "spec": spec, "status": {}})

    def make_pod(self, name: str, wishes: Iterable[str], used: Iterable[str] = ()) -> None:
        """A pod with claims of its own, and claims that it uses."""
        uid, wishes = f"pod{next(self.serial)}", list(wishes)
        claims: list[Raw] = [
            {"name": str(number), "source": {"resourceClaimTemplateName": "t"}} for number in range(len(wishes))
        ]
        claims += [{"name": claim, "source": {"resourceClaimName": claim}} for claim in used]
        metadata = {"name": name, "namespace": NAMESPACE, "uid": uid, "resourceVersion": "1"}
        self.server.pods[NAMESPACE, name] = {"metadata": metadata, "spec": {"resourceClaims": claims}}
        for number, wish in enumerate(wishes):
            if (NAMESPACE, f"{name}-{number}") not in self.server.claims:
                self.make_claim(f"{name}-{number}", wish, owner=uid)

    def claims_of(self, pod: str) -> dict[str, Raw]:
        """The pod's claims, by its names for them."""
        claims = {}
        for one in self.server.pods[NAMESPACE, pod]["spec"]["resourceClaims"]:
            name = one["source"].get("resourceClaimName", f"{pod}-{one['name']}")
            if (claim := self.server.claims.get((NAMESPACE, name))) is not None:
                claims[one["name"]] = claim
        return claims

    # The scheduler

    def ask(self, pod: str, potential: Sequence[str], selected: str) -> None:
        """Its own part of a PodScheduling is the scheduler's to change at any time."""
        metadata = self.server.pods[NAMESPACE, pod]["metadata"]
        before = self.server.schedulings.get((NAMESPACE, pod))
        owner = {"kind": "Pod", "name": pod, "uid": metadata["uid"]}
        fpga = {"resourceClaims": [{"name": "fpga", "unsuitableNodes": ["n1"]}]}
        made: Raw = {
            "metadata": {
                "name": pod,
                "namespace": NAMESPACE,
                "uid": f"s{next(self.serial)}",
                "ownerReferences": [owner],
            },
            "status": fpga,
        }
        if before and before["metadata"]["ownerReferences"] == [owner]:
            made = before
        spec = {"potentialNodes": list(potential), **({"selectedNode": selected} if selected else {})}
        self.server.put_scheduling({**made, "spec": spec})

    def answers(self, pod: str) -> dict[str, list[str]]:
        status = self.server.schedulings[NAMESPACE, pod].get("status", {})
        return {one["name"]: one.get("unsuitableNodes", []) for one in status.get("resourceClaims", ())}

    def bind(self, pod: str) -> bool:
        """If it has everything on one node, it runs there."""
        if (NAMESPACE, pod) not in self.server.pods:
            return False
        metadata, claims = self.server.pods[NAMESPACE, pod]["metadata"], self.claims_of(pod)
        user = {"resource": "pods", "name": pod, "uid": metadata["uid"]}
        nodes = {node_of(claim) for claim in claims.values()}
        if len(nodes) != 1 or nodes == {""} or any(not _usable(claim, user) for claim in claims.values()):
            return False
        for claim in claims.values():
            users = claim["status"].get("reservedFor", [])
            if user not in users:
                self.server.change_claim(_ref(claim), status={"reservedFor": [*users, user]})
        self.server.drop_scheduling((NAMESPACE, pod))
        return True

    def give_back(self, pod: str) -> None:
        """The scheduler has got stuck with a pod: what only that has is to be allocated anew."""
        if (NAMESPACE, pod) not in self.server.schedulings or (NAMESPACE, pod) not in self.server.pods:
            return
        uid = self.server.pods[NAMESPACE, pod]["metadata"]["uid"]
        for claim in self.claims_of(pod).values():
            users = [user["uid"] for user in claim["status"].get("reservedFor", ())]
            if node_of(claim) and users == [uid] and claim["spec"]["allocationMode"] != "Immediate":
                self.server.change_claim(_ref(claim), status={"reservedFor": None, "deallocationRequested": True})

    def end(self, pod: str) -> None:
        """The pod is gone; what it leaves behind is collected by and by."""
        self.server.pods.pop((NAMESPACE, pod), None)

    def collect(self) -> None:
        """The cluster's own controllers clean up behind pods that are gone."""
        uids = {pod["metadata"]["uid"] for pod in self.server.pods.values()}
        for ref, scheduling in list(self.server.schedulings.items()):
            if scheduling["metadata"]["ownerReferences"][0]["uid"] not in uids:
                self.server.drop_scheduling(ref)
        for ref, claim in list(self.server.claims.items()):
            users = claim["status"].get("reservedFor", [])
            left = [user for user in users if user["uid"] in uids]
            if left != users:
                delayed = claim["spec"]["allocationMode"] != "Immediate"
                ended = {"deallocationRequested": True} if delayed and not left else {}
                self.server.change_claim(ref, status={"reservedFor": left or None, **ended})
            owners = claim["metadata"].get("ownerReferences", ())
            if any(owner["uid"] not in uids for owner in owners):
                self.server.delete_claim(ref)

    # Nodes

    def make_object(self, name: str) -> None:
        self.server.put_node(blank_node(name, f"node-{next(self.serial)}"))

    def lose_object(self, name: str) -> None:
        self.judge.lose(name)
        self.server.drop_node(name)

    def change_spec(self, name: str, **fields: Any) -> None:
        """What people have a say in."""
        raw = self.server.nodes[name]
        self.server.put_node({**raw, "spec": {**raw["spec"], **fields}, "metadata": dict(raw["metadata"])})

    # The controller

    def work(self, number: int) -> None:
        try:
            self.replicas[number].work()
        except Crashed:
            self.restart(number)

    def restart(self, number: int) -> None:
        self.replicas[number].leave()
        self.replicas[number] = self._replica(self.replicas[number].leading)

    def catch_up(self, number: int) -> None:
        """All is heard of, and everything done that there is to do."""
        for _ in range(_MOST_TASKS):
            for kind in KINDS:
                self.replicas[number].hear(kind)
            if not self.replicas[number].waits:
                return
            self.work(number)
        raise AssertionError(f"it goes on and on: {self.replicas[number].tasks}")

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for replica in self.replicas:
            replica.wake()

    def settle(self, rounds: int = 8) -> None:
        """Everybody gets to do everything."""
        for _ in range(rounds):
            self.collect()
            for agent in self.agents.values():
                agent.unprepare()
                agent.report(prepare=True)
            for number in range(len(self.replicas)):
                self.catch_up(number)
            self.pass_time(2.1)

    def allocations(self) -> dict[str, str]:
        return {_ref(claim)[1]: node for claim in self.server.claims.values() if (node := node_of(claim))}

    def ledger(self, node: str) -> dict[str, Raw]:
        return entries_of(self.server.nodes[node])

    def _replica(self, leading: bool) -> ClassicReplica:
        return ClassicReplica(self.server, lambda: self.now, CLASSES, leading=leading)


def _of_namespace(path: str) -> str:
    return path.replace("/default/", f"/{NAMESPACE}/")


def _ref(claim: Raw) -> tuple[str, str]:
    return claim["metadata"]["namespace"], claim["metadata"]["name"]


def _usable(claim: Raw, user: Raw) -> bool:
    status = claim["status"]
    if user in status.get("reservedFor", ()):
        return True
    ending = status.get("deallocationRequested") or "deletionTimestamp" in claim["metadata"]
    free = not status.get("reservedFor") or status["allocation"].get("shareable")
    return not ending and not is_releasing(claim) and bool(free)
