"""A cluster with two nodes, a scheduler, replicas of the controller and people, on one clock that people move."""

import contextlib
import functools
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import yaml

import gpusim
from kubesim import Cluster, Refusal
from kubesim.actors import ClaimController, Scheduler, TaintEviction, settle
from kubesim.kinds.device_claims import ADMIN_LABEL
from kubesim.values import Object, at
from reconciler.node.own_object import path_of
from tests.engine.machines import Time
from tests.model.judge import Wrong
from tests.model.world import SPEC
from tests.whole import uses
from tests.whole.kernels import Kernels
from tests.whole.listening import Ears
from tests.whole.nodes import WholeNode
from tests.whole.plugins import Waiting
from tests.whole.replicas import Replica

REPOSITORY = Path(__file__).parents[2]
PODS = "/api/v1/namespaces/default/pods"
CLAIMS = f"{uses.API}/namespaces/default/resourceclaims"
SLICES = f"{uses.API}/resourceslices"
NAMES = ("north", "south")
MOST_WAKES = 400
"""Within a stretch of time. Whoever wants to be woken more often than that is busy with himself."""


class TownTime(Time):
    """The one clock."""

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)


@functools.cache
def _manifests() -> tuple[Object, ...]:
    files = ("deploy/crd/gpunodestates.gpu.dra.intel.com.yaml", "deploy/classes/structured.yaml")
    return tuple(
        each for file in files for each in yaml.load_all((REPOSITORY / file).read_text(), yaml.CSafeLoader)
    )


class Town:
    """Everything there is. ``close`` ends it."""

    def __init__(self, *, replicas: int = 1, nodes: int = 2, patience: float = 0.0) -> None:
        self._closing = contextlib.ExitStack()
        memory = Path("/dev/shm")
        where = Path(tempfile.mkdtemp(prefix="gpu-whole-", dir=memory if memory.is_dir() else None))
        self._closing.callback(shutil.rmtree, where)
        self.time = TownTime()
        self.cluster = Cluster("1.36", seed=1, clock=self.time)
        self._furnish()
        kernels, ears = Kernels(), Ears()
        self._closing.enter_context(kernels.answering())
        self._closing.enter_context(ears.listening())
        self._closing.enter_context(Waiting(self._while_a_pod_waits).instead())
        self.actors = (ClaimController(self.cluster), Scheduler(self.cluster), TaintEviction(self.cluster))
        self._actors_due: float | None = None
        self.replicas = [Replica(self.cluster, self.time, leading=number == 0) for number in range(replicas)]
        self.nodes: dict[str, WholeNode] = {}
        for name in NAMES[:nodes]:
            self.cluster.create("/api/v1/nodes", {"metadata": {"name": name}})
            machine = gpusim.Machine(SPEC)
            node = WholeNode(name, where / name, machine, self.cluster, self.time, kernels, ears, patience)
            self.nodes[name] = node
            self._closing.callback(node.close)

    def close(self) -> None:
        self._closing.close()

    def _furnish(self) -> None:
        for each in _manifests():
            if each["kind"] == "DeviceClass":
                self.cluster.create(f"{uses.API}/deviceclasses", each)
            else:
                self.cluster.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", each)
        self.cluster.merge("/api/v1/namespaces/default", {"metadata": {"labels": {ADMIN_LABEL: "true"}}})
        for use in uses.USES:
            self.cluster.create(f"{uses.API}/namespaces/default/resourceclaimtemplates", uses.template(use))

    # -- turns ---------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Scheduler and claim controller do all they can."""
        due = settle(self.cluster, *self.actors)
        self._actors_due = None if due is None else self.time.seconds + due

    def control(self, number: int) -> None:
        """A replica of the controller hears of everything and does what is to do."""
        replica = self.replicas[number]
        replica.hear_claims()
        replica.hear_nodes()
        replica.work()

    def decide(self) -> None:
        """Those have a turn who are on no node."""
        self.schedule()
        for number in range(len(self.replicas)):
            self.control(number)

    def round(self) -> None:
        """Everybody has a turn."""
        self.decide()
        for node in self.nodes.values():
            node.round()

    def _while_a_pod_waits(self) -> None:
        """A call of the kubelet is under way."""
        self.decide()
        for node in self.nodes.values():
            node.agent_round()
            node.drivers.look()
        self.time.seconds += 1.0

    def pass_time(self, seconds: float) -> None:
        """Everybody is woken when he wants to be."""
        end = self.time.seconds + seconds
        for _ in range(MOST_WAKES):
            due = [at for at in self._dues() if at is not None]
            soonest = min((max(at, self.time.seconds + 0.001) for at in due), default=end)
            if soonest >= end:
                break
            self.time.seconds = soonest
            self._wake()
        else:
            raise Wrong(f"{MOST_WAKES} wakes in {seconds} s: {self._dues()}")
        self.time.seconds = end
        self._wake()

    def _dues(self) -> list[float | None]:
        agents = [node.agent.due for node in self.nodes.values()]
        return [self._actors_due, *(replica.due for replica in self.replicas), *agents]

    def _wake(self) -> None:
        if self._actors_due is not None and self._actors_due <= self.time.seconds:
            self.schedule()
        for replica in self.replicas:
            replica.wake()
        for node in self.nodes.values():
            if node.agent.due <= self.time.seconds:
                node.wake()
                node.work_all()

    # -- misfortune ----------------------------------------------------------------------------------------

    def stop_faults(self) -> None:
        """From now on nothing goes wrong by itself."""
        self.cluster.clear_faults()
        for node in self.nodes.values():
            node.stop_faults()
        if not any(replica.leading for replica in self.replicas):
            self.replicas[0].leading = True

    def restart_controller(self, number: int) -> None:
        """A replica is killed, and started again."""
        leading = self.replicas[number].leading
        self.replicas[number] = Replica(self.cluster, self.time, leading=leading)

    def wipe_slices(self, name: str) -> None:
        """The kubelet deletes what a driver that seems to be gone has published."""
        for each in self.cluster.get(SLICES)["items"]:
            if each["spec"].get("nodeName") == name:
                self.cluster.delete(f"{SLICES}/{each['metadata']['name']}")

    def lose_node_state(self, name: str) -> None:
        try:
            self.cluster.delete(path_of(name))
        except Refusal as refusal:
            if refusal.code != 404:
                raise

    # -- people --------------------------------------------------------------------------------------------

    def pods(self) -> dict[str, Object]:
        return {pod["metadata"]["name"]: pod for pod in self.cluster.get(PODS)["items"]}

    def phase(self, pod: str) -> str:
        found = self.pods().get(pod)
        return "gone" if found is None else str(at(found, "status", "phase"))

    def delete_pod(self, name: str, *, force: bool = False) -> None:
        self.cluster.delete(f"{PODS}/{name}" + ("?gracePeriodSeconds=0" if force else ""))

    def edit(self, node: str, spec: Object) -> None:
        """People change a GpuNodeState, if there is one."""
        try:
            self.cluster.merge(path_of(node), {"spec": spec})
        except Refusal as refusal:
            if refusal.code != 404:
                raise

    def node_state(self, node: str) -> Object:
        found: Object = self.cluster.get(path_of(node))
        return found
