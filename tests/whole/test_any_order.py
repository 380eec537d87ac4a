"""Whatever happens in whatever order, from pod to container and back: nobody gets what another one uses.

WHOLE_EXAMPLES=500 makes it a long run. WHOLE_SHRINK=0, the default where CI is set, stops at the first
counterexample as it is; WHOLE_SHRINK=1 makes it small first, which takes minutes.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kubesim.actors.api import deleting
from kubesim.faults import Fault
from kubesim.faults import Rule as FaultRule
from tests.model.rules import FAULTS, GPUS
from tests.whole.people import People
from tests.whole.settling import check, everybody_leaves, settle
from tests.whole.towns import CLAIMS, NAMES, Town
from tests.whole.uses import USES

EXAMPLES = int(os.environ.get("WHOLE_EXAMPLES", "25"))
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
if os.environ.get("WHOLE_SHRINK", "0" if os.environ.get("CI") else "1") != "0":
    PHASES.append(Phase.shrink)

pytestmark = pytest.mark.timeout(60 + 60 * EXAMPLES)

FLEX, PRO = (GPUS[address] for address in sorted(GPUS))
MOST_PODS = 7
PICK = st.integers(0, 9)
NODE = st.sampled_from(NAMES)
WISHES = st.sampled_from(
    [
        (FLEX, None),
        (PRO, None),
        (FLEX, {"mode": "Drain"}),
        (PRO, {"mode": "Drain"}),
        (FLEX, {"mode": "Fixed"}),
        (FLEX, {"mode": "Fixed", "virtualFunctions": {"profile": "flex170_m2"}}),
        (PRO, {"mode": "Fixed", "virtualFunctions": {"profile": "fs2"}}),
        (FLEX, {"mode": "Ignore"}),
    ]
)
BY_HAND = st.sampled_from(["", "", FLEX, f"{FLEX}-m2-vf0", f"{PRO}-fs2-vf1", f"{PRO}-shared"])
POLICIES = st.sampled_from(
    [
        {},
        {},
        {"layout": "Pinned"},
        {"layout": "CounterFree"},
        {"profiles": ["m2", "fs2"]},
        {"sharedMemory": False},
    ]
)
API_FAULTS = st.sampled_from(
    [Fault.REFUSED, Fault.DROPPED, Fault.LOST, Fault.CONFLICT, Fault.THROTTLED, Fault.INTERNAL, Fault.UNAVAILABLE]
)
MISFORTUNES = (
    *("agent", "plugin", "kubelet", "machine", "machine", "slices", "object", "file", "no file"),
    *("plug", *sorted(GPUS)),
)
WHERE = st.sampled_from(["", "gpunodestates", "resourceslices", "resourceclaims"])


class AnyOrder(RuleBasedStateMachine):
    """Two nodes with two GPUs each, and everybody who has to do with them."""

    town: Town
    people: People

    @initialize(
        replicas=st.sampled_from([1, 1, 2]), nodes=st.sampled_from([1, 1, 2]), patience=st.sampled_from([0, 0, 6])
    )
    def begin(self, replicas: int, nodes: int, patience: int) -> None:
        self.town = Town(replicas=replicas, nodes=nodes, patience=patience)
        self.people = People(self.town)
        for _ in range(3):
            self.town.round()
            self.town.pass_time(1.1)

    def teardown(self) -> None:
        if not hasattr(self, "town"):
            return
        try:
            everybody_leaves(self.town, self.people)
        finally:
            self.town.close()

    @invariant()
    def all_is_well(self) -> None:
        check(self.town)

    # -- people --------------------------------------------------------------------------------------------

    @rule(use=st.sampled_from(sorted(USES)), shared=st.sampled_from([False, False, False, True]))
    @precondition(lambda self: len(self.town.pods()) < MOST_PODS)
    def ask(self, use: str, shared: bool) -> None:
        self.people.ask(use, shared=shared)

    @rule(uses=st.lists(st.sampled_from(sorted(USES)), min_size=1, max_size=4), rounds=st.integers(1, 5))
    @precondition(lambda self: len(self.town.pods()) < MOST_PODS)
    def ask_and_go_on(self, uses: list[str], rounds: int) -> None:
        for use in uses:
            self.people.ask(use, shared=False)
        self.go_on(rounds)

    @rule(
        pick=PICK,
        use=st.sampled_from(sorted(USES)),
        what=st.sampled_from(["pod", "pod by force", "claim"]),
        late=st.booleans(),
    )
    def replace(self, pick: int, use: str, what: str, late: bool) -> None:
        """Somebody's devices are given to somebody else, of whom a ``late`` kubelet hears first."""
        if what == "claim":
            self.force_delete_claim(pick)
        else:
            self.delete_pod(pick, force=what != "pod")
        self.people.ask(use, shared=False)
        for _ in range(3):
            self.town.decide()
            for node in self.town.nodes.values():
                node.agent_round()
        if not late:
            self.go_on(1)
        for node in self.town.nodes.values():
            for name in sorted(self.people.uses, reverse=True):
                node.kubelet.sync_pod(name)
                node.agent_round()
                node.drivers.look()

    @rule(use=st.sampled_from(sorted(USES)), wish=WISHES, then=st.sampled_from(["vf", "whole", "shared"]))
    @precondition(lambda self: len(self.town.pods()) < MOST_PODS)
    def want_it_back(self, use: str, wish: tuple[str, dict[str, object] | None], then: str) -> None:
        """People want a GPU otherwise when a claim has just got it, and the controller has not heard of that."""
        self.town.decide()
        self.people.ask(use, shared=False)
        self.town.schedule()
        for name in self.town.nodes:
            self.people.override(name, *wish)
        for _ in range(4):
            for node in self.town.nodes.values():
                node.agent_round()
            for replica in self.town.replicas:
                replica.hear_nodes()
                replica.work()
            self.town.pass_time(1.1)
        self.people.ask(then, shared=False)
        self.town.schedule()

    @rule(pick=PICK, force=st.booleans())
    def delete_pod(self, pick: int, force: bool) -> None:
        pods = self.town.pods()
        names = sorted(name for name in pods if force or not deleting(pods[name]))
        if names:
            self.town.delete_pod(names[pick % len(names)], force=force)

    @rule(pick=PICK)
    def force_delete_claim(self, pick: int) -> None:
        claims = self.town.cluster.get(CLAIMS)["items"]
        if claims:
            self.people.force_delete_claim(claims[pick % len(claims)]["metadata"]["name"])

    @rule(pick=PICK)
    @precondition(lambda self: len(self.town.pods()) < MOST_PODS)
    def ask_again(self, pick: int) -> None:
        claims = [claim["metadata"]["name"] for claim in self.town.cluster.get(CLAIMS)["items"]]
        if claims:
            self.people.ask_again(claims[pick % len(claims)])

    @rule(node=NODE, wish=WISHES)
    def override(self, node: str, wish: tuple[str, dict[str, object] | None]) -> None:
        if node in self.town.nodes:
            self.people.override(node, *wish)

    @rule(node=NODE, device=BY_HAND)
    def take_by_hand(self, node: str, device: str) -> None:
        if node in self.town.nodes:
            self.people.take_by_hand(node, device)

    @rule(node=NODE, policy=POLICIES)
    def decide(self, node: str, policy: dict[str, object]) -> None:
        if node in self.town.nodes:
            self.people.decide(node, policy)

    @rule(node=NODE, paused=st.sampled_from([False, True]))
    def pause(self, node: str, paused: bool) -> None:
        if node in self.town.nodes:
            self.people.pause(node, paused=paused)

    # -- turns ---------------------------------------------------------------------------------------------

    @rule(rounds=st.integers(1, 6))
    def go_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self.town.round()
            check(self.town)
            self.town.pass_time(1.1)

    @rule(seconds=st.sampled_from([0.3, 1.1, 2.5, 31.0, 130.0]))
    def pass_time(self, seconds: float) -> None:
        self.town.pass_time(seconds)

    @rule()
    def schedule(self) -> None:
        self.town.schedule()

    @rule(number=st.integers(0, 1), what=st.sampled_from(["all", "nodes", "claims", "work"]))
    def control(self, number: int, what: str) -> None:
        replica = self.town.replicas[number % len(self.town.replicas)]
        if what in ("all", "claims"):
            replica.hear_claims()
        if what in ("all", "nodes"):
            replica.hear_nodes()
        if what in ("all", "work"):
            replica.work()

    @rule(node=NODE, what=st.sampled_from(["hear", "deal", "pass", "pass", "work", "plugin", "sync", "sync"]))
    def turn(self, node: str, what: str) -> None:
        there = self.town.nodes.get(node)
        if there is None:
            return
        acts = {
            "hear": there.hear,
            "deal": there.deal,
            "pass": there.one_pass,
            "work": there.work_all,
            "plugin": there.drivers.look,
            "sync": there.kubelet.sync,
        }
        acts[what]()

    @rule()
    def come_to_rest(self) -> None:
        settle(self.town, self.people)

    # -- misfortune ----------------------------------------------------------------------------------------

    @rule(node=NODE, fault=st.sampled_from(["none", *FAULTS]))
    def fault(self, node: str, fault: str) -> None:
        if node in self.town.nodes:
            machine = self.town.nodes[node].bench.machine
            if fault == "none":
                machine.clear_faults()
            else:
                machine.add_faults(FAULTS[fault])

    @rule(fault=API_FAULTS, where=WHERE, count=st.integers(1, 4))
    def api_fault(self, fault: Fault, where: str, count: int) -> None:
        method = "" if fault is not Fault.CONFLICT else "PUT"
        self.town.cluster.add_fault(FaultRule(fault=fault, method=method, path=where, count=count))

    @rule(node=NODE, writes=st.integers(0, 20))
    def kill_agent(self, node: str, writes: int) -> None:
        if node in self.town.nodes:
            self.town.nodes[node].kill_after(writes)

    @rule(node=NODE, what=st.sampled_from(MISFORTUNES))
    def misfortune(self, node: str, what: str) -> None:
        there = self.town.nodes.get(node)
        if there is None:
            return
        if what == "agent":
            there.restart_agent()
        elif what == "plugin":
            there.drivers.restart()
        elif what == "kubelet":
            there.kubelet.restart()
        elif what == "machine":
            there.reboot()
        elif what == "slices":
            self.town.wipe_slices(node)
        elif what == "object":
            self.people.lose_node_state(node)
        elif what == "file":
            there.damage_file("spec: [this is no manifest")
        elif what == "no file":
            there.damage_file(None)
        elif what == "plug":
            there.plug()
        else:
            there.unplug(what)

    @rule(number=st.integers(0, 1))
    def restart_controller(self, number: int) -> None:
        self.town.restart_controller(number % len(self.town.replicas))

    @rule(number=st.integers(0, 1), leading=st.booleans())
    def lead(self, number: int, leading: bool) -> None:
        self.town.replicas[number % len(self.town.replicas)].leading = leading


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    phases=PHASES,
    max_examples=EXAMPLES,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    deadline=None,
)
