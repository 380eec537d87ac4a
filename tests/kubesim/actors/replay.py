"""Recordings of a real cluster, played to a simulated one. People, drivers and kubelets do what they did, at the
same time; what scheduler and controllers write is compared.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kubesim import Cluster, ManualClock, Request
from kubesim.actors import Actor, ClaimController, Scheduler, TaintEviction, settle
from kubesim.store import Change, Step
from tests.contract_files import read_text

Object = dict[str, Any]
DRIVER = "rec.gpu.intel.com"
NODE = "node-b"
ADMIN = "resource.kubernetes.io/admin-access"
RESOURCE = "/apis/resource.k8s.io/v1"
STORIES = (("", "pods"), ("resource.k8s.io", "resourceclaims"))
VOLATILE = frozenset({"allocationTimestamp", "lastTransitionTime", "uid"})
COUNTS = re.compile(r"\b\d+(/\d+)?\b")


def recording(name: str) -> list[Object]:
    """The lines of a recording of Kubernetes 1.36.3."""
    return [json.loads(line) for line in read_text(f"recordings/new/{name}").splitlines()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One state of a pod or claim; `gone` when it was deleted."""

    version: int
    seen: Object
    gone: bool = False

    @property
    def kind(self) -> str:
        spec = self.seen["spec"]
        if "containers" in spec:
            return "Pod"
        return "PodScheduling" if "potentialNodes" in spec else "ResourceClaim"

    @property
    def name(self) -> str:
        name: str = self.seen["metadata"]["name"]
        return name


@dataclass(slots=True, kw_only=True)
class Stage:
    """A simulated cluster with the recorded one's node and class, and all that happens to pods and claims."""

    cluster: Cluster
    clock: ManualClock
    actors: tuple[Actor, ...]
    moments: list[Moment] = field(default_factory=list)

    def run_until(self, time: float) -> None:
        """Let the actors act at every moment they want to, up to a time."""
        while (due := settle(self.cluster, *self.actors)) is not None and self.clock.seconds + due <= time:
            self.clock.seconds += max(due, 1e-6)
        self.clock.seconds = max(time, self.clock.seconds)
        settle(self.cluster, *self.actors)


def stage(*, class_spec: Object | None = None) -> Stage:
    """The scene of the recordings, scheduler and controllers on it."""
    clock = ManualClock()
    cluster = Cluster("1.36", clock=clock, seed=7)
    cluster.create("/api/v1/nodes", {"metadata": {"name": NODE}})
    cluster.create("/api/v1/namespaces", {"metadata": {"name": "rec"}})
    selector = {"cel": {"expression": f"device.driver == '{DRIVER}'"}}
    spec = {"selectors": [selector], **(class_spec or {})}
    cluster.create(f"{RESOURCE}/deviceclasses", {"metadata": {"name": DRIVER}, "spec": spec})
    actors: tuple[Actor, ...] = (ClaimController(cluster), Scheduler(cluster), TaintEviction(cluster))
    made = Stage(cluster=cluster, clock=clock, actors=actors)

    def note(change: Change) -> None:
        gone = change.step is Step.DELETED
        made.moments.append(Moment(version=change.version, seen=change.current, gone=gone))

    with cluster.unobserved() as state:
        for table in STORIES:
            state.store.listen(table, note)
    return made


class Replay:
    """Plays the requests of a recording, and its kubelet's part in the lives of pods."""

    def __init__(self, name: str, on: Stage) -> None:
        self.lines = recording(f"{name}.jsonl")
        self._stage = on
        self._phases: dict[str, str] = {}
        self._requested = {
            (line["method"], line["path"].rpartition("/")[2])
            for line in self.lines
            if line.get("source") == "request" and line["status"] < 300
        }

    def play(self) -> None:
        for line in self.lines:
            if line.get("source") == "request" and line["status"] < 300:
                self._at(line["t"])
                self._send(line)
            elif line.get("source") == "watch" and line["object"]["kind"] in ("Pod", "ResourceSlice"):
                self._kubelet(line)
            elif line.get("source") == "actor" and ADMIN in line["note"]:
                labels = {"metadata": {"labels": {ADMIN: "true"}}}
                self._stage.cluster.merge("/api/v1/namespaces/rec", labels)
            self._stage.run_until(self._stage.clock.seconds)
        self._at(self.lines[-1]["t"])

    def _at(self, time: float) -> None:
        self._stage.run_until(max(time, self._stage.clock.seconds))

    def _send(self, line: Object) -> None:
        path, body = line["path"], line.get("body")
        names = {recorded: here.name for recorded, here in self._claims().items()}
        text = json.dumps(body)
        for recorded, here in names.items():
            path, text = path.replace(recorded, here), text.replace(recorded, here)
        for there, here in self._shares():
            text = text.replace(there, here)
        sent = json.loads(text)
        if isinstance(sent, dict):
            for own in ("uid", "resourceVersion"):
                sent.get("metadata", {}).pop(own, None)
            for owner in sent.get("metadata", {}).get("ownerReferences", ()):
                owner["uid"] = self._stage.cluster.get(f"/api/v1/nodes/{NODE}")["metadata"]["uid"]
        kind = line.get("headers", {}).get("Content-Type", "application/json")
        answer = self._stage.cluster.handle(Request.to(line["method"], path, sent, content_type=kind))
        assert answer.status == line["status"], (line["why"], answer.body)

    def _claims(self) -> dict[str, Moment]:
        """Claims here by the names they had in the recording."""
        recorded = [each for each in recorded_moments(self.lines) if each.kind == "ResourceClaim"]
        return {
            there.name: here for there in recorded for here in self._stage.moments if plain(there) == plain(here)
        }

    def _shares(self) -> Iterator[tuple[str, str]]:
        mine = [share for each in self._stage.moments for share in shares_of(each.seen)]
        theirs = [share for each in recorded_moments(self.lines) for share in shares_of(each.seen)]
        yield from zip(dict.fromkeys(theirs), dict.fromkeys(mine), strict=False)

    def _kubelet(self, line: Object) -> None:
        """A pod's phase and its end, and slices wiped: what the recorded kubelet did of its own accord."""
        seen = line["object"]
        name = seen["metadata"]["name"]
        if seen["kind"] == "ResourceSlice":
            if line["type"] == "DELETED" and ("DELETE", name) not in self._requested:
                self._at(line["t"])
                self._stage.cluster.delete(f"{RESOURCE}/resourceslices/{name}")
            return
        path, phase = f"/api/v1/namespaces/rec/pods/{name}", seen["status"].get("phase")
        live = [
            each for each in self._stage.cluster.get("/api/v1/pods")["items"] if each["metadata"]["name"] == name
        ]
        if not live:
            return
        if line["type"] == "DELETED":
            self._at(line["t"])
            if "deletionTimestamp" in live[0]["metadata"]:
                self._stage.cluster.delete(f"{path}?gracePeriodSeconds=0")
        elif phase != self._phases.get(name, "Pending"):
            self._at(line["t"])
            self._stage.cluster.merge(f"{path}/status", {"status": {"phase": phase}})
        self._phases[name] = phase


def recorded_moments(lines: list[Object]) -> list[Moment]:
    """Everything that happened to pods and claims, in the order in which the server did it."""
    found = [
        Moment(
            version=int(line["object"]["metadata"]["resourceVersion"]),
            seen=line["object"],
            gone=line["type"] == "DELETED",
        )
        for line in lines
        if line.get("source") == "watch" and line["object"]["kind"] in ("Pod", "ResourceClaim")
    ]
    return sorted(found, key=lambda each: each.version)


def plain(moment: Moment) -> str:
    """A name without its random end."""
    meta = moment.seen["metadata"]
    prefix: str = meta.get("generateName") or ""
    return f"{prefix}?" if prefix and meta["name"].startswith(prefix) else meta["name"]


def shares_of(claim: Object) -> Iterator[str]:
    allocation = claim.get("status", {}).get("allocation") or {"devices": {}}
    for result in allocation["devices"].get("results", ()):
        if "shareID" in result:
            yield result["shareID"]


def story(moments: list[Moment], pod: str, *, collected: bool = False) -> list[Any]:
    """What happened to a pod and its claims, one entry for each change that scheduler or controllers care about.

    Last moments are not looked into: the simulated server deletes in one step where a real one takes two. With
    `collected` nor is the end of claims that it deletes together with their pod, before any controller could act.
    """
    own = [each for each in moments if each.kind == "Pod" and each.name == pod]
    names = set(_claim_names(own))
    shares: dict[str, str] = {}
    told: list[Any] = []
    last: dict[tuple[str, str], Any] = {}
    for each in moments:
        ours = each in own or (each.kind == "ResourceClaim" and each.name in names)
        entry = _entry(each, shares) if ours and not _is_last_step(each) else None
        if entry is not None and collected and each.kind == "ResourceClaim" and not each.gone:
            entry[3] = False  # whether it is being deleted
            if not entry[2] and (each.kind, each.name) in last:
                continue  # its finalizer goes
        if entry is not None and last.get((each.kind, each.name)) != entry:
            told.append(entry)
            last[each.kind, each.name] = entry
    return told


def _claim_names(pods: list[Moment]) -> Iterator[str]:
    for each in pods:
        spec, status = each.seen["spec"], each.seen["status"]
        for entry in (*spec.get("resourceClaims", ()), *status.get("resourceClaimStatuses", ())):
            if "resourceClaimName" in entry:
                yield entry["resourceClaimName"]
        if "extendedResourceClaimStatus" in status:
            yield status["extendedResourceClaimStatus"]["resourceClaimName"]


def _is_last_step(moment: Moment) -> bool:
    """Whether this is the write after which a pod is gone: the simulated server spares it."""
    at_once = moment.seen["metadata"].get("deletionGracePeriodSeconds") == 0
    return moment.kind == "Pod" and at_once and not moment.gone


def _entry(moment: Moment, shares: dict[str, str]) -> list[Any]:
    seen, status = moment.seen, moment.seen.get("status", {})
    head = [moment.kind, plain(moment)]
    if moment.gone:
        return [*head, "gone"]
    if moment.kind == "Pod":
        made = bool(status.get("resourceClaimStatuses")) + bool(status.get("extendedResourceClaimStatus"))
        state = [seen["spec"].get("nodeName"), status.get("nominatedNodeName"), made, status.get("phase")]
        return [*head, *state, "deletionTimestamp" in seen["metadata"], *_conditions(status)]
    for share in shares_of(seen):
        shares.setdefault(share, f"share-{len(shares)}")
    marks = [seen["metadata"].get("finalizers", []), "deletionTimestamp" in seen["metadata"]]
    return [*head, *marks, _tidy(status, shares)]


def _conditions(status: Object) -> list[Any]:
    return [
        [each["type"], each["status"], each.get("reason"), COUNTS.sub("N", _essence(each.get("message", "")))]
        for each in status.get("conditions", ())
        if each["type"] in ("PodScheduled", "DisruptionTarget") and each["status"] != "True"
    ]


def _essence(message: str) -> str:
    """Without the names of claims, and without other nodes of the recorded cluster, which were tainted."""
    message = re.sub(r"claim=\S+?,", "claim=?,", message)
    return re.sub(r"(, )?\d+ node\(s\) had untolerated taint\(s\)(, )?", "", message)


def _tidy(value: Any, shares: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _tidy(each, shares) for key, each in sorted(value.items()) if key not in VOLATILE}
    if isinstance(value, list):
        return [_tidy(each, shares) for each in value]
    return shares.get(value, value) if isinstance(value, str) else value
