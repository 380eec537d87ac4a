"""Faults by rule and chance: in memory, where a broken connection is an exception."""

import json

import pytest

from kubesim import Cluster, Dropped, Fault, Request, Rule
from kubesim.cli import fault_rule, log_line

MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def get(cluster: Cluster, path: str = MAPS) -> int:
    return cluster.handle(Request.to("GET", path)).status


def post(cluster: Cluster, name: str) -> int:
    return cluster.handle(Request.to("POST", MAPS, {"metadata": {"name": name}})).status


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (Fault.INTERNAL, 500, "InternalError"),
        (Fault.UNAVAILABLE, 503, "ServiceUnavailable"),
        (Fault.EXPIRED, 410, "Expired"),
    ],
)
def test_an_answer_instead_of_the_server_s(cluster: Cluster, fault: Fault, status: int, reason: str) -> None:
    cluster.add_fault(Rule(fault=fault, count=1))
    answer = cluster.handle(Request.to("GET", MAPS))
    assert (answer.status, json.loads(answer.body)["reason"]) == (status, reason)
    assert get(cluster) == 200


def test_throttling_is_plain_text(cluster: Cluster) -> None:
    cluster.add_fault(Rule(fault=Fault.THROTTLED))
    answer = cluster.handle(Request.to("GET", MAPS))
    assert (answer.status, answer.header("Retry-After")) == (429, "1")
    assert answer.header("Content-Type") == "text/plain; charset=utf-8"


def test_a_dropped_write_is_done_and_a_lost_one_is_not(cluster: Cluster) -> None:
    cluster.add_fault(Rule(fault=Fault.DROPPED, method="POST", count=1))
    with pytest.raises(ConnectionResetError):
        post(cluster, "a")
    assert get(cluster, f"{MAPS}/a") == 200
    cluster.add_fault(Rule(fault=Fault.LOST, method="POST", count=1))
    with pytest.raises(ConnectionResetError):
        post(cluster, "b")
    assert get(cluster, f"{MAPS}/b") == 404


def test_refusal_and_conflict_hit_what_they_name(cluster: Cluster) -> None:
    cluster.add_fault(Rule(fault=Fault.REFUSED, path="/secrets"))
    cluster.add_fault(Rule(fault=Fault.CONFLICT, method="PUT"))
    made = cluster.create(MAPS, {"metadata": {"name": "a"}})
    with pytest.raises(ConnectionRefusedError):
        get(cluster, "/api/v1/secrets")
    answer = cluster.handle(Request.to("PUT", f"{MAPS}/a", made))
    assert (answer.status, json.loads(answer.body)["reason"]) == (409, "Conflict")
    cluster.clear_faults()
    assert cluster.handle(Request.to("PUT", f"{MAPS}/a", made)).status == 200


def test_slowness_is_waited_for() -> None:
    slept: list[float] = []
    cluster = Cluster(sleep=slept.append)
    cluster.add_fault(Rule(fault=Fault.SLOW, seconds=2.5, count=1))
    assert (get(cluster), slept) == (200, [2.5])


def test_a_stale_list_is_of_the_past(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        post(cluster, name)
    cluster.add_fault(Rule(fault=Fault.STALE, behind=2, count=1))
    stale, fresh = (json.loads(cluster.handle(Request.to("GET", MAPS)).body) for _ in range(2))
    assert [len(each["items"]) for each in (stale, fresh)] == [1, 3]
    assert int(fresh["metadata"]["resourceVersion"]) - int(stale["metadata"]["resourceVersion"]) == 2


def test_a_watch_breaks_or_falls_silent_after_so_many_events(cluster: Cluster) -> None:
    for fault in (Fault.WATCH_DROPPED, Fault.HALF_OPEN):
        cluster.add_fault(Rule(fault=fault, method="WATCH", events=2, count=1))
    dropped, silent = (cluster.watch(Request.to("GET", f"{MAPS}?watch=true")) for _ in range(2))
    for name in ("a", "b", "c"):
        post(cluster, name)
    assert len(silent.poll()[0]) == 2
    assert silent.poll() == ([], True)
    assert len(dropped.poll()[0]) == 2
    with pytest.raises(Dropped):
        dropped.poll()
    for watch in (dropped, silent):
        watch.close()


def test_an_expired_watch_says_so_and_ends(cluster: Cluster) -> None:
    cluster.add_fault(Rule(fault=Fault.EXPIRED, method="WATCH", count=1))
    [line] = list(cluster.watch(Request.to("GET", f"{MAPS}?watch=true")))
    assert json.loads(line)["object"]["code"] == 410


def test_chance_is_repeatable() -> None:
    def outcomes(seed: int) -> list[int]:
        cluster = Cluster(seed=seed)
        cluster.add_fault(Rule(fault=Fault.INTERNAL, probability=0.5))
        return [get(cluster) for _ in range(20)]

    assert outcomes(3) == outcomes(3)
    assert set(outcomes(3)) == {200, 500}


def test_the_log_has_every_request(cluster: Cluster) -> None:
    cluster.add_fault(Rule(fault=Fault.REFUSED, path="/secrets"))
    get(cluster)
    with pytest.raises(ConnectionRefusedError):
        get(cluster, "/api/v1/secrets")
    assert [(each.request.path, each.status, each.fault) for each in cluster.requests] == [
        (MAPS, 200, None),
        ("/api/v1/secrets", 0, Fault.REFUSED),
    ]
    assert json.loads(log_line(cluster.requests[1]))["fault"] == "REFUSED"


def test_rules_from_the_command_line() -> None:
    rule = fault_rule("half-open,method=WATCH,path=claims,probability=0.5,count=3,events=7")
    assert rule == Rule(fault=Fault.HALF_OPEN, method="WATCH", path="claims", probability=0.5, count=3, events=7)
    for wrong in ("nothing", "slow,seconds=x", "slow,colour=red"):
        with pytest.raises(Exception, match=wrong.partition(",")[0]):
            fault_rule(wrong)
