"""Several replicas with stale caches, an unreliable server, and people, nodes and a scheduler who never rest.

Every spec that is written is judged at once: no entry of a living allocation may vanish, none that was removed may
come back, no index may move or be given twice, nothing may be written to an object whose node has not reported, no
withdrawal may be confirmed that a claim stands against. When all come to rest every node has exactly the entries
of its claims.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.model.controller.paper_server import Fault, PaperServer
from tests.model.controller.replicas import Replica
from tests.unit.state.dra.objects import gpu_config, opaque, raw_claim, raw_node

PF = "0000-b3-00-0-0x56c0"
ROOM = {"m4": 4, "m2": 2, "": 1}
NODES = ("n0", "n1")
NAMES = tuple(f"c{number}" for number in range(6))

nodes = st.sampled_from(NODES)
modes = st.sampled_from(["m4", "m4", "m4", "m2", ""])
pods = st.lists(st.tuples(st.integers(0, 5), nodes, modes, st.integers(0, 4)), max_size=4)
replicas = st.integers(0, 1)
kinds = st.sampled_from(["claim", "node"])


def device_of(mode: str) -> str:
    return f"{PF}-{mode}" if mode else PF


@dataclass
class NodeOnPaper:
    """A node agent: what it holds for prepared claims, and which devices it wants back."""

    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    withdrawn: dict[str, tuple[str, float]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)


class Replicas(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.server = PaperServer(on_spec=self.judge)
        self.replicas = [Replica(self.server, lambda: self.now) for _ in range(2)]
        self.agents = {name: NodeOnPaper() for name in NODES}
        self.serial = itertools.count()
        self.steady: dict[tuple[str, str], dict[str, Any]] = {}
        self.removed: set[tuple[str, str]] = set()

    @initialize(leading=st.sampled_from([(True, False), (True, True), (False, False)]))
    def begin(self, leading: tuple[bool, bool]) -> None:
        for name in NODES:
            self.make_node(name)
            self.report(name, prepare=False)
        for number, replica in enumerate(self.replicas):
            replica.leading = leading[number]
            self.catch_up(number)

    # The cluster's other inhabitants

    @rule(pods=pods)
    def burst(self, pods: list[tuple[int, str, str, int]]) -> None:
        for pod in pods:
            self.allocate(*pod)

    def allocate(self, number: int, node: str, mode: str, bad: int) -> None:
        """The scheduler: one mode per GPU, no more than fits, nothing that has been withdrawn for a while."""
        free = [name for name in NAMES if not self.server.claims.get(("ml", name), {}).get("status")]
        there = [result["device"] for result in self.allocated(node).values()]
        agent, device = self.agents[node], there[0] if there else device_of(mode)
        mode = device.removeprefix(PF).removeprefix("-")
        if not free or len(there) >= ROOM[mode] or device in agent.hidden:
            return
        if device in agent.withdrawn and self.now - agent.withdrawn[device][1] > 0.9:
            return
        name = free[number % len(free)]
        claim = self.server.claims.get(("ml", name))
        uid = claim["metadata"]["uid"] if claim else f"uid-{next(self.serial)}"
        share = {"shareID": f"share-{next(self.serial)}"} if mode else {}
        result = {"request": "gpu", "driver": "gpu.intel.com", "pool": node, "device": device, **share}
        config = [opaque(gpu_config("drm" if bad else "nvme"))]
        self.removed.discard((uid, node))
        self.server.put_claim(raw_claim(uid, result, name=name, config=config))

    @rule(number=st.integers(0, 5), delete=st.booleans())
    def release(self, number: int, delete: bool) -> None:
        taken = sorted(name for (_, name), claim in self.server.claims.items() if claim["status"])
        if not taken:
            return
        name = taken[number % len(taken)]
        claim = self.server.claims["ml", name]
        self.steady = {key: entry for key, entry in self.steady.items() if key[0] != claim["metadata"]["uid"]}
        if delete:
            self.server.drop_claim(("ml", name))
        else:
            self.server.put_claim(raw_claim(claim["metadata"]["uid"], name=name))

    @rule(node=nodes, prepare=st.booleans())
    def report(self, node: str, prepare: bool) -> None:
        """The node agent writes its status; with `prepare` every pod that can start does."""
        raw, agent = self.server.nodes.get(node), self.agents[node]
        if raw is None:
            return
        entries = {entry["name"]: entry for entry in raw["spec"].get("allocations", ())}
        for uid, entry in entries.items() if prepare else ():
            taken = {device["device"] for held in agent.held.values() for device in held["devices"]}
            applied = [self.applied(device) for device in entry.get("devices", ())]
            if applied and not taken & {device["device"] for device in applied}:
                claim = f"{entry['claimNamespace']}/{entry['claimName']}"
                agent.held.setdefault(uid, {"name": uid, "origin": "claim", "claim": claim, "devices": applied})
        wanted = {device["device"] for entry in entries.values() for device in entry.get("devices", ())}
        confirmed = raw["spec"].get("withdrawalsConfirmed", {})
        for device, (token, _) in list(agent.withdrawn.items()):
            if device in wanted:
                del agent.withdrawn[device]
            elif confirmed.get(device) == token:
                del agent.withdrawn[device]
                agent.hidden.add(device)
        status = {
            "observedGeneration": raw["metadata"]["generation"],
            "allocations": list(agent.held.values()),
            "withdrawn": {device: token for device, (token, _) in agent.withdrawn.items()},
        }
        self.server.put_node({**raw, "status": status, "metadata": dict(raw["metadata"])})

    @rule(node=nodes)
    def unprepare(self, node: str) -> None:
        living = self.allocated(node)
        agent = self.agents[node]
        agent.held = {uid: held for uid, held in agent.held.items() if uid in living}

    @rule(node=nodes, mode=st.sampled_from(list(ROOM)))
    def withdraw_or_publish(self, node: str, mode: str) -> None:
        agent, device = self.agents[node], device_of(mode)
        if device in agent.hidden:
            agent.hidden.discard(device)
        elif device not in agent.withdrawn and node in self.server.nodes:
            agent.withdrawn[device] = (f"token-{next(self.serial)}", self.now)
            self.report(node, prepare=False)

    @rule(node=nodes, really=st.integers(0, 2))
    def lose_the_object(self, node: str, really: int) -> None:
        if really < 2 and node in self.server.nodes:
            return
        if node in self.server.nodes:
            self.server.drop_node(node)
            held = {uid: one["devices"] for uid, one in self.agents[node].held.items()}
            self.steady = {
                (uid, where): entry
                for (uid, where), entry in self.steady.items()
                if where != node or held.get(uid) == self.given(entry)
            }
        else:
            self.make_node(node)

    @rule(node=nodes)
    def meddle(self, node: str) -> None:
        """Somebody's editor leaves an entry of a claim that never was."""
        raw = self.server.nodes.get(node)
        if raw is None:
            return
        entry = {
            "name": f"ghost-{next(self.serial)}",
            "claimNamespace": "ml",
            "claimName": "ghost",
            "source": "me",
        }
        self.server.foreign.setdefault(node, set()).add(entry["name"])
        spec = {**raw["spec"], "allocations": [*raw["spec"].get("allocations", ()), entry]}
        self.server.put_node({**raw, "spec": spec, "metadata": dict(raw["metadata"])})

    # The controller and its troubles

    @rule(replica=replicas, kind=kinds, most=st.integers(1, 4))
    def hear(self, replica: int, kind: str, most: int) -> None:
        self.replicas[replica].hear(kind, most)

    @rule(replica=replicas)
    def hear_all(self, replica: int) -> None:
        for kind in ("claim", "node"):
            self.replicas[replica].hear(kind)

    @rule(replica=replicas, kind=kinds)
    def relist(self, replica: int, kind: str) -> None:
        self.replicas[replica].relist(kind)

    @rule(replica=replicas)
    def work(self, replica: int) -> None:
        self.replicas[replica].work()

    @rule(replica=replicas)
    def catch_up(self, replica: int) -> None:
        """All is heard of, and every node looked at."""
        self.hear_all(replica)
        for _ in NODES:
            self.replicas[replica].work()

    @rule(first=replicas, pods=pods)
    def business_as_usual(self, first: int, pods: list[tuple[int, str, str, int]]) -> None:
        """Pods come, whoever is first writes, the nodes prepare and report."""
        self.burst(pods)
        for number in (first, 1 - first):
            self.catch_up(number)
        for node in NODES:
            self.report(node, prepare=True)

    @rule(replica=replicas)
    def list_claims(self, replica: int) -> None:
        self.replicas[replica].list()

    @rule(replica=replicas, leading=st.booleans())
    def lead(self, replica: int, leading: bool) -> None:
        self.replicas[replica].leading = leading

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.1, 2.5, 130.0]))
    def pass_time(self, seconds: float) -> None:
        """Caches may be behind, but never longer than a watch can hang unnoticed (90 s)."""
        for number in range(len(self.replicas)) if seconds > 90 else ():
            self.hear_all(number)
        self.now += seconds
        for replica in self.replicas:
            replica.wake()

    @rule(status=st.sampled_from([500, 429, 403, 0]), times=st.integers(1, 3), looks=st.booleans())
    def fail(self, status: int, times: int, looks: bool) -> None:
        """The next requests fail, or (status 0) are done without an answer; with `looks` those for one claim."""
        only = "/namespaces/" if looks else "/"
        self.server.faults += [Fault(status=status, lost_answer=not status, only=only)] * times

    @rule(number=st.integers(0, 5), replica=replicas)
    def reallocate(self, number: int, replica: int) -> None:
        """A claim loses its device and gets the same again, as another share; one replica knows it at once."""
        taken = sorted((name, claim) for (_, name), claim in self.server.claims.items() if claim["status"])
        if not taken:
            return
        name, claim = taken[number % len(taken)]
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        self.release(number, delete=False)
        free = [name for name in NAMES if not self.server.claims.get(("ml", name), {}).get("status")]
        self.allocate(free.index(name), result["pool"], "", 1 + number)
        self.catch_up(replica)

    @rule(
        pod=st.tuples(st.integers(0, 5), nodes, modes, st.integers(1, 4)),
        replica=replicas,
        number=st.integers(0, 5),
    )
    def come_and_go(self, pod: tuple[int, str, str, int], replica: int, number: int) -> None:
        """A replica hears of a claim, then of nothing until all is over; then it learns of nodes only."""
        self.catch_up(replica)
        self.allocate(*pod)
        self.replicas[replica].hear("claim")
        self.business_as_usual_of(1 - replica)
        self.release(number, delete=True)
        self.business_as_usual_of(1 - replica)
        self.replicas[replica].relist("node")
        for _ in NODES:
            self.replicas[replica].work()

    def business_as_usual_of(self, replica: int) -> None:
        self.catch_up(replica)
        for node in NODES:
            self.report(node, prepare=True)

    @rule(replica=replicas, first=nodes, gap=st.booleans())
    def claims_watch_hangs(self, replica: int, first: str, gap: bool) -> None:
        """A replica that hears nothing of claims any more goes on with what it has."""
        for _ in range(2):
            (self.replicas[replica].relist if gap else self.replicas[replica].hear)("node")
            for _ in NODES:
                self.replicas[replica].work()
            self.replicas[replica].list()
            self.pass_time(1.1)
            self.report(first, prepare=False)

    @rule(node=nodes, replica=replicas)
    def replace_the_object(self, node: str, replica: int) -> None:
        """It is deleted and made again, and reported before anybody else does anything."""
        if node in self.server.nodes:
            self.report(node, prepare=True)
            self.lose_the_object(node, really=2)
            self.make_node(node)
            self.report(node, prepare=False)
            self.replicas[replica].hear("node")
            self.replicas[replica].work()

    @rule(replica=replicas, number=st.integers(0, 5), act=st.integers(0, 2), node=nodes)
    def come_between(self, replica: int, number: int, act: int, node: str) -> None:
        """Just before the next write is judged another replica works, a claim changes, or a node reports."""
        acts = [
            lambda: self.catch_up(replica),
            lambda: self.release(number, delete=bool(number % 2)),
            lambda: self.report(node, prepare=True),
        ]
        self.server.before_write.append(acts[act])

    # Judgement

    def judge(self, name: str, before: dict[str, Any], spec: dict[str, Any]) -> None:
        assert before["status"].get("observedGeneration") is not None
        assert spec["adoptedUID"] == before["metadata"]["uid"]
        entries = {entry["name"]: entry for entry in spec["allocations"]}
        slots = [slot for entry in entries.values() for slot in self.slots(entry)]
        assert len(set(slots)) == len(slots), slots
        for (uid, node), was in self.steady.items():
            if node == name:
                assert uid in entries, f"{uid} lost its entry"
                assert self.given(entries[uid]) == self.given(was), f"{uid} has moved"
        there = {entry["name"] for entry in before["spec"].get("allocations", ())}
        assert not {(uid, name) for uid in entries.keys() - there} & self.removed, "what others removed came back"
        self.removed |= {(uid, name) for uid in there - entries.keys()}
        living = self.allocated(name)
        if before["spec"].get("adoptedUID") != spec["adoptedUID"]:
            self.judge_adoption(before, entries, living)
        self.judge_withdrawals(name, before, spec, living)
        for uid, result in living.items():
            given = [(each["device"], each.get("shareID", "")) for each in entries.get(uid, {}).get("devices", ())]
            if given == [(result["device"], result.get("shareID", ""))]:
                self.steady[uid, name] = entries[uid]

    def judge_adoption(
        self, before: dict[str, Any], entries: dict[str, Any], living: dict[str, dict[str, Any]]
    ) -> None:
        for held in before["status"]["allocations"]:
            result = living.get(held["name"])
            if result and [result.get("shareID", "")] == [device["shareId"] for device in held["devices"]]:
                entry = entries[held["name"]]
                assert "refused" in entry or self.given(entry) == held["devices"]

    def judge_withdrawals(
        self, name: str, before: dict[str, Any], spec: dict[str, Any], living: dict[str, dict[str, Any]]
    ) -> None:
        old = before["spec"].get("withdrawalsConfirmed", {})
        new = {device for device, token in spec["withdrawalsConfirmed"].items() if old.get(device) != token}
        for device in new:
            token, since = self.agents[name].withdrawn.get(device, ("", 0.0))
            assert spec["withdrawalsConfirmed"][device] == before["status"]["withdrawn"][device]
            assert self.now - since >= 1.0 or not token
            assert device not in {result["device"] for result in living.values()}

    def slots(self, entry: dict[str, Any]) -> list[str]:
        return [applied["device"] for applied in self.given(entry)]

    def given(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        return [self.applied(device) for device in entry.get("devices", ())]

    def applied(self, device: dict[str, Any]) -> dict[str, Any]:
        vf = device.get("virtualFunction")
        index = "" if vf is None else f"-vf{vf['index']}"
        return {
            "device": f"{device['device']}{index}",
            "request": device["request"],
            "shareId": device.get("shareID", ""),
        }

    def allocated(self, node: str) -> dict[str, dict[str, Any]]:
        """Who has what there, in truth."""
        results = {
            claim["metadata"]["uid"]: claim["status"]["allocation"]["devices"]["results"][0]
            for claim in self.server.claims.values()
            if claim["status"]
        }
        return {uid: result for uid, result in results.items() if result["pool"] == node}

    def make_node(self, name: str) -> None:
        raw = raw_node({}, {}, name=name, uid=f"node-{next(self.serial)}")
        del raw["metadata"]["generation"]
        self.server.put_node(raw)

    def teardown(self) -> None:
        self.server.faults.clear()
        self.server.before_write.clear()
        for name in NODES:
            if name not in self.server.nodes:
                self.make_node(name)
        for _ in range(30):
            for name in NODES:
                self.report(name, prepare=True)
                self.unprepare(name)
            for number in range(len(self.replicas)):
                self.hear_all(number)
                self.replicas[number].list()
                for _ in range(10):
                    self.replicas[number].work()
            self.pass_time(1.1)
        self.judge_rest()

    def judge_rest(self) -> None:
        for name in NODES:
            spec, living = self.server.nodes[name]["spec"], self.allocated(name)
            entries = {entry["name"]: entry for entry in spec["allocations"]}
            assert entries.keys() == living.keys()
            for uid, entry in entries.items():
                bad = "nvme" in str(self.server.claims["ml", entry["claimName"]])
                assert bad == ("refused" in entry), entry
                devices = [] if bad else [living[uid]["device"]]
                assert [device["device"] for device in entry.get("devices", ())] == devices
            assert all(device in {r["device"] for r in living.values()} for device in self.agents[name].withdrawn)
            assert spec["withdrawalsConfirmed"] == {}
        assert not any(replica.dirty for replica in self.replicas)


TestReplicas = pytest.mark.slow(Replicas.TestCase)
TestReplicas.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
    deadline=None,
)
