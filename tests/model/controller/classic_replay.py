"""Recordings of a classic cluster played to our controller: all that others wrote, in order.

The recorded controller decided as it was told to, ours by what its nodes have: nodes called unsuitable there have
no GPUs here, or have given them to another claim. Names and UIDs are replaced, and nodes are paper.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import kubesim
from reconciler.controller.node_states import NODE_STATES
from reconciler.runtime.kube.transport import Request, Response
from tests.contract_files import read_text
from tests.kube_in_memory import InMemory
from tests.model.controller.classic_world import GROUP, LATER_PARAMETERS, ClassicWorld
from tests.model.controller.test_controller import eventually

Object = dict[str, Any]

DRIVER, RECORDED_DRIVER = "gpu.resource.intel.com", "rec.gpu.intel.com"
NODES = ("node-fake", "node-old")
CLAIMS = f"{GROUP}/v1alpha1/namespaces/rec/resourceclaims"
SCHEDULINGS = f"{GROUP}/v1alpha1/namespaces/rec/podschedulings"
PODS = "/api/v1/namespaces/rec/pods"

ANOTHER = "another"
"""A pod or claim of the test's own."""


@dataclass(frozen=True, kw_only=True)
class Write:
    """A controller's write, as far as it can be compared: what stands in the object afterwards."""

    subresource: str
    finalizers: tuple[str, ...]
    status: Object


class Listening(InMemory):
    """Keeps what became of objects of resource.k8s.io by writes of the controller, by their paths."""

    def __init__(self, cluster: kubesim.Cluster) -> None:
        super().__init__(cluster)
        self.written: defaultdict[str, list[Object]] = defaultdict(list)

    def send(self, request: Request) -> Response:
        answer = super().send(request)
        if request.method != "GET" and request.path.startswith(GROUP) and answer.status == 200:
            written = {"source": "request", "path": request.path, "body": json.loads(answer.body)}
            self.written[path_of(written)].append(written)
        return answer


class Replay:
    """One recording, and the cluster it is played in.

    ``of_class`` is what the class says besides its driver; nodes in ``bare`` have no GPUs; claims in ``shareable``
    ask to be that.
    """

    def __init__(
        self,
        scenario: str,
        *,
        of_class: Object | None = None,
        bare: frozenset[str] = frozenset(),
        shareable: frozenset[str] = frozenset(),
    ) -> None:
        lines = (json.loads(line) for line in read_text(f"recordings/old/{scenario}.jsonl").splitlines() if line)
        self.lines: list[Object] = [line for line in lines if line.get("source") in ("watch", "request")]
        self.world = ClassicWorld(later=True)
        self.written: dict[str, list[Object]] = {}
        self._bare = bare
        self._shareable = shareable
        self._uids: dict[str, str] = {}
        self._seen: dict[str, Object] = {}
        self._due: Counter[str] = Counter()
        self._to_be_freed: set[str] = set()
        self._versions = {line["responseResourceVersion"] for line in self.lines if is_of_controller(line)}
        self._make_cluster(of_class or {})

    def play(self) -> None:
        """All of it: where the recorded controller wrote, ours has to before it goes on."""
        listening = Listening(self.world.cluster)
        self.written = listening.written
        with self.world.controller(over=listening):
            self._wait(lambda: all("adoptedUID" in self._node(name).get("spec", {}) for name in NODES))
            for index, line in enumerate(self.lines):
                if is_answer(line) or self._selects(line):
                    self._fill(full="node-old" in self._unsuitable_from(index))
                if is_of_controller(line):
                    self._await(index)
                elif line["source"] == "watch":
                    self._imitate(line)

    def expected(self) -> Mapping[str, list[Write]]:
        """The recorded controller's writes, by path."""
        writes: defaultdict[str, list[Write]] = defaultdict(list)
        for line in self.lines:
            if self.is_comparable(line):
                writes[path_of(line)].append(self._write(line))
        return writes

    def ours(self) -> Mapping[str, list[Write]]:
        """What our controller wrote, by path."""
        return {
            path: [self._write(one) for one in written]
            for path, written in self.written.items()
            if path in self._seen
        }

    def is_comparable(self, line: Object) -> bool:
        """Whether ours is to write that too.

        Where the selected node will do it allocates at once, and says nothing first; and of a pod's claims it
        speaks together, not of one after the other.
        """
        if not is_answer(line):
            return is_of_controller(line)
        answer, selected = answer_in(line["body"]), line["body"]["spec"].get("selectedNode")
        allocates = selected is not None and not any(selected in nodes for nodes in answer.values())
        pod = self._seen[f"{PODS}/{line['body']['metadata']['name']}"]
        return not allocates and len(answer) == len(pod["spec"]["resourceClaims"])

    def _make_cluster(self, of_class: Object) -> None:
        cluster = self.world.cluster
        cluster.create("/api/v1/namespaces", {"metadata": {"name": "rec"}})
        for name in NODES:
            self.world.make_gpus(name, count=2)
            cluster.merge(f"/api/v1/nodes/{name}", {"metadata": {"labels": {"kubernetes.io/hostname": name}}})
        for name in self._bare:
            self.world.node_reports(name, devices=[])
        made = {"apiVersion": "resource.k8s.io/v1alpha1", "kind": "ResourceClass", "metadata": {"name": "rec"}}
        cluster.create(f"{GROUP}/v1alpha1/resourceclasses", {**made, "driverName": DRIVER, **of_class})
        path = LATER_PARAMETERS.replace("/default/", "/rec/")
        self.world.make_parameters("one", path, count=1, type="vf")
        self.world.make_parameters("shareable", path, count=1, shareable=True)
        self.world.make_parameters("everything", path, count=2)

    def _wait(self, holds: Callable[[], object]) -> None:
        """Until it holds; the nodes do meanwhile what they are told."""

        def now() -> object:
            for name in NODES:
                state = self._node(name)
                if state["metadata"]["generation"] != state["status"]["observedGeneration"]:
                    self.world.node_reports(name)
            return holds()

        eventually(now)

    def _node(self, name: str) -> Object:
        found: Object = self.world.cluster.get(f"{NODE_STATES}/{name}")
        return found

    def _await(self, index: int) -> None:
        line = self.lines[index]
        if not self.is_comparable(line):
            return
        path, write = path_of(line), self._write(line)
        if line["path"] == f"{path}/status" and not write.status and path not in self._to_be_freed:
            self.world.cluster.delete(path)  # the recorded controller just did it, ours is given a reason
        self._due[path] += 1
        if not line["path"].endswith("/status") and write.finalizers and self._is_for_nobody(index):
            self._allocate_for_another(path)
        self._wait(lambda: len(self.written.get(path, ())) >= self._due[path])

    def _is_for_nobody(self, index: int) -> bool:
        """Whether a delayed claim is going to be allocated without a pod: ours never does."""
        path = path_of(self.lines[index])
        later = (
            each for each in self.lines[index:] if each["path"] == f"{path}/status" and is_of_controller(each)
        )
        claim = next(later)["body"]
        delayed = claim["spec"]["allocationMode"] == "WaitForFirstConsumer"
        return delayed and not claim["status"].get("reservedFor")

    def _allocate_for_another(self, path: str) -> None:
        """By a pod of ours that then goes."""
        cluster = self.world.cluster
        claims = [{"name": "gpu", "source": {"resourceClaimName": path.rpartition("/")[2]}}]
        pod = cluster.create(PODS, _pod(ANOTHER, claims))
        cluster.create(SCHEDULINGS, _scheduling(ANOTHER, pod["metadata"]["uid"], {"selectedNode": "node-fake"}))
        self._wait(lambda: cluster.get(path)["status"].get("allocation"))
        cluster.delete(f"{SCHEDULINGS}/{ANOTHER}")
        cluster.delete(f"{PODS}/{ANOTHER}")
        cluster.merge(f"{path}/status", {"status": {"reservedFor": None}})

    def _selects(self, line: Object) -> bool:
        """Whether the scheduler changes what it asks."""
        before = self._seen.get(path_of(line), {})
        return is_scheduling(line) and line["type"] == "MODIFIED" and line["object"]["spec"] != before["spec"]

    def _unsuitable_from(self, index: int) -> frozenset[str]:
        """What the recorded controller says here, or next."""
        answers = (answer_in(line["body"]) for line in self.lines[index:] if is_answer(line))
        return frozenset(node for nodes in next(answers, {}).values() for node in nodes) - self._bare

    def _fill(self, *, full: bool) -> None:
        """Have another claim take all that node-old has, or leave it."""
        path, cluster = f"{CLAIMS}/{ANOTHER}", self.world.cluster
        there = any(one["metadata"]["name"] == ANOTHER for one in cluster.get(CLAIMS)["items"])
        if full and not there:
            spec = {"resourceClassName": "rec", "allocationMode": "Immediate", "parametersRef": _ref("everything")}
            cluster.create(CLAIMS, _claim(ANOTHER, spec, []))
            self._wait(lambda: cluster.get(path)["status"].get("allocation"))
        elif there and not full:
            cluster.delete(path)

    def _imitate(self, line: Object) -> None:
        """Do what somebody did, as a watch told."""
        found, kind = line["object"], line["object"]["kind"]
        path = path_of(line)
        before = self._seen.get(path)
        if kind not in ("Pod", "ResourceClaim", "PodScheduling"):
            return
        self._seen[path] = found
        if line["type"] == "ADDED":
            made = self.world.cluster.create(line["path"], self._new(found))
            self._uids[found["metadata"]["uid"]] = made["metadata"]["uid"]
            self._to_be_freed.discard(path)
        elif line["type"] == "DELETED":
            self._delete(path, found)
        elif found["metadata"]["resourceVersion"] in self._versions or before is None:
            return
        elif kind == "PodScheduling":
            self.world.cluster.merge(path, {"spec": found["spec"]})
        elif kind == "ResourceClaim":
            self._change_claim(path, before, found)

    def _delete(self, path: str, found: Object) -> None:
        """A claim of ours vanishes by itself once it is deleted and let go of."""
        if found["kind"] == "ResourceClaim":
            self._wait(lambda: self._is_gone(path))
        else:
            self.world.cluster.delete(path)

    def _is_gone(self, path: str) -> bool:
        try:
            self.world.cluster.get(path)
        except kubesim.Refusal as refusal:
            return refusal.code == 404
        return False

    def _change_claim(self, path: str, before: Object, found: Object) -> None:
        if _is_deleting(found) and not _is_deleting(before):
            self._to_be_freed.add(path)
            self.world.cluster.delete(path)
        names = ("reservedFor", "deallocationRequested")
        changes = {name: found["status"].get(name) for name in names}
        if changes != {name: before["status"].get(name) for name in names}:
            users = [self._user(user) for user in changes["reservedFor"] or ()]
            if changes["deallocationRequested"]:
                self._to_be_freed.add(path)
            self.world.cluster.merge(f"{path}/status", {"status": {**changes, "reservedFor": users or None}})

    def _user(self, user: Object) -> Object:
        return {**user, "uid": self._uids.get(user["uid"], user["uid"])}

    def _new(self, found: Object) -> Object:
        """An object like the recorded one, that refers to our objects."""
        name, spec = found["metadata"]["name"], found["spec"]
        owners = [self._user(owner) for owner in found["metadata"].get("ownerReferences", ())]
        match found["kind"]:
            case "Pod":
                return _pod(name, spec["resourceClaims"])
            case "ResourceClaim":
                named = "shareable" if name in self._shareable else spec.get("parametersRef", {}).get("name")
                return _claim(name, {**spec, "parametersRef": _ref(named)} if named else spec, owners)
            case _:
                return _scheduling(name, owners[0]["uid"], spec)

    def _write(self, line: Object) -> Write:
        body = line["body"]
        status = body.get("status") or {}
        finalizers = body["metadata"].get("finalizers") or ()
        return Write(
            subresource=line["path"].removeprefix(path_of(line)),
            finalizers=tuple(one.replace(RECORDED_DRIVER, DRIVER) for one in finalizers),
            status=self._claim_status(status) if body["kind"] == "ResourceClaim" else answer_in(body),
        )

    def _claim_status(self, status: Object) -> Object:
        told = {key: value for key, value in status.items() if value}
        if allocation := told.get("allocation"):
            told["driverName"] = told["driverName"].replace(RECORDED_DRIVER, DRIVER)
            handle = isinstance(allocation["resourceHandle"], str)
            told["allocation"] = {"shareable": False, **allocation, "resourceHandle": handle}
        if users := [self._user(user) for user in told.pop("reservedFor", ()) if user["name"] != ANOTHER]:
            told["reservedFor"] = users
        return told


def path_of(line: Object) -> str:
    """The object that a line is about."""
    if line["source"] == "watch":
        return f"{line['path']}/{line['object']['metadata']['name']}"
    return str(line["path"]).removesuffix("/status")


def is_of_controller(line: Object) -> bool:
    """Whether the recorded driver's controller wrote that."""
    return bool(line["source"] == "request" and line["why"].startswith("controller"))


def is_answer(line: Object) -> bool:
    """Whether that is the controller's answer to the scheduler."""
    return is_of_controller(line) and line["body"]["kind"] == "PodScheduling"


def is_scheduling(line: Object) -> bool:
    """Whether a watch told of a pod's scheduling."""
    return bool(line["source"] == "watch" and line["object"]["kind"] == "PodScheduling")


def answer_in(scheduling: Object) -> dict[str, list[str]]:
    """Unsuitable nodes by the pod's names of claims."""
    answers = scheduling.get("status", {}).get("resourceClaims", ())
    return {one["name"]: sorted(one.get("unsuitableNodes", ())) for one in answers}


def _is_deleting(claim: Object) -> bool:
    return "deletionTimestamp" in claim["metadata"]


def _ref(name: str) -> Object:
    return {"apiGroup": DRIVER, "kind": "GpuClaimParameters", "name": name}


def _pod(name: str, claims: list[Object]) -> Object:
    spec = {"containers": [{"name": "c", "image": "i"}], "resourceClaims": claims}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def _claim(name: str, spec: Object, owners: list[Object]) -> Object:
    metadata = {"name": name, "ownerReferences": owners}
    return {"apiVersion": "resource.k8s.io/v1alpha1", "kind": "ResourceClaim", "metadata": metadata, "spec": spec}


def _scheduling(pod: str, uid: str, spec: Object) -> Object:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid, "controller": True}
    metadata = {"name": pod, "ownerReferences": [owner]}
    return {"apiVersion": "resource.k8s.io/v1alpha1", "kind": "PodScheduling", "metadata": metadata, "spec": spec}
