from typing import Any

from reconciler.controller.knowledge import DOUBT, Knowledge
from state.dra.node_object import NodeObject
from state.dra.resource_claims import Claim
from tests.unit.state.dra.objects import NODE, PF, after, claim, node, result, vf_claim, view, written

A = vf_claim("a")


class Now:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def elsewhere(uid: str, pool: str) -> Claim:
    return claim(uid, {**result(PF), "pool": pool})


def with_entry(**metadata: Any) -> NodeObject:
    """The node's object once claim a has its entry."""
    return after(written(view(node(**metadata), A)))


class TestClaims:
    def test_matter_to_the_nodes_they_are_on_and_were_on(self) -> None:
        known = Knowledge(Now())
        assert known.take_claim(A.ref, A) == {NODE}
        assert known.take_claim(A.ref, A) == frozenset()
        assert known.take_claim(A.ref, elsewhere("a", "node-2")) == {NODE, "node-2"}
        assert known.claims_on(NODE) == ()
        assert [one.uid for one in known.claims_on("node-2")] == ["a"]
        assert known.take_claim(A.ref, None) == {"node-2"}

    def test_another_uid_under_the_same_name_is_a_change(self) -> None:
        known = Knowledge(Now())
        known.take_claim(A.ref, A)
        new = claim("b", result(PF), name="c-a")
        assert known.take_claim(A.ref, new) == {NODE}
        assert [one.uid for one in known.claims_on(NODE)] == ["b"]

    def test_of_others_are_not_kept(self) -> None:
        known = Knowledge(Now())
        assert known.take_claim(A.ref, claim("a")) == frozenset()
        assert known.sizes() == (0, 0)

    def test_that_a_new_list_lacks_are_forgotten(self) -> None:
        known = Knowledge(Now())
        known.take_claim(A.ref, A)
        known.take_claim(vf_claim("b").ref, elsewhere("b", "node-2"))
        known.expect_claims_anew()
        known.take_claim(A.ref, A)
        assert known.forget_unheard_claims() == {"node-2"}
        assert [one.uid for one in known.claims_on(NODE)] == ["a"]
        assert known.forget_unheard_claims() == frozenset()


class TestNodes:
    def test_are_worth_a_look_only_with_news_for_us(self) -> None:
        known = Knowledge(Now())
        assert known.take_node(NODE, node())
        assert not known.take_node(
            NODE, node(status={"observedGeneration": 1, "version": "2"}, resourceVersion="8")
        )
        assert known.take_node(NODE, node(status={"observedGeneration": 1, "withdrawn": {PF: "t"}}))
        assert known.take_node(NODE, node(generation=2))
        assert known.take_node(NODE, node(uid="another"))
        assert known.take_node(NODE, None)
        assert not known.take_node(NODE, None)

    def test_an_answer_counts_until_the_cache_has_moved(self) -> None:
        known = Knowledge(Now())
        known.take_node(NODE, node())
        older = known.versions(NODE)
        written_state = with_entry()
        known.take_answer(written_state, older)
        assert known.node(NODE) == written_state
        known.take_node(NODE, node(status={"observedGeneration": 2}, resourceVersion="9"))
        newest = known.node(NODE)
        assert newest is not None
        assert newest.resource_version == "9"

    def test_an_answer_that_comes_after_newer_news_counts_for_nothing(self) -> None:
        known = Knowledge(Now())
        known.take_node(NODE, node())
        older = known.versions(NODE)
        reported = node(status={"observedGeneration": 2}, generation=2, resourceVersion="99")
        known.take_node(NODE, reported)
        known.take_answer(with_entry(), older)
        assert known.node(NODE) == reported

    def test_an_answer_outlasts_news_of_what_it_was_made_from(self) -> None:
        known = Knowledge(Now())
        known.take_node(NODE, node())
        first, second = with_entry(), node(generation=3, resourceVersion="99")
        known.take_answer(first, known.versions(NODE))
        known.take_answer(second, known.versions(NODE))
        known.take_node(NODE, first)
        assert known.node(NODE) == second

    def test_one_that_is_gone_takes_its_answers_along(self) -> None:
        known = Knowledge(Now())
        known.take_node(NODE, node())
        known.take_answer(with_entry(), known.versions(NODE))
        known.take_node(NODE, None)
        assert known.node(NODE) is None


class TestDoubt:
    def known(self, now: Now) -> Knowledge:
        known = Knowledge(now)
        known.take_node(NODE, node({}))
        known.take_node(NODE, node(generation=2, resourceVersion="8"))  # adopted
        now.seconds += DOUBT
        assert not known.doubtful(NODE)
        return known

    def test_claims_whose_entries_went_are_doubted_for_a_while(self) -> None:
        now = Now()
        known = self.known(now)
        known.take_node(NODE, with_entry())
        known.take_node(NODE, node(generation=3, resourceVersion="9"))
        assert known.unsure(NODE) == {"a"}
        known.take_node(NODE, after(written(view(node(), A))))
        assert known.unsure(NODE) == frozenset()

    def test_a_node_just_adopted_is_doubted(self) -> None:
        known = Knowledge(Now())
        known.take_node(NODE, node({}))
        assert not known.doubtful(NODE)
        known.take_node(NODE, node(generation=2))
        assert known.doubtful(NODE)

    def test_a_node_with_specs_that_were_missed_is_doubted(self) -> None:
        now = Now()
        known = self.known(now)
        known.take_node(NODE, node(generation=3, resourceVersion="9"))
        assert not known.doubtful(NODE)
        known.take_node(NODE, node(generation=5, resourceVersion="11"))
        assert known.doubtful(NODE)
        now.seconds += DOUBT
        assert not known.doubtful(NODE)
