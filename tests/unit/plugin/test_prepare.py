"""Prepare and Unprepare over the socket, with a node agent that answers by files."""

import threading
from datetime import timedelta

import grpc
import pytest

from plugin.places import Places
from state.records import AppliedDevice
from tests.unit.plugin.stand import BOOT, NODE, PF, Agent, Kubelet, entry, eventually, running, uid

SOON = 3.3
"""A deadline of the kubelet that leaves 0.3 s to wait."""


def error_of(kubelet: Kubelet, name: str, timeout: float = SOON) -> str:
    answer = kubelet.prepare(name, timeout=timeout)[name]
    assert not answer.devices
    return answer.error


def test_a_ready_claim_is_handed_out_by_its_cdi_names(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    answer = kubelet.prepare(uid(1))
    assert answer.keys() == {uid(1)}
    (device,) = answer[uid(1)].devices
    assert (list(device.request_names), device.pool_name, device.device_name) == (["gpu"], NODE, PF)
    assert list(device.cdi_device_ids) == [f"intel.com/gpu=claim-{uid(1)}-0"]
    assert not device.HasField("share_id")
    mark = agent.marks()[uid(1)]
    assert (mark.boot_id, mark.grpc_version) == (BOOT, "v1")


def test_it_waits_for_a_claim_that_is_not_ready_yet(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1), "Converging", "turning off 16 VFs"))
    done = threading.Timer(0.3, agent.set, (entry(uid(1)),))
    done.start()
    assert kubelet.prepare(uid(1))[uid(1)].devices
    done.join()


@pytest.mark.parametrize(
    ("phase", "message", "said"),
    [
        ("Converging", "turning off 16 VFs", "Converging: turning off 16 VFs"),
        ("Blocked", "waits for claim a/b", "Blocked: waits for claim a/b"),
        ("Refused", "there is no GPU 'x'", "refused: there is no GPU 'x'"),
        ("Failed", "", "Failed, no reason known"),
    ],
)
def test_at_the_deadline_it_says_what_it_waits_for(
    kubelet: Kubelet, agent: Agent, phase: str, message: str, said: str
) -> None:
    agent.set(entry(uid(1), phase, message))
    assert error_of(kubelet, uid(1)) == said
    assert uid(1) in agent.marks(), "the claim is asked for again, or given back"


def test_a_claim_nobody_knows(kubelet: Kubelet) -> None:
    assert error_of(kubelet, uid(1)) == "the node has no entry for this claim; is the controller running?"


def test_an_agent_that_went_silent(kubelet: Kubelet, agent: Agent) -> None:
    agent.silent_for = timedelta(seconds=95)
    said = error_of(kubelet, uid(1))
    assert said.startswith("the node agent has not written status for 9")


def test_a_silent_agent_confirmed_the_claim_before_it_fell_silent(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    kubelet.prepare(uid(1))
    agent.silent_for = timedelta(minutes=5)
    assert kubelet.prepare(uid(1))[uid(1)].devices


def test_a_status_of_another_boot_confirms_nothing(kubelet: Kubelet, agent: Agent) -> None:
    agent.boot_id = "other"
    agent.set(entry(uid(1)))
    assert "has not written status since the node was booted" in error_of(kubelet, uid(1))


def test_ready_without_devices_is_never_an_empty_answer(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1), devices=()))
    assert "without any device" in error_of(kubelet, uid(1))


def test_a_manual_allocation_of_the_same_name_is_not_the_claim(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1), origin="alloc"))
    assert "no entry for this claim" in error_of(kubelet, uid(1))


def test_claims_of_one_call_are_waited_for_together(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1)), entry(uid(2), "Blocked", "waits"))
    answers = kubelet.prepare(uid(1), uid(2), uid(3), timeout=SOON)
    assert answers[uid(1)].devices
    assert answers[uid(2)].error == "Blocked: waits"
    assert "no entry" in answers[uid(3)].error


def test_calls_for_other_claims_do_not_wait_for_one_that_hangs(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(2)))
    slow = threading.Thread(target=error_of, args=(kubelet, uid(1), 6.0))
    slow.start()
    assert kubelet.prepare(uid(2))[uid(2)].devices
    assert slow.is_alive()
    assert kubelet.unprepare(uid(1)) == {uid(1): ""}
    slow.join()


def test_preparing_again_keeps_the_mark(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    kubelet.prepare(uid(1))
    mark = agent.marks()[uid(1)]
    assert kubelet.prepare(uid(1))[uid(1)].devices
    assert agent.marks()[uid(1)] == mark


def test_a_mark_tells_by_which_service_it_was_asked_for_last(kubelet: Kubelet, agent: Agent) -> None:
    """What holds for a kubelet that forgets claims is not to be believed of the next one."""
    agent.set(entry(uid(1)))
    kubelet.prepare(uid(1))
    before = agent.marks()[uid(1)]
    assert kubelet.prepare(uid(1), version="v1beta1")[uid(1)].devices
    after = agent.marks()[uid(1)]
    assert (before.grpc_version, after.grpc_version, after.nonce) == ("v1", "v1beta1", before.nonce)


def test_a_mark_of_another_boot_is_made_anew(kubelet: Kubelet, agent: Agent, places: Places) -> None:
    agent.set(entry(uid(1)))
    kubelet.prepare(uid(1))
    file = places.marks_dir / f"{uid(1)}.json"
    file.write_text(file.read_text().replace(BOOT, "the boot before"))
    before = agent.marks()[uid(1)]
    assert kubelet.prepare(uid(1))[uid(1)].devices
    after = agent.marks()[uid(1)]
    assert after.nonce != before.nonce
    assert after.boot_id == BOOT


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"uid":"other","nonce":"n","bootID":"b"}'])
def test_a_mark_that_makes_no_sense_is_made_anew(
    kubelet: Kubelet, places: Places, agent: Agent, content: bytes
) -> None:
    (places.marks_dir / f"{uid(1)}.json").write_bytes(content)
    agent.set(entry(uid(1)))
    assert kubelet.prepare(uid(1))[uid(1)].devices
    assert agent.marks()[uid(1)].boot_id == BOOT


def test_the_request_is_that_of_the_claim_and_shares_have_ids(kubelet: Kubelet, agent: Agent) -> None:
    devices = (
        AppliedDevice(device=f"{PF}-m4-vf3", profile="flex170_m4", request="big/pair", share_id="share-1"),
        AppliedDevice(device=f"{PF}-shared", request="rest", share_id="share-2"),
        AppliedDevice(device=f"{PF}-m4-vf2", profile="flex170_m4", request="big/pair"),
    )
    agent.set(entry(uid(1), devices=devices))
    answer = kubelet.prepare(uid(1))[uid(1)]
    found = [(list(one.request_names), one.device_name, one.share_id) for one in answer.devices]
    assert found == [
        (["big"], f"{PF}-m4", "share-1"),
        (["rest"], f"{PF}-shared", "share-2"),
        (["big"], f"{PF}-m4-vf2", ""),
    ]
    older = kubelet.prepare(uid(1), version="v1beta1")[uid(1)]
    assert not any(one.HasField("share_id") for one in older.devices)


def test_unprepare_needs_nothing_but_the_uid(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    kubelet.prepare(uid(1))
    agent.entries.clear()
    assert kubelet.unprepare(uid(1), uid(2)) == {uid(1): "", uid(2): ""}
    assert agent.marks() == {}
    assert kubelet.unprepare(uid(1)) == {uid(1): ""}


def test_unprepare_ends_a_prepare_that_waits(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1), "Blocked", "waits"), entry(uid(2)))
    answers: dict[str, str] = {}

    def prepare() -> None:
        for name, answer in kubelet.prepare(uid(1), uid(2)).items():
            answers[name] = answer.error or "prepared"

    waiting = threading.Thread(target=prepare)
    waiting.start()
    eventually(lambda: uid(1) in agent.marks())
    assert kubelet.unprepare(uid(1)) == {uid(1): ""}
    waiting.join()
    assert answers == {uid(1): "was given back while it was being prepared", uid(2): "prepared"}
    assert agent.marks().keys() == {uid(2)}


def test_a_released_mark_is_removed_and_its_nonce_not_used_again(kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1)), entry(uid(2)))
    kubelet.prepare(uid(1), uid(2))
    before = agent.marks()
    agent.released = {uid(1): before[uid(1)].nonce, uid(2): "of another mark", uid(3): ""}
    eventually(lambda: uid(1) not in agent.marks())
    assert agent.marks() == {uid(2): before[uid(2)]}
    kubelet.prepare(uid(1))
    assert agent.marks()[uid(1)].nonce != before[uid(1)].nonce


def test_a_plugin_that_was_restarted_goes_on(kubelet: Kubelet, agent: Agent, places: Places) -> None:
    """A second one in the same place, as after a crash: the marks are all it needs."""
    agent.set(entry(uid(1)))
    kubelet.prepare(uid(1))
    mark = agent.marks()[uid(1)]
    with running(places):
        eventually(lambda: Kubelet(places).prepare(uid(1), timeout=5.0)[uid(1)].devices)
        assert agent.marks()[uid(1)] == mark
        assert Kubelet(places).unprepare(uid(1)) == {uid(1): ""}


def test_marks_that_cannot_be_written_are_an_error_of_the_claim(
    kubelet: Kubelet, agent: Agent, places: Places
) -> None:
    (places.marks_dir / f"{uid(1)}.json").mkdir()
    said = error_of(kubelet, uid(1))
    assert said.startswith("can't mark the claim as in use: ")
    assert str(places.marks_dir) in said
    assert "can't remove the claim's mark" in kubelet.unprepare(uid(1), timeout=SOON)[uid(1)]


@pytest.mark.parametrize(
    "bad", ["", "../../etc/passwd", "a/b", ".hidden", "UPPER", "a" * 64, "x\n", "x\0y", "ü", "-a"]
)
def test_what_is_no_uid_never_becomes_a_path(kubelet: Kubelet, places: Places, bad: str) -> None:
    before = sorted(places.run.rglob("*"))
    for call in (kubelet.prepare, kubelet.unprepare):
        with pytest.raises(grpc.RpcError) as refused:
            call(bad)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sorted(places.run.rglob("*")) == before


def test_a_claim_may_stand_only_once_in_a_call(kubelet: Kubelet) -> None:
    with pytest.raises(grpc.RpcError, match="the same claim twice"):
        kubelet.prepare(uid(1), uid(1))


def test_a_call_without_claims_has_an_answer_without_claims(kubelet: Kubelet) -> None:
    assert kubelet.prepare() == {}
    assert kubelet.unprepare() == {}
