"""The scheduler: nodes for pods, devices for their claims.

What it decides is in the cluster alone, except when it looks again; it may be replaced by a new one at any time.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kubesim import Cluster, Refusal
from kubesim.actors import devices, extended, nodes, reservations, results
from kubesim.actors.allocation import Chosen
from kubesim.actors.api import Api, condition, deleting, finished, with_condition
from kubesim.actors.asks import UnknownClass, usage
from kubesim.actors.binding import failure, pending
from kubesim.actors.candidates import Offer, Surroundings, offer_on, offers
from kubesim.actors.reservations import PROTECTION, NotMadeYet, Waiting, allocated, reserved_for
from kubesim.actors.selectors import SelectorError, Selectors
from kubesim.actors.timing import RECORDED, Timing
from kubesim.values import Object, at

NAME = "default-scheduler"
EXPECTS_NODES_SINCE = 35
"""The minor release from which pods say where they are about to go, and allocations when they were made."""


@dataclass(slots=True, kw_only=True)
class _Wait:
    """A pod whose devices are not ready: since when, and when to look again."""

    since: float
    next_look: float


class Scheduler:
    """Schedules pods as they come. `immediate` also allocates claims that no pod uses: for demonstrations."""

    def __init__(self, cluster: Cluster, timing: Timing = RECORDED, *, immediate: bool = False) -> None:
        self._api = Api(cluster, NAME)
        self._timing = timing
        self._immediate = immediate
        self._minor = cluster.release.minor
        self._inventory = devices.Inventory()
        self._selectors = Selectors()
        self._arrivals: dict[str, int] = {}
        self._waits: dict[str, _Wait] = {}
        self._not_before: dict[str, float] = {}

    def step(self) -> float | None:
        """Do what can be done; in how many seconds to look again, None if only a change gives more to do."""
        queue = self._queue()
        for pod in queue:
            try:
                self._schedule(pod)
            except Refusal as refusal:
                if refusal.code not in (404, 409):
                    raise  # what changed or went meanwhile is looked at in the next step
        if self._immediate:
            self._allocate_unused()
        return self._next_look({pod["metadata"]["uid"] for pod in queue})

    def _queue(self) -> list[Object]:
        """Pods without a node, in the order in which they came."""
        waiting = [
            pod
            for pod in self._api.all("pods")
            if not pod["spec"].get("nodeName")
            and not deleting(pod)
            and not finished(pod)
            and pod["spec"].get("schedulerName", NAME) == NAME
            and not pod["spec"].get("schedulingGates")
        ]
        versions = {pod["metadata"]["uid"]: int(pod["metadata"]["resourceVersion"]) for pod in waiting}
        self._arrivals = {uid: self._arrivals.get(uid, version) for uid, version in versions.items()}
        return sorted(waiting, key=lambda pod: self._arrivals[pod["metadata"]["uid"]])

    def _next_look(self, present: set[str]) -> float | None:
        self._waits = {uid: wait for uid, wait in self._waits.items() if uid in present}
        self._not_before = {uid: time for uid, time in self._not_before.items() if uid in present}
        times = [*self._not_before.values(), *(wait.next_look for wait in self._waits.values())]
        return max(0.0, min(times) - self._api.monotonic()) if times else None

    def _schedule(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if self._api.monotonic() < self._not_before.get(uid, 0.0):
            return
        self._not_before.pop(uid, None)
        try:
            claims = reservations.claims_of(pod, self._api)
            if any(deleting(claim) for claim in claims):
                raise Waiting("resourceclaim is being deleted")
            around = self._surroundings()
            bound_for = _waits_for(pod, claims, around)
            if bound_for is not None:
                self._finish(pod, claims, bound_for)
                return
            found, reasons = offers(pod, claims, around)
        except NotMadeYet:
            return
        except (Waiting, UnknownClass, SelectorError) as error:
            self._unschedulable(pod, f"{error}")
            return
        if found:
            self._accept(pod, claims, min(found, key=self._preference))
        else:
            self._nowhere(pod, claims, reasons)

    def _surroundings(self) -> Surroundings:
        api = self._api
        slices = self._inventory.slices(api.all("resourceslices"))
        rules = api.all("devicetaintrules")
        return Surroundings(
            nodes=tuple((node, devices.pools(slices, node, rules)) for node in api.all("nodes")),
            classes={each["metadata"]["name"]: each for each in api.all("deviceclasses")},
            usage=usage(api.all("resourceclaims")),
            selectors=self._selectors,
        )

    def _preference(self, offer: Offer) -> tuple[int, int, str]:
        """Better alternatives first, then emptier nodes, then the name."""
        name = nodes.name_of(offer.node)
        load = sum(pod["spec"].get("nodeName") == name for pod in self._api.all("pods"))
        return offer.rank(), load, name

    def _accept(self, pod: Object, claims: Sequence[Object], offer: Offer) -> None:
        """Write down where a pod goes and what it gets, then bind it unless its devices make it wait."""
        node = nodes.name_of(offer.node)
        if (claims or offer.demand) and self._minor >= EXPECTS_NODES_SINCE:
            pod = self._api.patch("pods", pod, {"status": {"nominatedNodeName": node}}, "status")
        chosen = dict(zip((each["metadata"]["uid"] for each in offer.claims), offer.chosen, strict=False))
        held = [
            self._reserve(pod, claim)
            if allocated(claim)
            else self._allocate(pod, claim, offer, chosen[claim["metadata"]["uid"]])
            for claim in claims
        ]
        if offer.demand is not None:
            claim = extended.made_for(pod, self._api) or self._api.create(
                "resourceclaims", pod["metadata"]["namespace"], offer.demand.claim(pod)
            )
            held.append(self._allocate(pod, claim, offer, offer.chosen[-1]))
            status = {"extendedResourceClaimStatus": offer.demand.status(claim)}
            pod = self._api.patch("pods", pod, {"status": status}, "status")
        self._finish(pod, held, node)

    def _reserve(self, pod: Object, claim: Object) -> Object:
        if reserved_for(claim, pod):
            return claim
        reserved = {"status": {"reservedFor": reservations.with_consumer(claim, pod)}}
        return self._api.patch("resourceclaims", claim, reserved, "status")

    def _allocate(self, pod: Object | None, claim: Object, offer: Offer, chosen: Sequence[Chosen]) -> Object:
        """Protect a claim from deletion, then allocate and reserve it in one write."""
        if not reservations.protected(claim):
            finalizers = [*(claim["metadata"].get("finalizers") or ()), PROTECTION]
            claim = self._api.patch("resourceclaims", claim, {"metadata": {"finalizers": finalizers}})
        classes = {each["metadata"]["name"]: each for each in self._api.all("deviceclasses")}
        status: Object = {
            "allocation": results.allocation(
                claim,
                chosen,
                classes,
                offer.node,
                time=self._api.time() if self._minor >= EXPECTS_NODES_SINCE else None,
                new_share=self._api.new_uid,
            )
        }
        if pod is not None:
            status["reservedFor"] = reservations.with_consumer(claim, pod)
        return self._api.patch("resourceclaims", claim, {"status": status}, "status")

    def _finish(self, pod: Object, claims: Sequence[Object], node: str) -> None:
        """Bind a pod whose claims are allocated and reserved, once their devices are ready."""
        uid, now = pod["metadata"]["uid"], self._api.monotonic()
        wait = self._waits.get(uid)
        if wait is not None and now < wait.next_look:
            return
        for claim in claims:
            failed = failure(claim)
            if failed is not None:
                self._give_up(
                    pod, claims, claim, f'reason={failed["reason"]}, message="{failed.get("message", "")}"'
                )
                return
        waited_for = [claim for claim in claims if pending(claim)]
        if not waited_for:
            self._waits.pop(uid, None)
            self._api.bind(pod, node)
            meta = pod["metadata"]
            text = f"Successfully assigned {meta['namespace']}/{meta['name']} to {node}"
            self._api.event(pod, "Normal", "Scheduled", text)
        elif wait is None:
            self._waits[uid] = _Wait(since=now, next_look=now + self._timing.binding_poll)
            text = f"waiting for binding conditions for device on node {node}"
            self._api.event(pod, "Normal", "BindingConditionsPending", text)
        elif now - wait.since >= self._timing.binding_timeout:
            self._give_up(pod, claims, waited_for[0], "reason=Timeout")
        else:
            wait.next_look += self._timing.binding_poll

    def _give_up(self, pod: Object, claims: Sequence[Object], failed: Object, why: str) -> None:
        """Take the reservations back; the allocations go when the pod's turn comes again."""
        uid = pod["metadata"]["uid"]
        self._waits.pop(uid, None)
        self._not_before[uid] = self._api.monotonic() + self._timing.retry_after_failed_binding
        for claim in claims:
            rest = [each for each in reservations.consumers(claim) if each["uid"] != uid]
            self._api.patch("resourceclaims", claim, {"status": {"reservedFor": rest or None}}, "status")
        name = failed["metadata"]["name"]
        text = f'running PreBind plugin "DynamicResources": device binding failed: claim={name}, {why}'
        self._unschedulable(pod, text, reason="SchedulerError")

    def _nowhere(self, pod: Object, claims: Sequence[Object], reasons: Counter[str]) -> None:
        """Say why, and take back an allocation that nobody uses: it may be what is in the way."""
        unused = next((each for each in claims if allocated(each) and not reservations.consumers(each)), None)
        done = "still not schedulable"
        if unused is not None:
            reservations.deallocate(self._api, unused)
            done = "deallocation of ResourceClaim completed"
        total = sum(reasons.values())
        lines = ", ".join(sorted(f"{number} {reason}" for reason, number in reasons.items()))
        head = f"0/{total} nodes are available: "
        text = f"{head}{lines}. {done}, preemption: {head}{total} Preemption is not helpful for scheduling."
        self._unschedulable(pod, text if total else "no nodes available to schedule pods")

    def _unschedulable(self, pod: Object, message: str, *, reason: str = "Unschedulable") -> None:
        """Say in the pod's status and in an event why it stays where it is, unless that is known."""
        known: Object = next((c for c in at(pod, "status", "conditions") or () if c["type"] == "PodScheduled"), {})
        if known.get("message") == message:
            return
        self._api.event(pod, "Warning", "FailedScheduling", message)
        said = condition("PodScheduled", "False", self._api.time(), reason=reason, message=message)
        status = {"conditions": with_condition(pod, said), "nominatedNodeName": None}
        self._api.patch("pods", pod, {"status": status}, "status")

    def _allocate_unused(self) -> None:
        for claim in self._api.all("resourceclaims"):
            if allocated(claim) or deleting(claim) or at(claim, "metadata", "ownerReferences"):
                continue
            around = self._surroundings()
            try:
                found = [offer_on(node, pools, (claim,), None, around) for node, pools in around.nodes]
                best = min((each for each in found if each is not None), key=self._preference, default=None)
                if best is not None:
                    self._allocate(None, claim, best, best.chosen[0])
            except (UnknownClass, SelectorError):
                continue  # nobody is waiting who could be told
            except Refusal as refusal:
                if refusal.code not in (404, 409):
                    raise


def _waits_for(pod: Object, claims: Sequence[Object], around: Surroundings) -> str | None:
    """The node a pod was promised: all its claims are allocated and reserved for it, and there."""
    if not claims or not all(allocated(claim) and reserved_for(claim, pod) for claim in claims):
        return None
    for node, _ in around.nodes:
        selectors = (at(claim, "status", "allocation", "nodeSelector") for claim in claims)
        promised = at(pod, "status", "nominatedNodeName") in (None, nodes.name_of(node))
        if promised and all(each is None or nodes.selected(each, node) for each in selectors):
            return None if nodes.why_not(pod, node) else nodes.name_of(node)
    return None
