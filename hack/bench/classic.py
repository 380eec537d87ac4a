"""Classic DRA, in which our controller allocates: pods and claims per second, and how long a question takes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import kubesim
from hack.bench.classic_town import GPUS, NODE_STATES, Ask, ClassicTown
from hack.bench.controller import cpu_seconds, memory, running
from hack.bench.figures import Figure, milliseconds
from kubesim.values import encode
from reconciler.controller.classic.ledger import Ledger
from reconciler.controller.controller_metrics import DECLARED
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.node_states import NodeStates
from reconciler.controller.turns import Turns
from reconciler.node.tables import load_tables
from reconciler.runtime.kube.config import Cluster
from reconciler.runtime.kube.connecting import connect
from reconciler.runtime.metrics import NoMetrics
from state.classic.parameters import ClaimParameters, ClassParameters, DeviceType
from state.classic.spots import Policy
from state.classic.wishes import Wish
from state.dra.node_object import read_node_object
from state.dra.resource_claims import ClaimRef

NODES = 100
MOST_POTENTIAL = 128
IN_FLIGHT = 50
MILLISECONDS_PER_POD = 10.0
"""100 pods a second."""
_TYPES = {"gpu": "whole GPUs", "vf": "VFs"}


def figures(where: Path, *, more: int) -> Iterator[Figure]:
    """All that is measured of classic DRA."""
    for kind in _TYPES:
        yield from _negotiation(where / kind, kind, pods=600 * more)
    yield from _questions(where / "questions", times=50 * more)


def _negotiation(where: Path, kind: str, *, pods: int) -> Iterator[Figure]:
    """Pods of one claim each on 100 nodes, a question about all nodes each; then all claims are deleted."""
    where.mkdir(parents=True)
    town = ClassicTown(NODES)
    asks = _asks("pod", kind, town.nodes, min(pods, NODES * GPUS), town.nodes)
    town.make_pods(asks)
    with (
        kubesim.serving(town.cluster, where, tls=False) as served,
        town.alive(),
        running(where, served.url) as process,
    ):
        town.until_adopted()
        us, server = cpu_seconds(process.pid), _own_seconds()
        seconds, took = town.negotiate(asks, in_flight=IN_FLIGHT)
        us, server = cpu_seconds(process.pid) - us, _own_seconds() - server
        size = f"{NODES} nodes × {GPUS} GPUs, {_TYPES[kind]}"
        yield Figure(
            name=f"classic: pods allocated, {size}",
            samples=(len(asks) / seconds,),
            unit="/s",
            note=f"{IN_FLIGHT} in flight, {len(town.nodes)} potential nodes each",
        )
        yield Figure(
            name="  a pod",
            samples=(1000 * seconds / len(asks),),
            budget=MILLISECONDS_PER_POD,
            note="100 pods/s",
        )
        yield milliseconds("  PodScheduling created → allocation written", took)
        yield from _shares(us, server, len(asks))
        us, server = cpu_seconds(process.pid), _own_seconds()
        seconds, took = town.delete_pods([ask.name for ask in asks], in_flight=IN_FLIGHT)
        us, server = cpu_seconds(process.pid) - us, _own_seconds() - server
        yield Figure(name=f"classic: claims deallocated, {size}", samples=(len(asks) / seconds,), unit="/s")
        yield milliseconds("  claim deleted → gone", took, note="nodes report 20 ms after their spec changes")
        yield from _shares(us, server, len(asks))
        yield Figure(name="  controller RSS", samples=(memory(process.pid, "VmRSS"),), unit="MiB")


def _shares(us: float, server: float, pods: int) -> Iterator[Figure]:
    """Who used the processors: as each has one interpreter lock, 1 s is the most in a second."""
    yield Figure(name="  CPU of the controller a pod", samples=(1000 * us / pods,))
    note = "with scheduler and nodes: its ceiling"
    yield Figure(name="  simulated cluster alone could do", samples=(pods / server,), unit="/s", note=note)


def _questions(where: Path, *, times: int) -> Iterator[Figure]:
    """One pod's question about 128 nodes with half of their GPUs in use."""
    where.mkdir(parents=True)
    town = ClassicTown(MOST_POTENTIAL)
    users: list[Ask] = []
    for kind, each in (("gpu", GPUS // 2 - 1), ("vf", 1)):
        users += _asks(f"user-{kind}", kind, town.nodes, each * len(town.nodes), ())
    askers = [
        Ask(name=f"q-{number}", type=("gpu", "vf")[number % 2], potential=town.nodes) for number in range(times)
    ]
    town.make_pods([*users, *askers])
    with kubesim.serving(town.cluster, where, tls=False) as served, town.alive():
        with running(where, served.url) as process:
            town.until_adopted()
            town.negotiate(users, in_flight=IN_FLIGHT)
            took = []
            before = cpu_seconds(process.pid)
            for ask in askers:
                took.append(town.question(ask))
                town.forget(ask.name)
            used = 1000 * (cpu_seconds(process.pid) - before) / times
            yield milliseconds(f"classic: PodScheduling → answer, {MOST_POTENTIAL} nodes, half in use", took)
            yield Figure(name="  CPU of the controller", samples=(used,))
        yield from _in_process(town, served.kubeconfig, times)


def _in_process(town: ClassicTown, kubeconfig: Path, times: int) -> Iterator[Figure]:
    """The same question without the API server in between: what the ledger needs to look at all nodes."""
    knowledge = Knowledge(time.monotonic)
    for node in town.nodes:
        raw = encode(town.cluster.get(f"{NODE_STATES}/{node}"))
        knowledge.take_node(node, read_node_object(raw, inventory=True))
    client = connect(Cluster(user_agent="gpu-bench", kubeconfig=kubeconfig))
    node_states = NodeStates(client, knowledge, NoMetrics(DECLARED), inventory=lambda: True)
    tables = load_tables("").profiles
    wishes = {kind: [_wish(kind)] for kind in DeviceType}
    for kind in DeviceType:
        ledger = Ledger(node_states, knowledge, Turns(), tables, Policy())
        first, *later = [_look_at_all(ledger, town.nodes, wishes[kind]) for _ in range(1 + times)]
        name = f"  of it: {MOST_POTENTIAL} nodes looked at for type {kind.value}"
        yield milliseconds(name, later, note=f"the first time {1000 * first:.0f} ms")
    client.close()


def _look_at_all(ledger: Ledger, nodes: Sequence[str], wishes: Sequence[Wish]) -> float:
    began = time.perf_counter()
    for node in nodes:
        ledger.unsuitable(node, wishes)
    return time.perf_counter() - began


def _wish(kind: DeviceType) -> Wish:
    claim = ClaimParameters(type=kind)
    return Wish(uid="uid", ref=ClaimRef("default", "claim"), claim=claim, of_class=ClassParameters())


def _asks(name: str, kind: str, nodes: Sequence[str], pods: int, potential: Sequence[str]) -> list[Ask]:
    """Pods, one node after the other."""
    return [
        Ask(name=f"{name}-{number}", type=kind, selected=nodes[number % len(nodes)], potential=potential)
        for number in range(pods)
    ]


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system
