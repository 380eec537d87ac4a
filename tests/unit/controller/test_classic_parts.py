"""Parts of the negotiation that only show in how often, and how early, something is done."""

import random
import threading

import msgspec
import pytest

import kubesim
from reconciler.controller.classic.known_claims import KnownClaims
from reconciler.controller.classic.ledger import Ledger
from reconciler.controller.classic.waiting import Waiting
from reconciler.controller.controller_metrics import DECLARED
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.node_states import NodeStates
from reconciler.controller.reconciling import Next, put_back
from reconciler.controller.turns import Turns
from reconciler.runtime.backoff import Backoff
from reconciler.runtime.kube.cache import Cache, Key, Seen
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.queue import WorkQueue
from reconciler.runtime.metrics import NoMetrics
from state.classic.claims import ClassicClaim, ClassicReader
from state.classic.parameters import ClaimParameters, ClassParameters
from state.classic.spots import Policy, PreferredAllocation
from state.classic.wishes import Wish
from state.dra.node_object import NodeObject, read_node_object
from state.dra.resource_claims import ClaimRef
from tests.kube_in_memory import InMemory
from tests.model.controller.classic_world import flex170
from tests.unit.state.dra.objects import raw_node, table

KEY = Key("ml", "c")


def claim(version: str) -> ClassicClaim:
    metadata = {"namespace": "ml", "name": "c", "uid": "u", "resourceVersion": version}
    return ClassicReader().negotiated(msgspec.json.encode({"metadata": metadata}))


def heard(cache: Cache[ClassicClaim], version: str) -> None:
    cache.put(Seen(key=KEY, uid="u", resource_version=version, value=claim(version)))


class TestKnownClaims:
    def test_what_was_written_counts_until_the_cache_has_it(self) -> None:
        cache: Cache[ClassicClaim] = Cache()
        heard(cache, "1")
        known = KnownClaims(cache)
        known.take_answer(claim("1"), claim("2"))
        known.take_answer(claim("2"), claim("3"))
        assert known.get(KEY) == claim("3")
        heard(cache, "2")
        assert known.get(KEY) == claim("3")
        heard(cache, "3")
        heard(cache, "4")
        assert known.get(KEY) == claim("4")

    def test_newer_news_wins_also_if_it_came_first(self) -> None:
        cache: Cache[ClassicClaim] = Cache()
        heard(cache, "9")
        known = KnownClaims(cache)
        known.take_answer(claim("1"), claim("2"))
        assert known.get(KEY) == claim("9")

    def test_what_is_gone_is_gone(self) -> None:
        cache: Cache[ClassicClaim] = Cache()
        heard(cache, "1")
        known = KnownClaims(cache)
        known.take_answer(claim("1"), claim("2"))
        cache.remove(KEY)
        assert known.get(KEY) is None


def test_one_at_a_time_for_each_name() -> None:
    turns, inside = Turns(), threading.Event()

    def second() -> None:
        with turns.at("a"):
            inside.set()

    other = threading.Thread(target=second)
    with turns.at("a"):
        with turns.at("b"):
            other.start()
        assert not inside.wait(0.05)
    other.join(5)
    assert inside.is_set()


def test_who_waits_for_a_node() -> None:
    waiting: Waiting[str] = Waiting()
    waiting.wait("p", ["a", "b"])
    waiting.wait("q", ["b"])
    assert waiting.on("a") == ("p",)
    assert set(waiting.on("b")) == {"p", "q"}
    waiting.wait("p", ["c"])
    waiting.wait("q", ())
    assert (waiting.on("a"), waiting.on("b"), waiting.on("c")) == ((), (), ("p",))


def paper_node(name: str, version: str, *claims: str) -> NodeObject:
    gpu = flex170(3)
    device = {"request": "", "pool": name, "device": gpu["name"], "physicalFunction": gpu["name"]}
    entries = [{"name": uid, "claimNamespace": "ml", "claimName": uid, "devices": [device]} for uid in claims]
    spec = {"adoptedUID": "node-uid", "allocations": entries}
    status = {"observedGeneration": 1, "devices": [gpu]}
    raw = raw_node(spec, status, name=name, resourceVersion=version)
    return read_node_object(msgspec.json.encode(raw), inventory=True)


def ledger(knowledge: Knowledge, preferred: PreferredAllocation = PreferredAllocation.NONE) -> Ledger:
    client = KubeClient(InMemory(kubesim.Cluster("1.26")))
    policy = Policy(preferred=preferred)
    node_states = NodeStates(client, knowledge, NoMetrics(DECLARED), inventory=lambda: True)
    return Ledger(node_states, knowledge, Turns(), table(), policy)


def wish(uid: str) -> Wish:
    return Wish(uid=uid, ref=ClaimRef("ml", uid), claim=ClaimParameters(), of_class=ClassParameters())


class TestLedger:
    def test_an_answer_is_of_its_version_and_of_claims_that_have_nothing(self) -> None:
        knowledge = Knowledge(lambda: 0.0)
        knowledge.take_node("n", paper_node("n", "1"))
        asked = ledger(knowledge)
        assert asked.unsuitable("n", [wish("a")]) == {}
        knowledge.take_node("n", paper_node("n", "2", "a"))
        assert asked.unsuitable("n", [wish("b")]).keys() == {"b"}
        assert asked.unsuitable("n", [wish("c")]).keys() == {"c"}
        assert asked.unsuitable("n", [wish("a")]) == {}
        knowledge.take_node("n", paper_node("n", "3"))
        assert asked.unsuitable("n", [wish("b")]) == {}
        assert asked.unsuitable("n", [wish("b"), wish("c")]).keys() == {"b", "c"}

    @pytest.mark.parametrize(
        ("preferred", "order"),
        [
            (PreferredAllocation.NONE, ("a", "b", "c")),
            (PreferredAllocation.PACKED, ("b", "a", "c")),
            (PreferredAllocation.BALANCED, ("a", "c", "b")),
        ],
    )
    def test_nodes_are_tried_as_the_policy_says(
        self, preferred: PreferredAllocation, order: tuple[str, ...]
    ) -> None:
        knowledge = Knowledge(lambda: 0.0)
        for name, claims in (("c", ()), ("b", ("u",)), ("a", ())):
            knowledge.take_node(name, paper_node(name, "1", *claims))
        assert ledger(knowledge, preferred).in_order(("c", "a", "b")) == order


@pytest.mark.parametrize("todo", [Next(failed="no"), Next(missing="claim c of the pod")])
def test_what_fails_or_lacks_something_is_looked_at_ever_more_rarely(todo: Next) -> None:
    now = [0.0]
    queue: WorkQueue[str] = WorkQueue(Backoff(1.0, 100.0, random.Random(1)), clock=lambda: now[0])
    waits = [put_back(queue, "a", todo) or 0.0 for _ in range(6)]
    assert waits[-1] > 4 * waits[0] > 0
    assert queue.get(timeout=0) is None
    now[0] += waits[0]
    assert queue.get(timeout=0) == "a"
    queue.done("a")
    assert put_back(queue, "a", Next()) is None
    assert (put_back(queue, "a", todo) or 0.0) < waits[-1] / 4


def test_what_is_done_is_looked_at_when_it_said() -> None:
    now = [0.0]
    queue: WorkQueue[str] = WorkQueue(Backoff(1.0, 100.0, random.Random(1)), clock=lambda: now[0])
    assert put_back(queue, "a", Next(after=5.0)) is None
    assert queue.get(timeout=0) is None
    now[0] = 5.0
    assert queue.get(timeout=0) == "a"
