"""Pods in a simulated cluster: from creating them to Running, with claims and without; and what the driver uses.

The scheduler, the controllers and the kubelet are simulated, in the process of the API server: what they take is
in the times of pods, with and without claims. The controller, the node agent and the plugin are the real ones.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from hack.bench import objects
from hack.bench.figures import Figure, milliseconds
from hack.bench.staff import NODE, PATIENCE, Staff, until
from hack.bench.timeline import JsonObject, Timeline, followed
from reconciler.node.status_file import read_status
from reconciler.runtime.kube.client import KubeClient

OURS = ("controller", "agent", "plugin")
RSS_BUDGETS_MIB = {"agent": 75.0, "plugin": 50.0}
IDLE_BUDGET_PERCENT = 0.2
START_BUDGET_MS = 600.0
NAMESPACE = "default"

_HOPS = (
    ("created → claim allocated (not ours)", "created", "allocated"),
    ("allocated → entry in the spec (controller)", "allocated", "entry"),
    ("entry → Ready published (node agent)", "entry", "ready"),
    ("Ready → Running (Prepare, and the kubelet)", "ready", "running"),
)


@dataclass(slots=True, kw_only=True)
class Cluster:
    """A cluster to make pods in, all in one namespace, and what is seen of it."""

    client: KubeClient
    timeline: Timeline
    node: str
    namespace: str
    look: objects.Look = field(default_factory=objects.Look)

    def add_template(self, name: str, spec: JsonObject) -> None:
        self.client.create(objects.templates_path(self.namespace), objects.template(name, spec))

    def run_pods(self, names: list[str], template: str | None) -> list[dict[str, float]]:
        """Create pods as fast as possible, and wait until all run; then when each came how far."""
        created = {}
        for name in names:
            created[name] = time.perf_counter()
            self.client.create(objects.pods_path(self.namespace), objects.pod(name, template, self.look))
        self.timeline.until([(f"pod {name}", "Running") for name in names], PATIENCE)
        return [self._times(name, created[name], template is not None) for name in names]

    def delete_pods(self, names: list[str]) -> None:
        """And wait until they, their claims and the node's entries are gone."""
        claims = [self.claim_of(name) for name in names if self._has_claim(name)]
        uids = [self.uid_of(claim) for claim in claims]
        for name in names:
            self.client.delete(f"{objects.pods_path(self.namespace)}/{name}")
        gone = [(f"pod {name}", "there") for name in names] + [(f"claim {claim}", "there") for claim in claims]
        gone += [(f"{where} {self.node}", uid) for uid in uids for where in ("spec", "status")]
        self.timeline.until_not(gone, PATIENCE)

    def claim_of(self, pod: str) -> str:
        """Raises KeyError if it has none."""
        return self.timeline.word(f"pod {pod}", "claim ").removeprefix("claim ")

    def uid_of(self, claim: str) -> str:
        """Raises KeyError if there is no such claim."""
        return self.timeline.word(f"claim {claim}", "uid ").removeprefix("uid ")

    def _has_claim(self, pod: str) -> bool:
        with contextlib.suppress(KeyError):
            return bool(self.claim_of(pod))
        return False

    def _times(self, name: str, created: float, claimed: bool) -> dict[str, float]:
        times = {"created": created, "running": self.timeline.since(f"pod {name}", "Running")}
        if claimed:
            claim = self.claim_of(name)
            uid = self.uid_of(claim)
            # A pod may run before the node's status has reached the API: the kubelet doesn't wait for that.
            self.timeline.until([(f"status {self.node}", f"{uid} Ready")], PATIENCE)
            times |= {
                "allocated": self.timeline.since(f"claim {claim}", "allocated"),
                "entry": self.timeline.since(f"spec {self.node}", uid),
                "ready": self.timeline.since(f"status {self.node}", f"{uid} Ready"),
            }
        return times


@contextlib.contextmanager
def seen(client: KubeClient, node: str, namespace: str) -> Iterator[Cluster]:
    """Watch pods, claims and the node's object while the context lasts."""
    timeline = Timeline()
    with contextlib.ExitStack() as closing:
        for path, facts in (
            (objects.claims_path(namespace), objects.facts_of_claim),
            (objects.pods_path(namespace), objects.facts_of_pod),
            (objects.NODE_STATES, objects.facts_of_node_state),
        ):
            closing.enter_context(followed(client, path, timeline, facts))
        yield Cluster(client=client, timeline=timeline, node=node, namespace=namespace)


def figures(staff: Staff, *, more: int) -> Iterator[Figure]:
    """Starts, pods, memory, processor time and ends."""
    staff.start_cluster(actors=True)
    client = staff.client()
    with contextlib.closing(client), seen(client, NODE, NAMESPACE) as cluster:
        yield from _started(staff, client)
        cluster.add_template("shared", objects.claim_spec("shared.gpu.intel.com", memory="512Mi"))
        cluster.add_template("whole", objects.claim_spec("gpu.intel.com"))
        cluster.delete_pods(_warmed(cluster))
        for pods, times in ((1, 10 * more), (20, 2 * more), (100, more)):
            yield from burst(cluster, pods, None, times, what="no claim")
            before = _used(staff)
            yield from burst(cluster, pods, "shared", times, what="shares of GPUs")
            if pods > 1:
                yield from _cost(staff, before, pods * times)
        yield from burst(cluster, 1, "whole", 10 * more, what="a whole GPU")
        yield from _memory(staff)
    yield from _ended(staff)


def burst(
    cluster: Cluster,
    pods: int,
    template: str | None,
    times: int,
    *,
    what: str,
) -> Iterator[Figure]:
    """So many pods at once, several times: how long each took, of it each hop, and all together."""
    rounds: list[list[dict[str, float]]] = []
    for number in range(times):
        names = [f"{(template or 'none')}-{pods}-{number}-{pod}" for pod in range(pods)]
        rounds.append(cluster.run_pods(names, template))
        cluster.delete_pods(names)
    each = [times for one in rounds for times in one]
    title = f"{pods} pod{'s at once' if pods > 1 else ''}, {what}: create → Running"
    yield milliseconds(title, [one["running"] - one["created"] for one in each])
    if pods > 1:
        whole = [max(one["running"] for one in of) - min(one["created"] for one in of) for of in rounds]
        yield milliseconds("  first created → last Running", whole)
    if template is not None:
        median = statistics.median(one["running"] - one["created"] for one in each)
        for name, first, last in _HOPS:
            took = [one[last] - one[first] for one in each]
            yield milliseconds(f"  {name}", took, note=f"{100 * statistics.median(took) / median:.0f} %")


def until_slices(client: KubeClient) -> None:
    """Wait until the node offers something."""
    until(lambda: b'"nodeName"' in client.get(f"{objects.RESOURCE}/resourceslices"), "slices")


def until_no_vfs(staff: Staff) -> None:
    """Wait until no GPU is split any more."""
    file = staff.places.status_file
    until(lambda: not any(one.sriov and one.sriov.enabled for one in read_status(file).status.devices), "no VFs")


def _warmed(cluster: Cluster) -> list[str]:
    names = ["warm-up"]
    cluster.run_pods(names, "shared")
    return names


def _started(staff: Staff, client: KubeClient) -> Iterator[Figure]:
    """Start each once, in the order of a new node; the sign that it serves is what others see of it."""
    began = time.perf_counter()
    staff.start_controller()
    until(lambda: ": leading " in staff.log("controller"), "the controller")
    yield milliseconds("controller: start → leads", [time.perf_counter() - began], budget=START_BUDGET_MS)
    agent = time.perf_counter()
    staff.start_agent()
    status = staff.places.status_file
    until(lambda: status.exists() and bool(read_status(status).status.devices), "the agent's status")
    yield milliseconds("node agent: start → status file", [time.perf_counter() - agent], budget=START_BUDGET_MS)
    until(staff.places.server_file.exists, "what the API server is like")
    began = time.perf_counter()
    staff.start_plugin()
    yield milliseconds("plugin: start → sockets", [staff.until_plugin_serves() - began], budget=START_BUDGET_MS)
    until_slices(client)
    yield milliseconds("start of the node agent → slices visible", [time.perf_counter() - agent])


def at_rest(staff: Staff, seconds: float) -> Iterator[Figure]:
    """Processor time and memory while nothing happens."""
    time.sleep(2.0)
    before = _used(staff)
    time.sleep(seconds)
    for name, used in _used(staff).items():
        percent = 100 * (used - before[name]) / seconds
        yield Figure(
            name=f"{name}: idle processor time",
            samples=(percent,),
            unit="%",
            budget=IDLE_BUDGET_PERCENT,
            note=f"of one core over {seconds:.0f} s, no claims, no kubelet",
        )
    yield from _memory(staff)


def _memory(staff: Staff) -> Iterator[Figure]:
    for name in OURS:
        yield Figure(
            name=f"{name}: resident memory",
            samples=(staff.resident_mib(name),),
            unit="MiB",
            budget=RSS_BUDGETS_MIB.get(name),
        )


def _used(staff: Staff) -> dict[str, float]:
    return {name: staff.processor_seconds(name) for name in OURS}


def _cost(staff: Staff, before: dict[str, float], pods: int) -> Iterator[Figure]:
    for name, used in _used(staff).items():
        spent = 1000 * (used - before[name]) / pods
        yield Figure(name=f"  {name}: processor time a pod, come and gone", samples=(spent,), unit="ms")


def _ended(staff: Staff) -> Iterator[Figure]:
    for name in ("plugin", "agent", "controller"):
        yield milliseconds(f"{name}: SIGTERM → exit", [staff.end(name)])
