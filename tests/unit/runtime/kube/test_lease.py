"""Leading by a Lease: taken, renewed, lost, given back; never two at once by their own clocks."""

import json
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.lease import Elector, LeaseTimes
from reconciler.runtime.kube.transport import Request, Response
from tests.unit.runtime.kube.memory_server import status
from tests.unit.runtime.kube.replies import Answer, Replies

COLLECTION = "/apis/coordination.k8s.io/v1/namespaces/system/leases"


@dataclass
class LeaseServer:
    """One Lease, with resource versions and preconditions."""

    lease: dict[str, Any] | None = None
    version: int = 0
    fault: Answer | None = None
    before_write: Callable[[], None] = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request) -> Answer:
        if request.method != "GET":
            self.before_write()
        with self.lock:
            if self.fault is not None:
                return self.fault
            match request.method:
                case "GET":
                    return status(404, "NotFound") if self.lease is None else self._ok()
                case "POST":
                    assert request.path == COLLECTION
                    if self.lease is not None:
                        return status(409, "AlreadyExists")
                    return self._store(json.loads(request.body))
                case "PATCH":
                    assert request.path == f"{COLLECTION}/leader"
                    return self._patch(json.loads(request.body))
                case other:
                    raise AssertionError(other)

    def _patch(self, patch: dict[str, Any]) -> Answer:
        if self.lease is None:
            return status(404, "NotFound")
        if patch["metadata"]["resourceVersion"] != str(self.version):
            return status(409, "Conflict")
        return self._store({**self.lease, "spec": {**self.lease["spec"], **patch["spec"]}})

    def _store(self, lease: dict[str, Any]) -> Response:
        self.version += 1
        metadata = {**lease["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**lease, "metadata": metadata}
        return self._ok()

    def _ok(self) -> Response:
        return Response(status=200, body=json.dumps(self.lease).encode())

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease is not None
        spec: dict[str, Any] = self.lease["spec"]
        return spec


class Replica:
    """An elector whose tries a test makes by hand, with a clock of its own."""

    def __init__(self, server: LeaseServer, identity: str) -> None:
        self.now = 1000.0
        self.told: list[bool] = []
        self.elector = Elector(
            KubeClient(Replies(answer=server.answer)),
            namespace="system",
            name="leader",
            identity=identity,
            on_change=self.told.append,
            clock=lambda: self.now,
            now=lambda: datetime.fromtimestamp(self.now, UTC),
            rng=random.Random(1),
        )

    def attempt(self) -> bool:
        self.elector.attempt()
        return self.elector.leading


def test_the_first_creates_the_lease_and_renews_it() -> None:
    server = LeaseServer()
    one = Replica(server, "one")
    assert one.attempt()
    assert server.spec == {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "renewTime": "1970-01-01T00:16:40.000000Z",
        "acquireTime": "1970-01-01T00:16:40.000000Z",
        "leaseTransitions": 0,
    }
    for _ in range(20):
        one.now += 2
        assert one.attempt()
    assert server.spec["renewTime"] == "1970-01-01T00:17:20.000000Z"
    assert server.spec["acquireTime"] == "1970-01-01T00:16:40.000000Z"
    assert one.told == [True]


def test_a_renewed_lease_is_left_alone_and_one_that_runs_out_is_taken() -> None:
    server = LeaseServer()
    one, two = Replica(server, "one"), Replica(server, "two")
    assert one.attempt()
    for _ in range(20):
        one.now += 2
        two.now += 2
        assert one.attempt()
        assert not two.attempt()
    for _ in range(7):  # one is dead
        two.now += 2
        assert not two.attempt()
    two.now += 2
    assert two.attempt()
    assert (server.spec["holderIdentity"], server.spec["leaseTransitions"]) == ("two", 1)
    assert one.elector.leading  # whose clock stands still
    assert not one.attempt()
    assert one.told == [True, False]


def test_who_cannot_renew_stops_leading_before_another_may_begin() -> None:
    server = LeaseServer()
    one = Replica(server, "one")
    assert one.attempt()
    for fault in (status(503, ""), Unreachable("reset"), Response(status=200, body=b"?"), status(403, "")):
        server.fault = fault
        one.now += 2
        assert one.attempt()
    one.now += 2
    assert not one.elector.leading  # ten seconds after the last renewal, whatever is being tried
    assert not one.attempt()
    server.fault = None
    assert one.attempt()
    assert one.told == [True, False, True]
    assert server.spec["leaseTransitions"] == 0


def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    server = LeaseServer(fault=status(503, ""))
    one = Replica(server, "one")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            one.attempt()
    assert len(caplog.messages) == 1


def test_the_time_a_request_takes_counts() -> None:
    server = LeaseServer()
    one = Replica(server, "one")

    def slow() -> None:
        one.now += 9

    server.before_write = slow
    assert one.attempt()
    one.now += 1
    assert not one.elector.leading


def test_of_two_that_write_at_once_one_leads() -> None:
    server = LeaseServer()
    one, two = Replica(server, "one"), Replica(server, "two")

    def first() -> None:
        server.before_write = lambda: None
        assert two.attempt()

    server.before_write = first
    assert not one.attempt()
    assert server.spec["holderIdentity"] == "two"


def test_fields_of_others_stay() -> None:
    lease: dict[str, Any] = {
        "metadata": {"name": "leader", "annotations": {"a": "b"}},
        "spec": {"strategy": "x", "holderIdentity": ""},
    }
    server = LeaseServer(lease={**lease, "metadata": {**lease["metadata"], "resourceVersion": "0"}})
    assert Replica(server, "one").attempt()
    assert server.spec["strategy"] == "x"
    assert server.lease is not None
    assert server.lease["metadata"]["annotations"] == {"a": "b"}


def test_a_lease_without_spec_is_free() -> None:
    server = LeaseServer(lease={"metadata": {"name": "leader", "resourceVersion": "0"}, "spec": {}})
    assert Replica(server, "one").attempt()


def test_in_its_thread_it_leads_and_gives_back() -> None:
    server = LeaseServer()
    led = threading.Event()
    told: list[bool] = []

    def on_change(leading: bool) -> None:
        told.append(leading)
        if not leading:
            assert server.spec["holderIdentity"] == "one", "given back before the leading ended"
        led.set()

    crashes: list[BaseException] = []
    elector = Elector(
        KubeClient(Replies(answer=server.answer)),
        namespace="system",
        name="leader",
        identity="one",
        on_change=on_change,
        on_crash=crashes.append,
    )
    elector.start()
    with pytest.raises(ValueError, match="started before"):
        elector.start()
    assert led.wait(10)
    elector.stop(10)
    assert told == [True, False]
    assert not elector.leading
    assert server.spec["holderIdentity"] == ""
    assert Replica(server, "two").attempt()
    assert server.spec["leaseTransitions"] == 1
    assert crashes == []


@pytest.mark.parametrize("times", [{"retry": 10.0}, {"renew_deadline": 15.0}, {"retry": 0.0}, {"request": 0.0}])
def test_times_that_cannot_work(times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="need 0 < retry < renew_deadline < lease"):
        LeaseTimes(**times)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.1, 6.0), st.sampled_from(("well", "cut off", "cut off", "slow"))),
        max_size=60,
    )
)
def test_never_two_lead_at_once_while_their_clocks_run_alike(steps: list[tuple[int, float, str]]) -> None:
    server = LeaseServer()
    replicas = [Replica(server, f"{number}") for number in range(3)]
    for chosen, seconds, how in steps:
        for replica in replicas:
            replica.now += seconds
        server.fault = Unreachable("cut off") if how == "cut off" else None
        replicas[chosen].attempt()
        assert sum(replica.elector.leading for replica in replicas) <= 1
    server.fault = None
    for replica in replicas:
        replica.now += 100
    assert [replica.attempt() for replica in replicas].count(True) <= 1
    for replica in replicas:
        replica.now += 15
    assert any(replica.attempt() for replica in replicas)
