"""Recordings of Kubernetes 1.26.5, played to a simulated cluster of that release.

People, the driver's controller and the kubelet do what they did, as soon as what went before has happened here;
what scheduler and controllers write is compared.
"""

import json
from collections.abc import Iterator
from typing import Any

from kubesim import Cluster, ManualClock, Request
from kubesim.actors import control_plane
from kubesim.store import Change, Step
from tests.contract_files import read_text
from tests.kubesim.actors.replay import COUNTS, Moment, Object, Stage

DRIVER, CLASS = "rec.gpu.intel.com", "rec"
NODES = ("node-old", "node-fake")
STORIES = {"pods": "", "resourceclaims": "resource.k8s.io", "podschedulings": "resource.k8s.io"}
LONGEST_WAIT = 30.0
"""Seconds of the cluster's clock until somebody goes on without what was recorded before."""
MADE_UP = ("creationTimestamp", "uid", "lastTransitionTime", "lastProbeTime")


def recording(name: str) -> list[Object]:
    """The lines of a recording of Kubernetes 1.26.5."""
    return [json.loads(line) for line in read_text(f"recordings/old/{name}").splitlines()]


def stage(*, both_nodes: bool) -> Stage:
    """The scene of the recordings; without `both_nodes` one of the nodes is tainted."""
    clock = ManualClock()
    cluster = Cluster("1.26", clock=clock, seed=7)
    for name in NODES:
        taints = [{"key": "out", "effect": "NoSchedule"}] if name == "node-fake" and not both_nodes else []
        labels = {"kubernetes.io/hostname": name}
        cluster.create("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}})
    cluster.create("/api/v1/namespaces", {"metadata": {"name": "rec"}})
    resource_class = {"metadata": {"name": CLASS}, "driverName": DRIVER}
    cluster.create("/apis/resource.k8s.io/v1alpha1/resourceclasses", resource_class)
    made = Stage(cluster=cluster, clock=clock, actors=control_plane(cluster))

    def note(change: Change) -> None:
        gone = change.step is Step.DELETED
        made.moments.append(Moment(version=change.version, seen=change.current, gone=gone))

    with cluster.unobserved() as state:
        for plural, group in STORIES.items():
            state.store.listen((group, plural), note)
    return made


class ClassicReplay:
    """Plays the requests of a recording, and its kubelet's part in the lives of pods."""

    def __init__(self, name: str, on: Stage) -> None:
        self.lines = recording(f"{name}.jsonl")
        self._stage = on
        self._phases: dict[str, str] = {}
        self._before: list[Moment] = []
        requests = [line for line in self.lines if line.get("source") == "request"]
        self._asked_for = {line.get("responseResourceVersion") for line in requests}

    def play(self) -> None:
        for line in self.lines:
            if line.get("source") == "request" and line["status"] < 300:
                self._await()
                self._send(line)
            elif line.get("source") == "watch" and line["object"]["kind"] == "Pod":
                self._kubelet(line)
            self._note(line)
            self._stage.run_until(self._stage.clock.seconds)
        self._await()

    def _note(self, line: Object) -> None:
        """Somebody may have waited for this, unless it came of a request."""
        version = line["object"]["metadata"]["resourceVersion"] if line.get("source") == "watch" else None
        if version not in self._asked_for and line.get("type") != "DELETED":
            self._before += recorded_moments([line])

    def _await(self) -> None:
        """Let time pass until what scheduler and controllers did before has been done here."""
        wanted = told(self._before)
        until = self._stage.clock.seconds + LONGEST_WAIT
        while self._stage.clock.seconds < until:
            here = told(self._stage.moments)
            if all(history[-1] in here.get(key, []) for key, history in wanted.items()):
                return
            self._stage.run_until(self._stage.clock.seconds + 0.25)

    def _send(self, line: Object) -> None:
        """A request with the uids of the objects that are here instead of those of the recording."""
        body = line.get("body") or {}
        path, _, query = line["path"].partition("?")
        if "finalizer" in line["why"]:
            path = path.removesuffix("/status")  # one line of one recording has it where it can't have been
        if line["method"] == "PUT":
            live = self._stage.cluster.get(path.removesuffix("/status"))["metadata"]
            body["metadata"] = {**live, "finalizers": body["metadata"].get("finalizers", [])}
        for consumer in body.get("status", {}).get("reservedFor", ()):
            pod = self._stage.cluster.get(f"/api/v1/namespaces/rec/pods/{consumer['name']}")
            consumer["uid"] = pod["metadata"]["uid"]
        answer = self._stage.cluster.handle(Request.to(line["method"], f"{path}?{query}", body))
        assert answer.status == line["status"], (line["why"], answer.body)

    def _kubelet(self, line: Object) -> None:
        """A pod's phase and its end: what the recorded kubelet did of its own accord."""
        seen = line["object"]
        name, phase = seen["metadata"]["name"], seen["status"].get("phase")
        path = f"/api/v1/namespaces/rec/pods/{name}"
        live = [
            each for each in self._stage.cluster.get("/api/v1/pods")["items"] if each["metadata"]["name"] == name
        ]
        if not live:
            return
        if line["type"] == "DELETED":
            if "deletionTimestamp" in live[0]["metadata"]:
                self._stage.cluster.delete(f"{path}?gracePeriodSeconds=0")
        elif phase != self._phases.get(name, "Pending"):
            self._await()
            self._stage.cluster.merge(f"{path}/status", {"status": {"phase": phase}})
        self._phases[name] = phase


def recorded_moments(lines: list[Object]) -> list[Moment]:
    """Everything that happened to pods, claims and schedulings, in the order in which the server did it."""
    kinds = ("Pod", "ResourceClaim", "PodScheduling")
    found = [
        Moment(
            version=int(line["object"]["metadata"]["resourceVersion"]),
            seen=line["object"],
            gone=line["type"] == "DELETED",
        )
        for line in lines
        if line.get("source") == "watch" and line["object"]["kind"] in kinds
    ]
    return sorted(found, key=lambda each: each.version)


def told(moments: list[Moment]) -> dict[tuple[str, str], list[Any]]:
    """What happened to each object, an entry for each change that scheduler, controllers or drivers care about."""
    found: dict[tuple[str, str], list[Any]] = {}
    for each in moments:
        history = found.setdefault((each.kind, each.name), [])
        entry = _entry(each)
        if not history or history[-1] != entry:
            history.append(entry)
    return found


def order(moments: list[Moment]) -> list[tuple[str, str, int]]:
    """Which object changed when, relative to the others: its kind, its name, and how often it had changed before.

    The first word about a pod is left out: that its claim is not there yet is decided before the claim is made,
    and written down before or after.
    """
    counts: dict[tuple[str, str], int] = {}
    last: dict[tuple[str, str], Any] = {}
    found = []
    for each in moments:
        key, entry = (each.kind, each.name), _entry(each)
        if last.get(key) != entry and "waiting for dynamic resource controller" not in str(entry):
            counts[key] = counts.get(key, -1) + 1
            found.append((*key, counts[key]))
        last[key] = entry
    return found


def _entry(moment: Moment) -> Any:
    seen, status = moment.seen, moment.seen.get("status", {})
    if moment.gone:
        return "gone"
    if moment.kind == "Pod":
        return [seen["spec"].get("nodeName"), status.get("phase"), *_conditions(status)]
    if moment.kind == "PodScheduling":
        return [_plain(seen["spec"]), _plain(status)]
    finalizers = seen["metadata"].get("finalizers", [])
    return [finalizers, _plain(status)]


def _conditions(status: Object) -> Iterator[Any]:
    for each in status.get("conditions", ()):
        if each["type"] == "PodScheduled" and each["status"] != "True":
            yield [each.get("reason"), COUNTS.sub("N", each.get("message", ""))]


def _plain(value: Any) -> Any:
    """Without what can't be the same, and without what is empty or false: servers drop that here and there."""
    if isinstance(value, dict):
        kept = {key: _plain(each) for key, each in sorted(value.items()) if key not in MADE_UP}
        return {key: each for key, each in kept.items() if each not in (None, False, [], {})}
    return [_plain(each) for each in value] if isinstance(value, list) else value
