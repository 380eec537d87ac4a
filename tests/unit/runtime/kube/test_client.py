"""What goes out, what is tried again and what is not, and what is told of it."""

import json
import logging
import random
import subprocess
import sys
import threading

import pytest

from reconciler.runtime.kube.client import NO_RETRIES, KubeClient, Retries
from reconciler.runtime.kube.errors import ApiError, ServerFault, TooManyRequests, Unreachable
from reconciler.runtime.kube.measures import DECLARED
from reconciler.runtime.kube.transport import Request, Response
from reconciler.runtime.metrics import NoMetrics
from tests.contract_files import REPOSITORY, read_json
from tests.unit.runtime.kube.replies import Answer, Lines, Replies, in_turn

FAST = Retries(times=3, base=0.001, longest=5.0)
OK = Response(status=200, body=b"{}")
BUSY = Response(status=429, headers={"retry-after": "0"}, body=b"Too many requests")
REFUSED = Unreachable("connection refused", never_sent=True)
BROKEN = Unreachable("connection reset")
FAULT = Response(status=503)


class Counted(NoMetrics):
    """Remembers what was counted."""

    def __init__(self) -> None:
        super().__init__(DECLARED)
        self.seen: list[tuple[str, dict[str, str]]] = []

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        super().count(name, amount, **labels)
        self.seen.append((name, labels))


def test_each_verb_is_the_request_the_api_wants() -> None:
    replies = Replies(answer=lambda request: OK)
    client = KubeClient(replies, timeout=7)
    client.get("/a", (("limit", "1"),))
    client.create("/a", b"1")
    client.replace("/a/x", b"2")
    client.merge_patch("/a/x/status", b"3")
    client.json_patch("/a/x", b"4")
    client.apply("/a/x", b"5", field_manager="me", force=True)
    client.apply("/a/x", b"6", field_manager="me", query=(("dryRun", "All"),))
    client.delete("/a/x")
    assert [(r.method, r.path, r.query, r.body, r.content_type, r.timeout) for r in replies.asked] == [
        ("GET", "/a", (("limit", "1"),), b"", "application/json", 7),
        ("POST", "/a", (), b"1", "application/json", 7),
        ("PUT", "/a/x", (), b"2", "application/json", 7),
        ("PATCH", "/a/x/status", (), b"3", "application/merge-patch+json", 7),
        ("PATCH", "/a/x", (), b"4", "application/json-patch+json", 7),
        ("PATCH", "/a/x", (("fieldManager", "me"), ("force", "true")), b"5", "application/apply-patch+yaml", 7),
        (
            "PATCH",
            "/a/x",
            (("dryRun", "All"), ("fieldManager", "me"), ("force", "false")),
            b"6",
            "application/apply-patch+yaml",
            7,
        ),
        ("DELETE", "/a/x", (), b"", "application/json", 7),
    ]


def test_a_deletion_can_be_of_one_object_in_one_state_only() -> None:
    replies = Replies(answer=lambda request: OK)
    KubeClient(replies).delete("/a/x", uid="u", resource_version="7")
    assert json.loads(replies.asked[0].body) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u", "resourceVersion": "7"},
    }


@pytest.mark.parametrize("answer", [BUSY, REFUSED])
@pytest.mark.parametrize("write", [True, False])
def test_what_was_surely_not_processed_is_sent_again(answer: Answer, write: bool) -> None:
    replies = Replies(answer=in_turn(answer, answer, OK))
    client = KubeClient(replies, retries=FAST)
    assert (client.create("/a", b"{}") if write else client.get("/a")) == OK.body
    assert len(replies.asked) == 3


@pytest.mark.parametrize("answer", [FAULT, BROKEN])
def test_only_reads_are_repeated_when_nobody_knows_what_happened(answer: Answer) -> None:
    reads = Replies(answer=in_turn(answer, OK))
    assert KubeClient(reads, retries=FAST).get("/a") == OK.body
    writes = Replies(answer=in_turn(answer))
    with pytest.raises((ServerFault, Unreachable)):
        KubeClient(writes, retries=FAST).replace("/a/x", b"{}")
    assert len(writes.asked) == 1


def test_a_server_that_was_silent_is_not_waited_for_again() -> None:
    replies = Replies(answer=in_turn(Unreachable("timed out", silent=True)))
    with pytest.raises(Unreachable):
        KubeClient(replies, retries=FAST).get("/a")
    assert len(replies.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 415, 422])
def test_refusals_are_final(status: int) -> None:
    replies = Replies(answer=in_turn(Response(status=status)))
    with pytest.raises(ApiError):
        KubeClient(replies, retries=FAST).get("/a")
    assert len(replies.asked) == 1


def test_patience_ends() -> None:
    replies = Replies(answer=lambda request: REFUSED)
    with pytest.raises(Unreachable):
        KubeClient(replies, retries=FAST).get("/a")
    assert len(replies.asked) == 1 + FAST.times
    replies = Replies(answer=lambda request: REFUSED)
    with pytest.raises(Unreachable):
        KubeClient(replies, retries=FAST).patience(retries=NO_RETRIES, timeout=1).get("/a")
    assert [request.timeout for request in replies.asked] == [1]


def test_a_server_that_wants_a_long_pause_is_left_to_the_caller() -> None:
    replies = Replies(answer=in_turn(Response(status=429, headers={"retry-after": "60"})))
    with pytest.raises(TooManyRequests) as caught:
        KubeClient(replies, retries=FAST).get("/a")
    assert caught.value.retry_after == 60
    assert len(replies.asked) == 1


def test_a_disruption_budget_is_not_waited_for() -> None:
    recorded = read_json("discovery/errors/429-eviction-pdb.json")["response"]
    refused = Response(status=429, body=json.dumps(recorded["body"]).encode())
    replies = Replies(answer=in_turn(refused))
    with pytest.raises(TooManyRequests):
        KubeClient(replies, retries=FAST).create("/a", b"{}")
    assert len(replies.asked) == 1


class Patient(threading.Event):
    """Notes how long somebody would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return False


def test_waits_grow_are_never_shorter_than_asked_and_differ_between_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def waits(seed: int, answer: Answer) -> list[float]:
        patient = Patient()
        monkeypatch.setattr("reconciler.runtime.kube.client.threading.Event", lambda: patient)
        client = KubeClient(
            Replies(answer=lambda request: answer), retries=Retries(base=0.1), rng=random.Random(seed)
        )
        with pytest.raises(ApiError):
            client.get("/a")
        return patient.waits

    asked = waits(1, Response(status=429, headers={"retry-after": "2"}))
    assert len(asked) == 3
    assert all(2 <= wait <= 2 * 1.25 + 0.4 for wait in asked)
    own = waits(1, FAULT)
    assert [0.05 * 2**n <= wait <= 0.1 * 2**n for n, wait in enumerate(own)] == [True] * 3
    assert own != waits(2, FAULT)


def test_closing_ends_a_wait() -> None:
    asked = threading.Event()

    def answer(request: Request) -> Answer:
        asked.set()
        return REFUSED

    client = KubeClient(Replies(answer=answer), retries=Retries(times=1, base=1000.0))
    failures: list[ApiError] = []

    def call() -> None:
        try:
            client.get("/a")
        except ApiError as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert asked.wait(10)
    client.close()
    thread.join(10)
    assert failures == [REFUSED]


def test_warnings_of_the_server_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    warnings = [
        read_json(f"discovery/errors/{name}.json")["response"]["headers"]["Warning"]
        for name in ("200-deprecated-warning", "201-crd-pruned")
    ]
    both = Response(status=200, headers={"warning": ", ".join(warnings)})
    client = KubeClient(Replies(answer=lambda request: both, open_stream=lambda request: Lines(both)))
    with caplog.at_level(logging.WARNING):
        client.get("/a")
        client.create("/a", b"{}")
        with client.watch("/a", (), silence=1):
            pass
    deprecated = "resource.k8s.io/v1beta1 ResourceSlice is deprecated in v1.35+, unavailable in v1.38+"
    assert caplog.messages == [
        "the API server warns: " + deprecated,
        'the API server warns: unknown field "spec.unknown"',
    ]


def test_requests_are_counted_by_verb_and_code() -> None:
    counted = Counted()
    replies = Replies(answer=in_turn(OK, Response(status=404), BROKEN), open_stream=lambda request: BROKEN)
    client = KubeClient(replies, metrics=counted, retries=NO_RETRIES)
    client.get("/a")
    for _ in range(2):
        with pytest.raises(ApiError):
            client.create("/a", b"{}")
    with pytest.raises(Unreachable), client.watch("/a", (), silence=1):
        pass
    assert [(labels["verb"], labels["code"]) for _, labels in counted.seen] == [
        ("GET", "200"),
        ("POST", "404"),
        ("POST", "none"),
        ("WATCH", "none"),
    ]


def test_a_watch_refused_is_an_error() -> None:
    client = KubeClient(Replies(open_stream=lambda request: Lines(Response(status=403))))
    with pytest.raises(ApiError, match="403"), client.watch("/a", (("resourceVersion", "1"),), silence=9):
        pass


def test_nothing_of_the_official_client_is_loaded_before_connecting() -> None:
    """It costs 0.2 s and 35 MiB, which other commands of the CLI must not pay."""
    modules = ("client", "config", "events", "lease", "listing", "queue", "reflector")
    script = "".join(f"import reconciler.runtime.kube.{module}; " for module in modules)
    script += "import sys; print(sorted({'kubernetes', 'requests', 'urllib3', 'yaml'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
