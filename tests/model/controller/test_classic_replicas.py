"""Several negotiating replicas with stale caches that may die at any request, an unreliable server, and people,
nodes and a scheduler who never rest.

Every write is judged at once (classic_judge.py). When all come to rest every pod has been answered or served, and
nothing stands in a ledger that no claim has; when all claims are gone nothing is left.

MODEL_EXAMPLES=2000 makes it a long run.
"""

import os

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from state.classic.claims import ClassicReader
from state.classic.parameters import ClassParameters, find_kind
from state.classic.placing import Unsuitable, place
from state.classic.sources import room_on
from state.classic.spots import Policy
from state.classic.wishes import Wish
from state.dra.node_object import read_node_object
from tests.model.controller.classic_judge import devices_of, handed
from tests.model.controller.classic_paper import NAMESPACE, Crash, Raw, is_releasing, node_of
from tests.model.controller.classic_replicas import KINDS
from tests.model.controller.classic_scene import NODES, SHARED, WISHES, Scene
from tests.model.controller.paper_server import Fault
from tests.unit.state.dra.objects import table

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "120"))
PODS = tuple(f"p{number}" for number in range(4))
Arrival = tuple[str, list[str], list[str], str]

pods = st.sampled_from(PODS)
nodes = st.sampled_from(sorted(NODES))
replicas = st.integers(0, 1)
wishes = st.lists(st.sampled_from(sorted(WISHES)), min_size=1, max_size=3)
external = st.sampled_from(["x0", "x1"])
arrivals = st.lists(st.tuples(pods, wishes, st.lists(external, max_size=1), nodes), min_size=1, max_size=3)
potential = st.sampled_from([("n0", "n1"), ("n1", "n0"), ("n0",), ("n1",)])


class ClassicReplicas(RuleBasedStateMachine):
    scene: Scene

    @initialize(leading=st.sampled_from([(True, False), (True, True), (False, False)]), come=arrivals)
    def begin(self, leading: tuple[bool, bool], come: list[Arrival]) -> None:
        self.scene = Scene(leading)
        self.server = self.scene.server
        self.business_as_usual(0, come, prompt=True)

    # Users

    @rule(pod=pods, own=wishes, used=st.lists(external, max_size=1))
    def make_pod(self, pod: str, own: list[str], used: list[str]) -> None:
        if (NAMESPACE, pod) not in self.server.pods:
            self.scene.make_pod(pod, own, used)

    @rule(name=external, wish=st.sampled_from(sorted(WISHES)), immediate=st.booleans())
    def make_external(self, name: str, wish: str, immediate: bool) -> None:
        if (NAMESPACE, name) not in self.server.claims:
            self.scene.make_claim(name, wish, immediate=immediate)

    @rule(name=external)
    def delete_external(self, name: str) -> None:
        if (NAMESPACE, name) in self.server.claims:
            self.server.delete_claim((NAMESPACE, name))

    @rule(pod=pods, at_once=st.booleans())
    def end(self, pod: str, at_once: bool) -> None:
        self.scene.end(pod)
        if at_once:
            self.scene.collect()

    # The scheduler

    @rule(pod=pods, potential=potential, selected=st.sampled_from(["", "n0", "n1"]))
    def ask(self, pod: str, potential: tuple[str, ...], selected: str) -> None:
        if (NAMESPACE, pod) in self.server.pods:
            self.scene.ask(pod, potential, selected)

    @rule(pod=pods, bind=st.booleans())
    def go_on(self, pod: str, bind: bool) -> None:
        """It binds the pod, or gives back what it has and begins again."""
        if not (bind and self.scene.bind(pod)):
            self.scene.give_back(pod)

    @rule(replica=replicas, come=arrivals, prompt=st.booleans())
    def business_as_usual(self, replica: int, come: list[Arrival], prompt: bool) -> None:
        """Pods come, whoever is first serves them, and (unless nodes are slow) they run."""
        for pod, own, used, node in come:
            self.make_pod(pod, own, used)
            self.scene.ask(pod, ["n0", "n1"], node)
        self.scene.catch_up(replica)
        for pod, *_ in come:
            self.scene.bind(pod)
        for agent in self.scene.agents.values() if prompt else ():
            agent.report(prepare=True)

    @rule(replica=replicas, come=arrivals, gone=st.lists(pods, max_size=2))
    def pods_make_room(self, replica: int, come: list[Arrival], gone: list[str]) -> None:
        """Some pods end just when others come."""
        for pod in gone:
            self.scene.end(pod)
        self.scene.collect()
        self.business_as_usual(replica, come, prompt=False)
        for node in NODES:
            self.report(node, prepare=True, ended=True)

    # Nodes, and people who have a say in them

    @rule(node=nodes, prepare=st.booleans(), ended=st.booleans())
    def report(self, node: str, prepare: bool, ended: bool) -> None:
        if ended:
            self.scene.agents[node].unprepare()
        self.scene.agents[node].report(prepare=prepare)

    @rule(node=nodes, really=st.integers(0, 9))
    def lose_the_object(self, node: str, really: int) -> None:
        if node not in self.server.nodes:
            self.scene.make_object(node)
            if really > 2:
                self.scene.agents[node].report(prepare=False)
        elif not really:
            self.scene.lose_object(node)

    @rule(node=nodes, really=st.integers(0, 9))
    def lose_the_node(self, node: str, really: int) -> None:
        """The machine is taken away for good, with whatever ran there."""
        if really or node not in self.server.machines:
            self.server.machines.add(node)
            return
        self.server.machines.remove(node)
        self.scene.agents[node].forget()
        if node in self.server.nodes:
            self.scene.lose_object(node)

    @rule(node=nodes, release=st.booleans())
    def intervene(self, node: str, release: bool) -> None:
        """A person lets the node forget what it holds, or keeps a GPU of it from claims for a while."""
        raw = self.server.nodes.get(node)
        if raw is None:
            return
        gpu = self.scene.agents[node].gpus[0]["name"]
        ending = [claim["metadata"]["uid"] for claim in self.server.claims.values() if _ending_on(claim, node)]
        drained = [] if raw["spec"].get("overrides") else [{"device": gpu, "mode": "Drain", "reason": "repair"}]
        self.scene.change_spec(node, **({"releases": ending} if release else {"overrides": drained}))

    # The controller and its troubles

    @rule(replica=replicas, kind=st.sampled_from(KINDS), most=st.integers(1, 4))
    def hear(self, replica: int, kind: str, most: int) -> None:
        self.scene.replicas[replica].hear(kind, most)

    @rule(replica=replicas, kind=st.sampled_from(KINDS), gap=st.booleans())
    def hear_all(self, replica: int, kind: str, gap: bool) -> None:
        one = self.scene.replicas[replica]
        (one.relist if gap else one.hear)(kind)

    @rule(replica=replicas, tasks=st.integers(1, 4))
    def work(self, replica: int, tasks: int) -> None:
        for _ in range(tasks):
            self.scene.work(replica)

    @rule(replica=replicas)
    def catch_up(self, replica: int) -> None:
        self.scene.catch_up(replica)

    @rule(replica=replicas, leading=st.booleans())
    def lead(self, replica: int, leading: bool) -> None:
        self.scene.replicas[replica].leading = leading

    @rule(replica=replicas)
    def restart(self, replica: int) -> None:
        self.scene.restart(replica)

    @rule(after=st.integers(0, 6), done=st.booleans(), replica=replicas)
    def die(self, after: int, done: bool, replica: int) -> None:
        self.server.crash = Crash(after=after, done=done)
        self.scene.catch_up(replica)
        self.server.crash = None

    @rule(status=st.sampled_from([500, 429, 403, 0]), times=st.integers(1, 3))
    def fail(self, status: int, times: int) -> None:
        """The next requests fail, or (status 0) are done without an answer."""
        self.server.faults += [Fault(status=status, lost_answer=not status)] * times

    @rule(seconds=st.sampled_from([0.1, 0.3, 2.5, 6.0, 130.0]))
    def pass_time(self, seconds: float) -> None:
        """Caches may be behind, but never longer than a watch can hang unnoticed (90 s)."""
        for replica in self.scene.replicas if seconds > 90 else ():
            for kind in KINDS:
                replica.hear(kind)
        self.scene.pass_time(seconds)

    @rule(replica=replicas, pod=pods, node=nodes, act=st.integers(0, 5), after=st.integers(0, 3))
    def come_between(self, replica: int, pod: str, node: str, act: int, after: int) -> None:
        """Just before one of the next writes is judged somebody else does something."""
        acts = [
            lambda: self.scene.catch_up(replica),
            lambda: self.end(pod, at_once=True),
            lambda: self.ask(pod, ("n0", "n1"), node),
            lambda: self.go_on(pod, bind=False),
            lambda: self.report(node, prepare=True, ended=True),
            lambda: self.delete_external("x0"),
        ]
        self.server.before_write[:0] = [acts[act], *([lambda: None] * after)]

    # Rest

    def teardown(self) -> None:
        if not hasattr(self, "scene"):
            return
        scene, server = self.scene, self.server
        server.faults.clear()
        server.before_write.clear()
        scene.replicas[0].leading = True
        for name in NODES:
            server.machines.add(name)
            if name not in server.nodes:
                scene.make_object(name)
        scene.settle()
        self.judge_rest()
        for pod in PODS:
            scene.end(pod)
        for ref in list(server.claims):
            server.delete_claim(ref)
        scene.settle()
        assert server.claims == {}
        assert all(scene.ledger(name) == {} for name in NODES)

    def judge_rest(self) -> None:
        wanted = {
            claim["metadata"]["uid"]
            for _, pod in self.server.schedulings
            for claim in self.scene.claims_of(pod).values()
        }
        for claim in self.server.claims.values():
            uid, bare = claim["metadata"]["uid"], not claim["metadata"].get("finalizers")
            entries = {node: entry for node in NODES if (entry := self.scene.ledger(node).get(uid))}
            if node_of(claim):
                assert not is_releasing(claim), f"{uid} is not deallocated"
                assert {node: devices_of(one) for node, one in entries.items()} == {node_of(claim): handed(claim)}
                continue
            assert bare or uid in wanted or _is_immediate(claim), f"{uid} is kept for nobody"
            assert not (entries and bare), f"{uid} has strays on {entries.keys()}"
            if _is_immediate(claim):
                assert all(self.unsuitable(node, [claim]) for node in NODES), f"{uid} could be allocated"
        uids = {claim["metadata"]["uid"] for claim in self.server.claims.values()}
        assert all(self.scene.ledger(node).keys() <= uids for node in NODES)
        for (_, pod), scheduling in self.server.schedulings.items():
            self.judge_pod(pod, scheduling)

    def judge_pod(self, pod: str, scheduling: Raw) -> None:
        """Every node has been judged as it is, and the selected one, if it is suitable, taken for all claims."""
        claims = self.scene.claims_of(pod)
        if len(claims) < len(self.server.pods[NAMESPACE, pod]["spec"]["resourceClaims"]):
            return
        pending = {name: claim for name, claim in claims.items() if not (_is_immediate(claim) or node_of(claim))}
        if not pending:
            return
        selected = scheduling["spec"].get("selectedNode", "")
        asked = {selected, *scheduling["spec"]["potentialNodes"]} - {""}
        bound = {node_of(claim) for claim in claims.values() if node_of(claim)}
        unsuitable = {node for node in asked if bound - {node} or self.unsuitable(node, list(pending.values()))}
        assert selected not in asked - unsuitable, f"{pod} could have {selected}"
        told = self.scene.answers(pod)
        assert {name: set(told.get(name, ())) for name in pending} == dict.fromkeys(pending, unsuitable)

    def unsuitable(self, node: str, claims: list[Raw]) -> bool:
        state = read_node_object(msgspec.json.encode(self.server.nodes[node]), inventory=True)
        return isinstance(place(room_on(state, table()), [_wish(claim) for claim in claims], Policy()), Unsuitable)


def _wish(raw: Raw) -> Wish:
    claim = ClassicReader().negotiated(msgspec.json.encode(raw))
    assert claim.parameters is not None
    kind = find_kind(claim.parameters.api_group, claim.parameters.kind, of_class=False)
    parameters = kind.decode(msgspec.json.encode({"spec": WISHES[claim.parameters.name]}))
    of_class = ClassParameters(shared=claim.class_name == SHARED)
    return Wish(uid=claim.uid, ref=claim.ref, claim=parameters, of_class=of_class)


def _is_immediate(claim: Raw) -> bool:
    return bool(claim["spec"]["allocationMode"] == "Immediate")


def _ending_on(claim: Raw, node: str) -> bool:
    return node_of(claim) == node and is_releasing(claim)


TestClassicReplicas = pytest.mark.slow(pytest.mark.timeout(60 + EXAMPLES)(ClassicReplicas.TestCase))
TestClassicReplicas.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    phases=[Phase.explicit, Phase.reuse, Phase.generate]
    + ([Phase.shrink] if "MODEL_SHRINK" in os.environ else []),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    deadline=None,
)
