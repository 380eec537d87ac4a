"""Whatever happens to API server, object and file: the node loses no entry, and all agrees in the end."""

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hack.lab.cluster import CRD, GROUP
from kubesim import Cluster, Fault, ManualClock, Refusal, Rule
from tests.cluster.agent_side import AgentSide

NODE = "node-a"
DEFINITION = yaml.load(CRD.read_text(), yaml.CSafeLoader)
EXAMPLES = int(os.environ.get("AGENT_SIDE_EXAMPLES", "15"))
SPOILT = (None, b"", b"{", b'{"spec": {}}', b"\xff", b'{"spec": {"allocations": 7}}')
FAULTS = (
    *(Fault.REFUSED, Fault.DROPPED, Fault.LOST, Fault.CONFLICT),
    *(Fault.EXPIRED, Fault.THROTTLED, Fault.INTERNAL, Fault.UNAVAILABLE),
)


class AgentSideMachine(RuleBasedStateMachine):
    """A node, a controller that has its claims' entries from somewhere, people, and vandals."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.cluster = Cluster("1.36", seed=1, clock=self.clock)
        self.cluster.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", copy.deepcopy(DEFINITION))
        self.cluster.create("/api/v1/nodes", {"metadata": {"name": NODE}})
        self.where = Path(tempfile.mkdtemp())
        self.file = self.where / "node.json"
        self.claims: set[str] = set()
        self.kept: set[str] = set()
        self.followed: set[str] = set()
        self.given_up: set[str] = set()
        self.backups: list[dict[str, Any]] = []
        self.vandalised = False
        self.side = self._start()

    def teardown(self) -> None:
        self.settle()
        shutil.rmtree(self.where)

    def _start(self) -> AgentSide:
        side = AgentSide(self.cluster, NODE, self.file, self.clock.monotonic, seed=1)
        side.mirror()
        return side

    def object(self) -> dict[str, Any] | None:
        try:
            return self.cluster.get(f"{GROUP}/{NODE}")
        except Refusal:
            return None

    @initialize(numbers=st.sets(st.integers(0, 9), max_size=4))
    def begin(self, numbers: set[int]) -> None:
        self.claims = {f"claim-{number}" for number in numbers}
        self.settle()

    # -- the agent -----------------------------------------------------------------------------------------

    @rule()
    def hear(self) -> None:
        self.side.hear()

    @rule()
    def mirror(self) -> None:
        self.side.mirror()
        self.vandalised = self.vandalised and not self.side.knows_its_object

    @rule()
    def follow_and_publish(self) -> None:
        self.side.follow()
        self.side.publish()

    @rule()
    def make_anew(self) -> None:
        """What it does about an object that it finds missing."""
        if self.side.hear():
            self.side.create()
            self.side.hear()

    @precondition(lambda self: not self.vandalised)
    @rule()
    def restart(self) -> None:
        self.side = self._start()

    # -- others --------------------------------------------------------------------------------------------

    @rule(number=st.integers(0, 9))
    def claim(self, number: int) -> None:
        self.claims ^= {f"claim-{number}"}
        self.control()

    @rule()
    def control(self) -> None:
        """The controller: it adopts what has a status, and has an entry for every claim."""
        found = self.object()
        if found is None or "observedGeneration" not in found.get("status", {}):
            return
        self.given_up |= self.kept - self.claims
        self.given_up -= self.claims
        spec = {"adoptedUID": found["metadata"]["uid"], "allocations": [entry(uid) for uid in sorted(self.claims)]}
        self.cluster.merge(f"{GROUP}/{NODE}", {"spec": spec})

    @rule(seconds=st.integers(0, 100))
    def wish(self, seconds: int) -> None:
        if self.object() is not None:
            self.cluster.merge(f"{GROUP}/{NODE}", {"spec": {"policy": {"lingerSeconds": seconds}}})

    @rule()
    def back_up(self) -> None:
        found = self.object()
        if found is not None:
            self.backups.append(copy.deepcopy(found))

    @rule(noticed=st.booleans())
    def delete(self, *, noticed: bool) -> None:
        if self.object() is not None:
            self.cluster.delete(f"{GROUP}/{NODE}")
        if noticed:
            self.make_anew()

    @precondition(lambda self: self.backups)
    @rule(which=st.integers(0, 99))
    def restore(self, which: int) -> None:
        backup = self.backups[which % len(self.backups)]
        self.delete(noticed=False)
        manifest = {key: backup[key] for key in ("apiVersion", "kind", "spec")}
        self.cluster.create(GROUP, {**manifest, "metadata": {"name": NODE}})

    @rule(what=st.sampled_from(SPOILT), noticed=st.booleans())
    def vandalise(self, what: bytes | None, *, noticed: bool) -> None:
        self.vandalised = True
        if what is None:
            self.file.unlink(missing_ok=True)
        else:
            self.file.write_bytes(what)
        if noticed:
            self.mirror()

    @rule(fault=st.sampled_from(FAULTS), count=st.integers(1, 3))
    def trouble(self, fault: Fault, count: int) -> None:
        self.cluster.add_fault(Rule(fault=fault, count=count))

    @rule(seconds=st.sampled_from([0.1, 1.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    # -- what is always so ---------------------------------------------------------------------------------

    @invariant()
    def no_entry_is_lost(self) -> None:
        """The file has every entry that it had, except those that the controller has given up."""
        if self.vandalised or not self.file.exists():
            return
        now = {one["name"] for one in json.loads(self.file.read_bytes())["spec"].get("allocations", ())}
        assert self.kept - self.given_up <= now
        self.kept = now

    @invariant()
    def no_generation_of_another_object(self) -> None:
        """An object's status names a generation only once that object was followed."""
        if self.file.exists() and not self.vandalised:
            self.followed.add(json.loads(self.file.read_bytes())["metadata"]["uid"])
        found = self.object()
        if found is not None and "observedGeneration" in found.get("status", {}):
            assert found["metadata"]["uid"] in self.followed

    @rule()
    def settle(self) -> None:
        """Without faults all agrees soon, and then nobody writes any more."""
        self.cluster.clear_faults()
        for _ in range(6):
            self._round()
            self.control()
        self._round()
        found = self.object()
        assert found is not None
        assert found["spec"]["adoptedUID"] == found["metadata"]["uid"]
        assert {one["name"] for one in found["status"].get("allocations", ())} == self.claims
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
        assert json.loads(self.file.read_bytes())["spec"] == found["spec"]
        before = len(self.cluster.requests)
        content = self.file.stat()
        for _ in range(3):
            self._round()
        assert {one.request.method for one in self.cluster.requests[before:]} == {"GET"}
        assert self.file.stat() == content
        self.no_entry_is_lost()
        self.no_generation_of_another_object()

    def _round(self) -> None:
        self.clock.seconds += 60
        assert self.side.hear()
        self.side.create()
        self.mirror()
        self.side.follow()
        self.side.publish()


def entry(uid: str) -> dict[str, Any]:
    return {
        "name": uid,
        "claimNamespace": "default",
        "claimName": uid,
        "source": "resource.k8s.io/v1",
        "devices": [],
    }


TestAgentSide = AgentSideMachine.TestCase
TestAgentSide.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow],
)
