"""Events: what is sent, what is counted together, and that nothing about them holds anybody up."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.event_bodies import EventType, Regarding
from reconciler.runtime.kube.events import EventRecorder, Restraint
from reconciler.runtime.kube.transport import Request, Response
from tests.unit.runtime.kube.memory_server import status
from tests.unit.runtime.kube.replies import Answer, Replies
from tests.unit.runtime.kube.test_client import Counted

START = datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=UTC)
NODE = Regarding(api_version="v1", kind="Node", name="node-a", uid="uid-node")
CLAIM = Regarding(
    api_version="resource.k8s.io/v1", kind="ResourceClaim", namespace="team", name="c", uid="uid-claim"
)
NO_GROUP = Response(status=404, headers={"content-type": "text/plain"}, body=b"404 page not found\n")
AT_ONCE = Restraint(pace=0.001, series_every=0.001, attempts=3)


class Times:
    """Clocks that go on a second at each look."""

    def __init__(self) -> None:
        self.seconds = 0

    def now(self) -> datetime:
        self.seconds += 1
        return START + timedelta(seconds=self.seconds)


class Sent(Replies):
    """Waits for requests."""

    def __init__(self, answer: Callable[[Request], Answer] = lambda request: Response(status=201)) -> None:
        super().__init__(answer=answer)
        self._came = threading.Condition()

    def send(self, request: Request) -> Response:
        try:
            return super().send(request)
        finally:
            with self._came:
                self._came.notify_all()

    def wait_for(self, number: int) -> list[dict[str, Any]]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.asked) >= number, 10), self.asked
        return [json.loads(request.body) for request in self.asked]


@contextmanager
def recorder(
    sent: Replies, *, restraint: Restraint = AT_ONCE, counted: Counted | None = None, started: bool = True
) -> Iterator[EventRecorder]:
    crashes: list[BaseException] = []
    recorder = EventRecorder(
        KubeClient(sent),
        "gpu.example/agent",
        "agent-1",
        restraint=restraint,
        metrics=counted,
        on_crash=crashes.append,
        now=Times().now,
    )
    if started:
        recorder.start()
    yield recorder
    recorder.stop(10)
    assert crashes == []


def test_an_event_as_the_api_wants_it() -> None:
    sent = Sent()
    with recorder(sent) as events:
        events.record(CLAIM, EventType.WARNING, "Refused", "no such device", "Allocate")
        body = sent.wait_for(1)[0]
    assert sent.asked[0].path == "/apis/events.k8s.io/v1/namespaces/team/events"
    name = body["metadata"].pop("name")
    assert name.startswith("c.")
    assert body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "team"},
        "eventTime": "2026-11-23T12:00:01.000005Z",
        "reportingController": "gpu.example/agent",
        "reportingInstance": "agent-1",
        "type": "Warning",
        "reason": "Refused",
        "action": "Allocate",
        "note": "no such device",
        "regarding": {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "name": "c",
            "namespace": "team",
            "uid": "uid-claim",
        },
    }


def test_events_of_cluster_scoped_objects_are_kept_in_default() -> None:
    sent = Sent()
    with recorder(sent) as events:
        events.record(NODE, EventType.NORMAL, "Ready", "n", "Converge")
        body = sent.wait_for(1)[0]
    assert sent.asked[0].path == "/apis/events.k8s.io/v1/namespaces/default/events"
    assert "namespace" not in body["regarding"]


def test_the_same_again_becomes_a_series_of_one_event() -> None:
    sent = Sent()
    with recorder(sent) as events:
        for number in range(1, 4):
            events.record(NODE, EventType.NORMAL, "Ready", "n", "Converge")
            sent.wait_for(number)
        events.record(NODE, EventType.NORMAL, "Ready", "another note", "Converge")
        bodies = sent.wait_for(4)
    assert [request.method for request in sent.asked] == ["POST", "PATCH", "PATCH", "POST"]
    created = bodies[0]["metadata"]["name"]
    assert sent.asked[1].path == f"/apis/events.k8s.io/v1/namespaces/default/events/{created}"
    assert bodies[1] == {"series": {"count": 2, "lastObservedTime": "2026-11-23T12:00:02.000005Z"}}
    assert bodies[2] == {"series": {"count": 3, "lastObservedTime": "2026-11-23T12:00:03.000005Z"}}
    assert bodies[3]["metadata"]["name"] != created


def test_repetitions_before_the_first_is_sent_are_counted_together() -> None:
    sent = Sent()
    with recorder(sent, started=False) as events:
        for _ in range(5):
            events.record(NODE, EventType.NORMAL, "Ready", "n", "Converge")
        events.start()
        bodies = sent.wait_for(2)
    assert bodies[0]["eventTime"] == "2026-11-23T12:00:01.000005Z"
    assert bodies[1] == {"series": {"count": 5, "lastObservedTime": "2026-11-23T12:00:05.000005Z"}}


def test_a_series_whose_event_is_gone_begins_anew() -> None:
    patched = threading.Event()

    def answer(request: Request) -> Answer:
        if request.method == "PATCH":
            patched.set()
            return status(404, "NotFound")
        return Response(status=201)

    sent = Sent(answer)
    with recorder(sent) as events:
        events.record(NODE, EventType.NORMAL, "Ready", "n", "Converge")
        sent.wait_for(1)
        events.record(NODE, EventType.NORMAL, "Ready", "n", "Converge")
        sent.wait_for(3)
    assert [request.method for request in sent.asked] == ["POST", "PATCH", "POST"]


def test_without_the_group_events_go_to_the_core_api() -> None:
    def answer(request: Request) -> Answer:
        return NO_GROUP if request.path.startswith("/apis/events.k8s.io/") else Response(status=201)

    sent = Sent(answer)
    with recorder(sent) as events:
        events.record(CLAIM, EventType.NORMAL, "Ready", "n", "Converge")
        sent.wait_for(2)
        events.record(CLAIM, EventType.NORMAL, "Ready", "n", "Converge")
        bodies = sent.wait_for(3)
    assert [request.path for request in sent.asked[1:]] == [
        "/api/v1/namespaces/team/events",
        f"/api/v1/namespaces/team/events/{bodies[1]['metadata']['name']}",
    ]
    assert (bodies[1]["apiVersion"], bodies[1]["message"], bodies[1]["involvedObject"]["kind"]) == (
        "v1",
        "n",
        "ResourceClaim",
    )
    assert bodies[2] == {"count": 2, "lastTimestamp": "2026-11-23T12:00:02Z"}


def test_a_note_too_long_is_cut_between_characters() -> None:
    sent = Sent()
    with recorder(sent) as events:
        events.record(NODE, EventType.NORMAL, "Ready", "é" * 600, "Converge")
        note = sent.wait_for(1)[0]["note"]
    assert note == "é" * 510 + "…"
    assert len(note.encode()) <= 1024


@pytest.mark.parametrize(
    "answer", [status(503, "Unavailable"), Unreachable("reset"), status(429, "TooManyRequests")]
)
def test_what_passes_is_tried_again_but_not_for_ever(answer: Answer) -> None:
    sent, counted = Sent(lambda request: answer), Counted()
    with recorder(sent, counted=counted) as events:
        events.record(NODE, EventType.NORMAL, "Ready", "n", "Converge")
        sent.wait_for(AT_ONCE.attempts)
    assert len(sent.asked) == AT_ONCE.attempts
    assert len({json.loads(request.body)["metadata"]["name"] for request in sent.asked}) == 1
    assert counted.seen == [("kube_events_total", {"result": "failed"})]


def test_an_attempt_whose_answer_was_lost_is_no_failure() -> None:
    answers: list[Answer] = [Unreachable("reset"), status(409, "AlreadyExists")]
    sent, counted = Sent(lambda request: answers.pop(0)), Counted()
    with recorder(sent, counted=counted) as events:
        events.record(NODE, EventType.NORMAL, "Ready", "n", "Converge")
        sent.wait_for(2)
    assert counted.seen == [("kube_events_total", {"result": "sent"})]


def test_refusals_are_final_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    sent = Sent(lambda request: status(403, "Forbidden"))
    with caplog.at_level(logging.WARNING), recorder(sent) as events:
        for number in range(3):
            events.record(NODE, EventType.NORMAL, "Ready", f"{number}", "Converge")
        sent.wait_for(3)
    assert len(sent.asked) == 3
    assert len([message for message in caplog.messages if "could not be sent" in message]) == 1


def test_too_many_waiting_drop_the_oldest() -> None:
    sent, counted = Sent(), Counted()
    with recorder(sent, restraint=Restraint(waiting=2), counted=counted, started=False) as events:
        for number in range(5):
            events.record(NODE, EventType.NORMAL, "Ready", f"{number}", "Converge")
        assert [labels["result"] for _, labels in counted.seen] == ["dropped"] * 3
        events.start()
        assert [body["note"] for body in sent.wait_for(2)] == ["3", "4"]


def test_a_burst_then_one_at_a_time() -> None:
    sent = Sent()
    with recorder(sent, restraint=Restraint(burst=3, pace=1000.0)) as events:
        for number in range(6):
            events.record(NODE, EventType.NORMAL, "Ready", f"{number}", "Converge")
        sent.wait_for(3)
        assert len(sent.asked) == 3
    assert len(sent.asked) == 6  # at the end what waits is sent


def test_recording_does_not_wait_for_the_server() -> None:
    go_on = threading.Event()

    def hang(request: Request) -> Answer:
        assert go_on.wait(10)
        return Response(status=201)

    sent = Sent(hang)
    with recorder(sent) as events:
        for number in range(1000):
            events.record(NODE, EventType.NORMAL, "Ready", f"{number}", "Converge")
        go_on.set()
        sent.wait_for(1)
        events.stop(0)
