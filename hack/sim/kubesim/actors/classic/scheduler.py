"""The scheduler where drivers' controllers allocate: it asks them through PodScheduling, reserves, and binds.

What it decides is in the cluster alone, except when it looks again; it may be replaced by a new one at any time.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

from kubesim import Cluster, Refusal
from kubesim.actors import nodes, reservations
from kubesim.actors.api import Api, condition, deleting, finished, with_condition
from kubesim.actors.classic import forms, negotiation
from kubesim.actors.classic.negotiation import Prospects
from kubesim.actors.classic.turns import Turns
from kubesim.actors.reservations import Waiting, allocated, consumers, reserved_for
from kubesim.actors.timing import RECORDED, Timing
from kubesim.values import Object, at

NAME = "default-scheduler"
NOT_HERE = "resourceclaim not available on the node"
UNSUITABLE = "resourceclaim cannot be allocated for the node (unsuitable)"
NOT_OF_CLASS = "excluded by resource class node filter"
NOTHING_TO_FREE = "no new claims to deallocate, "
STILL = "still not schedulable, "


class ClassicScheduler:
    """Schedules pods as they come, each of them one attempt at a time."""

    def __init__(self, cluster: Cluster, timing: Timing = RECORDED) -> None:
        self._api = Api(cluster, NAME)
        self._generated = cluster.release.generates_claim_names
        self._schedulings = "podschedulings" if cluster.release.minor == 26 else "podschedulingcontexts"
        self._turns = Turns(timing=timing)
        self._loads: Counter[str] = Counter()

    def step(self) -> float | None:
        """Do what can be done; in how many seconds to look again, None if only a change gives more to do."""
        queue = self._queue()
        around = self._surroundings()
        for pod in queue:
            try:
                self._look_at(pod, around)
            except Refusal as refusal:
                if refusal.code not in (404, 409):
                    raise  # what changed or went meanwhile is news
        self._turns.keep({pod["metadata"]["uid"] for pod in queue})
        due = self._turns.next_due()
        return None if due is None else max(0.0, due - self._api.monotonic())

    def _queue(self) -> list[Object]:
        """Pods without a node, oldest first; those with one are counted by node."""
        pods = self._api.all("pods")
        self._loads = Counter(pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName"))
        waiting = [
            pod
            for pod in pods
            if not pod["spec"].get("nodeName")
            and not deleting(pod)
            and not finished(pod)
            and pod["spec"].get("schedulerName", NAME) == NAME
            and not pod["spec"].get("schedulingGates")
        ]
        return sorted(waiting, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def _surroundings(self) -> tuple[str, ...]:
        """Stands for all nodes and classes as they are."""
        plurals = ("nodes", "resourceclasses", "deviceclasses")
        return tuple(_version(each) for plural in plurals for each in self._api.all(plural))

    def _look_at(self, pod: Object, around: tuple[str, ...]) -> None:
        meta = pod["metadata"]
        own = [self._api.find("resourceclaims", meta["namespace"], name) for name in self._claim_names(pod)]
        versions = tuple(_version(each) for each in (*own, self._scheduling(pod)))
        if self._turns.take(meta["uid"], (around, versions), self._api.monotonic()):
            self._attempt(pod)

    def _claim_names(self, pod: Object) -> Iterator[str]:
        for _, name in reservations.claim_names(pod, generated=self._generated):
            if name is not None:
                yield name

    def _scheduling(self, pod: Object) -> Object | None:
        meta = pod["metadata"]
        found = self._api.find(self._schedulings, meta["namespace"], meta["name"])
        return found if found is not None and _owned_by(found, pod) else None

    def _attempt(self, pod: Object) -> None:
        try:
            claims = self._claims(pod)
            suitable = {
                name: [] if allocated(claim) else forms.suitable_nodes(claim, self._api)
                for name, claim in claims.items()
            }
        except Waiting as error:
            self._unschedulable(pod, self._message(f"{error}", NOTHING_TO_FREE))
            return
        scheduling = self._scheduling(pod)
        pending = [name for name, claim in claims.items() if not allocated(claim)]
        feasible: list[Object] = []
        reasons: Counter[str] = Counter()
        for node in self._api.all("nodes"):
            why_not = nodes.why_not(pod, node) or _kept_away(node, claims, suitable)
            if not why_not and negotiation.unsuitable(scheduling, pending, nodes.name_of(node)):
                why_not = UNSUITABLE
            if why_not:
                reasons[why_not] += 1
            else:
                feasible.append(node)
        if feasible:
            names = [nodes.name_of(node) for node in self._best_first(pod, feasible)]
            self._reserve(pod, claims, scheduling, Prospects(nodes=names, pending=pending))
        else:
            self._nowhere(pod, claims, reasons)

    def _claims(self, pod: Object) -> dict[str, Object]:
        """A pod's claims by its names for them, as far as they are fit to be used. Raises Waiting."""
        namespace, found = pod["metadata"]["namespace"], {}
        for name, claim_name in reservations.claim_names(pod, generated=self._generated):
            claim = claim_name and self._api.find("resourceclaims", namespace, claim_name)
            if not claim:
                raise Waiting(_missing(pod, name, claim_name))
            if deleting(claim):
                raise Waiting(f'resourceclaim "{claim_name}" is being deleted')
            if forms.deallocating(claim):
                raise Waiting("resourceclaim must be reallocated")
            if not allocated(claim) and not forms.delayed(claim):
                raise Waiting("unallocated immediate resourceclaim")
            if allocated(claim) and not reserved_for(claim, pod) and not forms.usable(claim):
                raise Waiting("resourceclaim in use")
            found[name] = claim
        return found

    def _best_first(self, pod: Object, feasible: Sequence[Object]) -> list[Object]:
        """What the pod prefers, then the emptiest, then any: not the same for all pods."""
        uid = pod["metadata"]["uid"]

        def rank(node: Object) -> tuple[int, int, int]:
            name = nodes.name_of(node)
            return -nodes.preference(pod, node), self._loads[name], zlib.crc32(f"{uid}/{name}".encode())

        return sorted(feasible, key=rank)

    def _reserve(
        self, pod: Object, claims: dict[str, Object], scheduling: Object | None, prospects: Prospects
    ) -> None:
        """Reserve what is allocated; bind, or give that back and ask drivers for the rest."""
        held = [self._reserved(pod, claim) for claim in claims.values() if allocated(claim)]
        if not prospects.pending:
            self._bind(pod, prospects.nodes[0], scheduling)
            return
        spec, message = negotiation.asked(scheduling, prospects)
        if scheduling is None:
            meta = {"name": pod["metadata"]["name"], "ownerReferences": [_owner_reference(pod)]}
            self._api.create(self._schedulings, pod["metadata"]["namespace"], {"metadata": meta, "spec": spec})
        elif spec != scheduling["spec"]:
            self._api.patch(self._schedulings, scheduling, {"spec": spec})
        for claim in held:
            rest = [each for each in consumers(claim) if each["uid"] != pod["metadata"]["uid"]]
            self._api.patch("resourceclaims", claim, {"status": {"reservedFor": rest or None}}, "status")
        text = f'running Reserve plugin "DynamicResources": {message}'
        self._unschedulable(pod, text, reason="SchedulerError")

    def _reserved(self, pod: Object, claim: Object) -> Object:
        if reserved_for(claim, pod):
            return claim
        reserved = {"status": {"reservedFor": reservations.with_consumer(claim, pod)}}
        return self._api.patch("resourceclaims", claim, reserved, "status")

    def _bind(self, pod: Object, node: str, scheduling: Object | None) -> None:
        self._api.bind(pod, node)
        self._loads[node] += 1
        if scheduling is not None:
            self._api.delete(self._schedulings, scheduling)
        meta = pod["metadata"]
        text = f"Successfully assigned {meta['namespace']}/{meta['name']} to {node}"
        self._api.event(pod, "Normal", "Scheduled", text)

    def _nowhere(self, pod: Object, claims: dict[str, Object], reasons: Counter[str]) -> None:
        """Say why; an allocation that keeps a pod away from nodes, and that nobody else uses, is asked back."""
        lines = ", ".join(sorted(f"{number} {reason}" for reason, number in reasons.items()))
        acceptable = [node for node in self._api.all("nodes") if not nodes.why_not(pod, node)]
        for claim in claims.values():
            free = all(each["uid"] == pod["metadata"]["uid"] for each in consumers(claim))
            in_the_way = allocated(claim) and not all(forms.reaches(claim, node) for node in acceptable)
            if in_the_way and forms.delayed(claim) and free:
                asked = {"status": {"deallocationRequested": True, "reservedFor": None}}
                self._api.patch("resourceclaims", claim, asked, "status")
                self._unschedulable(pod, self._message(lines, None))
                return
        self._unschedulable(pod, self._message(lines, STILL if claims else ""))

    def _message(self, lines: str, done: str | None) -> str:
        """Why a pod can't be scheduled; `done` is what was tried against it, None if there is hope."""
        total = len(self._api.all("nodes"))
        if not total:
            return "no nodes available to schedule pods"
        head = f"0/{total} nodes are available: "
        if done is None:
            return f"{head}{lines}."
        return f"{head}{lines}. {done}preemption: {head}{total} Preemption is not helpful for scheduling.."

    def _unschedulable(self, pod: Object, message: str, *, reason: str = "Unschedulable") -> None:
        """Say in the pod's status and in an event why it stays where it is, unless that is known."""
        known: Object = next((c for c in at(pod, "status", "conditions") or () if c["type"] == "PodScheduled"), {})
        if known.get("message") == message:
            return
        self._api.event(pod, "Warning", "FailedScheduling", message)
        said = condition("PodScheduled", "False", self._api.time(), reason=reason, message=message)
        self._api.patch("pods", pod, {"status": {"conditions": with_condition(pod, said)}}, "status")


def _version(seen: Object | None) -> str:
    version: str = "" if seen is None else seen["metadata"]["resourceVersion"]
    return version


def _owned_by(seen: Object, pod: Object) -> bool:
    owners = seen["metadata"].get("ownerReferences") or ()
    return any(each["uid"] == pod["metadata"]["uid"] for each in owners)


def _missing(pod: Object, name: str, claim_name: str | None) -> str:
    template = dict(reservations.sources(pod))[name].get("resourceClaimTemplateName")
    if claim_name is None:
        return "waiting for dynamic resource controller to create the resourceclaim"
    if template:
        return f'waiting for dynamic resource controller to create the resourceclaim "{claim_name}"'
    return f'resourceclaim "{claim_name}" not found'


def _kept_away(node: Object, claims: dict[str, Object], suitable: dict[str, list[Object]]) -> str:
    for name, claim in claims.items():
        if allocated(claim):
            if not forms.reaches(claim, node):
                return NOT_HERE
        elif not all(nodes.selected(selector, node) for selector in suitable[name]):
            return NOT_OF_CLASS
    return ""


def _owner_reference(pod: Object) -> Object:
    meta = pod["metadata"]
    return {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"], "controller": True}
