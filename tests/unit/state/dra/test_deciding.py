from typing import Any

import msgspec
import pytest

from state.dra.deciding import decide
from state.dra.node_view import NeedsListing, NeedsLiveLook, Nothing, WaitUntil
from state.manifest_decoding import decode
from tests.unit.state.dra.objects import (
    OTHER_PF,
    PF,
    after,
    claim,
    gpu_config,
    indexes,
    listing,
    looks,
    node,
    opaque,
    raw_node,
    result,
    spec_of,
    vf_claim,
    view,
    written,
)


def held(uid: str, index: int, mode: str = "m4", **more: Any) -> dict[str, Any]:
    """A status entry as the node agent writes it."""
    device = {"device": f"{PF}-{mode}-vf{index}", "request": "gpu", "shareId": f"share-{uid}", **more}
    return {"name": uid, "origin": "claim", "claim": f"ml/c-{uid}", "phase": "Ready", "devices": [device]}


def reports(*allocations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"observedGeneration": 1, "allocations": list(allocations), **more}


class TestNothingIsWritten:
    @pytest.mark.parametrize(
        "state",
        [None, node(status={}), node(deletionTimestamp="2026-11-23T12:00:00Z")],
        ids=["no object", "not reported", "being deleted"],
    )
    def test_to_an_object_that_is_not_ready_for_it(self, state: Any) -> None:
        assert isinstance(decide(view(state, vf_claim("a"))), Nothing)

    def test_when_all_is_there(self) -> None:
        state = after(written(view(node(), vf_claim("a"))))
        assert decide(view(state, vf_claim("a"))) == Nothing(why=("all is as it should be",))

    def test_when_only_the_api_version_of_the_claim_differs(self) -> None:
        spec = spec_of(written(view(node(), vf_claim("a"))))
        spec["allocations"][0]["source"] = "resource.k8s.io/v1beta1"
        assert isinstance(decide(view(node(spec), vf_claim("a"))), Nothing)


class TestWriting:
    def test_the_body_is_bound_to_the_object_and_its_version(self) -> None:
        body = msgspec.json.decode(written(view(node(), vf_claim("a"))).body)
        assert body["metadata"] == {"name": "node-1", "uid": "node-uid", "resourceVersion": "7"}
        assert (body["apiVersion"], body["kind"]) == ("gpu.dra.intel.com/v1alpha1", "GpuNodeState")

    def test_what_is_written_is_a_manifest(self) -> None:
        claims = (
            vf_claim("a"),
            claim("b", result(OTHER_PF, consumedCapacity={"memory": "4Gi"}), config=[opaque(gpu_config("vfio"))]),
            claim("c", result("gpu-0")),
            claim("d", result(f"{PF}-monitor", adminAccess=True)),
        )
        manifest = decode(raw_node(spec_of(written(view(node(), *claims)))), cluster=True)
        a, b, c, d = manifest.spec.allocations
        assert [entry.claim_name for entry in (a, b, c, d)] == ["c-a", "c-b", "c-c", "c-d"]
        assert b.devices[0].memory == 4 * 2**30
        assert b.devices[0].kernel_driver is b.config["gpu"].kernel_driver
        assert c.devices == ()
        assert c.refused is not None
        assert d.devices[0].admin_access

    def test_equal_knowledge_gives_equal_bytes(self) -> None:
        claims = [vf_claim(uid) for uid in "cab"]
        assert written(view(node(), *claims)).body == written(view(node(), *reversed(claims))).body

    def test_what_a_newer_release_put_into_an_entry_stays(self) -> None:
        spec = spec_of(written(view(node(), vf_claim("a"))))
        spec["allocations"][0]["later"] = {"field": 1}
        write = written(view(node(spec), vf_claim("a"), vf_claim("b")))
        assert spec_of(write)["allocations"][0] == spec["allocations"][0]

    def test_each_refusal_is_told_once(self) -> None:
        bad = claim("a", result("gpu-0"))
        write = written(view(node(), bad))
        assert [one.uid for one in write.refused] == ["a"]
        again = written(view(after(write), bad, vf_claim("b")))
        assert again.refused == ()

    def test_the_reasons_are_told(self) -> None:
        assert written(view(node({}), vf_claim("a"), looks=looks(vf_claim("a")))).why == (
            "adopt object node-uid",
            "add ml/c-a (a)",
        )


class TestRemoving:
    def test_takes_a_live_look(self) -> None:
        state = after(written(view(node(), vf_claim("a"))))
        decision = decide(view(state))
        assert isinstance(decision, NeedsLiveLook)
        assert decision.refs == (vf_claim("a").ref,)

    @pytest.mark.parametrize(
        "live",
        [
            looks(gone=[vf_claim("a")]),
            looks(claim("a")),
            looks(claim("a", {**result(PF), "pool": "node-2"})),
        ],
        ids=["gone", "without allocation", "on another node"],
    )
    def test_what_the_look_confirms(self, live: Any) -> None:
        state = after(written(view(node(), vf_claim("a"))))
        assert spec_of(written(view(state, looks=live)))["allocations"] == []

    def test_another_claim_of_the_same_name_takes_its_place(self) -> None:
        state = after(written(view(node(), vf_claim("a"))))
        new = claim("b", result(PF), name="c-a")
        for cached in ((), (new,)):
            spec = spec_of(written(view(state, *cached, looks=looks(new))))
            assert [entry["name"] for entry in spec["allocations"]] == ["b"]

    def test_a_stale_cache_removes_nothing(self) -> None:
        state = after(written(view(node(), vf_claim("a"))))
        assert isinstance(decide(view(state, looks=looks(vf_claim("a")))), Nothing)

    def test_without_an_answer_nothing_goes_but_others_come(self) -> None:
        state = after(written(view(node(), vf_claim("a"))))
        unknown = looks(failed=[vf_claim("a")])
        assert decide(view(state, looks=unknown)) == Nothing(why=("can't look at ml/c-a: no answer",), retry=True)
        assert indexes(written(view(state, vf_claim("b"), looks=unknown))) == {"a": [0], "b": [1]}

    def test_what_was_seen_gone_is_not_put_back_by_a_cache(self) -> None:
        adopted = node({}, reports())
        gone = looks(gone=[vf_claim("a")])
        assert spec_of(written(view(adopted, vf_claim("a"), looks=gone)))["allocations"] == []
        assert isinstance(decide(view(node(), vf_claim("a"), looks=gone)), Nothing)

    def test_other_devices_of_a_claim_take_a_look_too(self) -> None:
        state = after(written(view(node(), vf_claim("a"))))
        moved = vf_claim("a", pf=OTHER_PF)
        assert isinstance(decide(view(state, moved)), NeedsLiveLook)
        assert isinstance(decide(view(state, moved, looks=looks(vf_claim("a")))), Nothing)
        (entry,) = spec_of(written(view(state, moved, looks=looks(moved))))["allocations"]
        assert entry["devices"][0]["physicalFunction"] == OTHER_PF


class TestAdding:
    @pytest.mark.parametrize("doubt", [{"cautious": True}, {"unsure": frozenset("a")}])
    def test_takes_a_live_look_where_the_cache_may_be_wrong(self, doubt: Any) -> None:
        assert isinstance(decide(view(node(), vf_claim("a"), **doubt)), NeedsLiveLook)
        gone = looks(gone=[vf_claim("a")])
        assert isinstance(decide(view(node(), vf_claim("a"), looks=gone, **doubt)), Nothing)
        assert "a" in indexes(written(view(node(), vf_claim("a"), looks=looks(vf_claim("a")), **doubt)))


class TestIndexes:
    def test_are_the_lowest_free_ones(self) -> None:
        assert indexes(written(view(node(), vf_claim("b"), vf_claim("a")))) == {"a": [0], "b": [1]}

    def test_stay_when_others_come_and_go(self) -> None:
        state = after(written(view(node(), vf_claim("a"), vf_claim("b"))))
        write = written(view(state, vf_claim("b"), vf_claim("0"), looks=looks(gone=[vf_claim("a")])))
        assert indexes(write) == {"b": [1], "0": [0]}

    def test_still_on_the_node_are_left_alone_while_there_are_others(self) -> None:
        state = node(status=reports(held("old", 0)))
        assert indexes(written(view(state, vf_claim("a")))) == {"a": [1]}
        full = node(status=reports(*(held(f"old{index}", index) for index in range(4))))
        assert indexes(written(view(full, vf_claim("a")))) == {"a": [0]}

    def test_of_other_layouts_and_gpus_do_not_count(self) -> None:
        state = node(status=reports(held("old", 0, mode="m2")))
        claims = (vf_claim("a"), vf_claim("b", "m2", pf=OTHER_PF))
        assert indexes(written(view(state, *claims))) == {"a": [0], "b": [0]}

    def test_given_by_people_count_while_there_are_others(self) -> None:
        manual = [{"name": "jupyter", "devices": [{"device": f"{PF}-m4-vf0"}]}]
        state = node({"adoptedUID": "node-uid", "manualAllocations": manual})
        assert indexes(written(view(state, vf_claim("a")))) == {"a": [1]}

    def test_admin_access_takes_none(self) -> None:
        admin = claim("admin", result(f"{PF}-m4-vf0", adminAccess=True))
        assert indexes(written(view(node(), admin, vf_claim("a"))))["a"] == [0]

    def test_are_not_taken_away_by_a_claim_that_names_one(self) -> None:
        state = after(written(view(node(), vf_claim("a"))))
        named, other = claim("named", result(f"{PF}-m4-vf0")), claim("other", result(f"{PF}-m4-vf1"))
        write = written(view(state, vf_claim("a"), named, other, vf_claim("b")))
        assert indexes(write) == {"a": [0], "b": [2], "named": [0], "other": [1]}
        assert isinstance(decide(view(after(write), vf_claim("a"), named, other, vf_claim("b"))), Nothing)

    def test_are_given_per_share_and_request(self) -> None:
        mode = f"{PF}-m4"
        both = claim("a", result(mode, "r1", shareID="s1"), result(mode, "r2", shareID="s2"))
        state = after(written(view(node(), both)))
        turned = claim("a", result(mode, "r2", shareID="s2"), result(mode, "r1", shareID="s1"))
        (entry,) = spec_of(written(view(state, turned, looks=looks(turned))))["allocations"]
        assert [device["virtualFunction"]["index"] for device in entry["devices"]] == [1, 0]

    def test_run_out_is_refused_as_long_as_it_lasts(self) -> None:
        claims = [vf_claim(uid) for uid in "abcde"]
        write = written(view(node(), *claims, looks=looks(*claims)))
        (refused,) = write.refused
        assert (refused.uid, refused.refusal.path) == ("e", "status.allocation.devices.results[0].device")
        assert "all 4 VFs" in refused.refusal.reason
        state = after(write)
        assert isinstance(decide(view(state, *claims, looks=looks(*claims))), Nothing)
        later = written(view(state, *claims[1:], looks=looks(claims[4], gone=claims[:1])))
        assert indexes(later) == {"b": [1], "c": [2], "d": [3], "e": [0]}

    def test_run_out_is_believed_only_after_a_look_at_everybody(self) -> None:
        """A cache may show the newcomer before it shows that somebody left."""
        claims = [vf_claim(uid) for uid in "abcde"]
        decision = decide(view(node(), *claims))
        assert isinstance(decision, NeedsLiveLook)
        assert set(decision.refs) == {claim.ref for claim in claims}
        seen = looks(*claims[1:], gone=claims[:1])
        assert indexes(written(view(node(), *claims, looks=seen))) == {"b": [0], "c": [1], "d": [2], "e": [3]}

    def test_run_out_waits_while_somebody_may_have_gone(self) -> None:
        state = after(written(view(node(), *(vf_claim(uid) for uid in "abcd"))))
        unknown = looks(failed=[vf_claim("a")])
        decision = decide(view(state, *(vf_claim(uid) for uid in "bcde"), looks=unknown))
        assert isinstance(decision, Nothing)
        assert decision.retry

    def test_given_twice_by_a_slip_are_mended_in_favour_of_the_node(self) -> None:
        spec = spec_of(written(view(node(), vf_claim("a"), vf_claim("b"))))
        spec["allocations"][1]["devices"][0]["virtualFunction"]["index"] = 0
        state = node(spec, reports(held("b", 0)))
        assert indexes(written(view(state, vf_claim("a"), vf_claim("b")))) == {"a": [1], "b": [0]}


class TestAdoption:
    def test_comes_even_without_claims(self) -> None:
        write = written(view(node({})))
        assert spec_of(write)["adoptedUID"] == "node-uid"

    def test_trusts_no_cache(self) -> None:
        assert isinstance(decide(view(node({}), vf_claim("a"))), NeedsLiveLook)

    def test_gives_claims_on_the_node_their_indexes_first(self) -> None:
        state = node({}, reports(held("z", 0), held("y", 2)))
        claims = [vf_claim(uid) for uid in "abyz"]
        assert indexes(written(view(state, *claims, looks=looks(*claims)))) == {
            "a": [1],
            "b": [3],
            "y": [2],
            "z": [0],
        }

    def test_looks_for_claims_on_the_node_that_no_cache_has(self) -> None:
        state = node({}, reports(held("z", 0)))
        assert isinstance(decide(view(state, vf_claim("a"))), NeedsLiveLook)
        found = looks(vf_claim("a"), vf_claim("z"))
        assert indexes(written(view(state, vf_claim("a"), looks=found))) == {"a": [1], "z": [0]}

    def test_waits_until_all_of_them_could_be_found(self) -> None:
        state = node({}, reports(held("z", 0)))
        decision = decide(view(state, vf_claim("a"), looks=looks(vf_claim("a"), failed=[vf_claim("z")])))
        assert isinstance(decision, Nothing)
        assert decision.retry

    def test_of_an_object_restored_from_a_backup(self) -> None:
        spec = spec_of(written(view(node(), vf_claim("a"), vf_claim("b"))))
        state = node({**spec, "adoptedUID": "earlier"}, reports(held("a", 3)))
        assert indexes(written(view(state, vf_claim("a"), vf_claim("b")))) == {"a": [0], "b": [1]}


class TestWithdrawals:
    WITHDRAWN = reports(withdrawn={f"{PF}-m4": "t1"})
    SEEN = {(f"{PF}-m4", "t1"): 98.0}  # noqa: RUF012

    def test_wait_a_second_then_for_a_list_then_are_confirmed(self) -> None:
        state = node(status=self.WITHDRAWN)
        assert decide(view(state)) == WaitUntil(at=101.0, why=(f"{PF}-m4 is to be withdrawn",))
        assert decide(view(state, withdrawals_seen=self.SEEN)) == NeedsListing(
            after=99.0, why=(f"{PF}-m4 is to be withdrawn",)
        )
        early, late = listing(98.9), listing(99.0)
        assert isinstance(decide(view(state, withdrawals_seen=self.SEEN, listing=early)), NeedsListing)
        write = written(view(state, withdrawals_seen=self.SEEN, listing=late))
        assert spec_of(write)["withdrawalsConfirmed"] == {f"{PF}-m4": "t1"}
        assert write.why == (f"confirm the withdrawal of {PF}-m4",)
        assert isinstance(decide(view(after(write, self.WITHDRAWN))), Nothing)

    def test_an_entry_is_the_rejection(self) -> None:
        write = written(view(node(status=self.WITHDRAWN), vf_claim("a"), withdrawals_seen=self.SEEN))
        assert spec_of(write)["withdrawalsConfirmed"] == {}
        state = after(write, self.WITHDRAWN)
        ready = view(state, vf_claim("a"), withdrawals_seen=self.SEEN, listing=listing(99.5, vf_claim("a")))
        assert isinstance(decide(ready), Nothing)

    def test_a_refused_claim_rejects_as_well(self) -> None:
        vfio_twice = claim("a", result(f"{PF}-m4"), config=[opaque(gpu_config("nvme"))])
        ready = view(
            node(status=self.WITHDRAWN), vfio_twice, withdrawals_seen=self.SEEN, listing=listing(99.5, vfio_twice)
        )
        assert spec_of(written(ready))["withdrawalsConfirmed"] == {}

    def test_claims_of_the_list_that_no_cache_has_are_looked_up_and_entered(self) -> None:
        state = node(status=self.WITHDRAWN)
        listed = listing(99.5, vf_claim("a", "m2"))
        ready: dict[str, Any] = {"withdrawals_seen": self.SEEN, "listing": listed}
        assert isinstance(decide(view(state, **ready)), NeedsLiveLook)
        spec = spec_of(written(view(state, looks=looks(vf_claim("a", "m2")), **ready)))
        assert [entry["name"] for entry in spec["allocations"]] == ["a"]
        assert spec["withdrawalsConfirmed"] == {f"{PF}-m4": "t1"}

    def test_nothing_is_confirmed_while_a_claim_is_unknown(self) -> None:
        state = node(status=self.WITHDRAWN)
        listed = listing(99.5, vf_claim("a", "m2"))
        decision = decide(
            view(state, looks=looks(failed=[vf_claim("a")]), withdrawals_seen=self.SEEN, listing=listed)
        )
        assert isinstance(decision, Nothing)
        assert decision.retry

    def test_another_token_begins_anew(self) -> None:
        spec = {"adoptedUID": "node-uid", "withdrawalsConfirmed": {f"{PF}-m4": "t0", PF: "t9"}}
        write = written(view(node(spec, self.WITHDRAWN), withdrawals_seen=self.SEEN))
        assert spec_of(write)["withdrawalsConfirmed"] == {}
        assert write.why == (f"forget the withdrawal of {PF}", f"forget the withdrawal of {PF}-m4")
        assert write.names == frozenset()

    def test_a_claim_that_came_after_all_takes_the_confirmation_back(self) -> None:
        spec = {"adoptedUID": "node-uid", "withdrawalsConfirmed": {f"{PF}-m4": "t1"}}
        write = written(view(node(spec, self.WITHDRAWN), vf_claim("a")))
        assert spec_of(write)["withdrawalsConfirmed"] == {}


def test_what_is_being_allocated_keeps_its_entry() -> None:
    """Classic DRA: the ledger is written before the claim, so an entry without an allocation is no leftover."""
    there = after(written(view(node(), vf_claim("a"))))
    bare = claim("a")
    unsettled = msgspec.structs.replace(bare, open=True)
    assert isinstance(decide(view(there, open=frozenset({"a"}))), Nothing)
    assert isinstance(decide(view(there, looks=looks(unsettled))), Nothing)
    assert spec_of(written(view(there, open=frozenset({"a"}), looks=looks(bare))))["allocations"] == []
    another = claim("b", name="c-a")
    assert spec_of(written(view(there, open=frozenset({"a"}), looks=looks(another))))["allocations"] == []
    both = written(view(there, vf_claim("z"), open=frozenset({"a"})))
    assert indexes(both) == {"a": [0], "z": [1]}
