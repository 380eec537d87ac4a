"""Watches as real servers sent them, fed through a reflector."""

import json
from typing import Any

import pytest

from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.kube.reflector import Reflector
from reconciler.runtime.kube.transport import Query, Request, Response
from tests.contract_files import copied_paths, read_json
from tests.unit.runtime.kube.following import SWIFT
from tests.unit.runtime.kube.replies import Answer, Lines, Replies

RECORDINGS = tuple(path for path in copied_paths() if path.startswith("discovery/watch/"))
REFUSED = tuple(path for path in RECORDINGS if read_json(path)["response"]["status"] != 200)
EMPTY = Response(status=200, body=b'{"metadata": {"resourceVersion": "1"}, "items": []}')


def recorded_stream(path: str) -> list[dict[str, Any]]:
    lines = [each["line"] for each in read_json(path)["response"]["stream"]]
    return [json.loads(line) if isinstance(line, str) else line for line in lines]


def recorded_head(path: str) -> Response:
    recorded = read_json(path)["response"]
    body = "" if recorded["status"] == 200 else recorded_stream(path)[0]
    return Response(
        status=recorded["status"],
        headers={name.lower(): value for name, value in recorded["headers"].items()},
        body=(body if isinstance(body, str) else json.dumps(body)).encode(),
    )


def expected(events: list[dict[str, Any]]) -> dict[Key, str]:
    """Replay the events by hand: the resource version of each object left."""
    left: dict[Key, str] = {}
    for event in events:
        metadata = event["object"]["metadata"]
        key = Key(namespace=metadata.get("namespace", ""), name=metadata.get("name", ""))
        if event["type"] in ("ADDED", "MODIFIED"):
            left[key] = metadata["resourceVersion"]
        elif event["type"] == "DELETED":
            del left[key]
    return left


@pytest.mark.parametrize("path", RECORDINGS)
def test_the_cache_is_what_the_recorded_events_make_of_it(path: str) -> None:
    events = recorded_stream(path)
    lines = Lines(recorded_head(path))
    if lines.head.status != 200:
        events = []
    lines.feed(*(json.dumps(event).encode() for event in events))
    lists = 0

    def answer(request: Request) -> Answer:
        nonlocal lists
        lists += 1
        return EMPTY

    watches: list[Query] = []

    def watch(request: Request) -> Lines:
        watches.append(request.query)
        return lines if len(watches) == 1 else Lines()

    crashes: list[BaseException] = []
    reflector = Reflector(
        KubeClient(Replies(answer=answer, open_stream=watch), retries=NO_RETRIES),
        "/api/v1/things",
        json.loads,
        lambda key: None,
        on_crash=crashes.append,
        timing=SWIFT,
    )
    lines.feed(None)
    reflector.start()
    try:
        while len(watches) < 2:
            assert reflector.synced.wait(10)
        entries = reflector.cache.entries()
    finally:
        reflector.stop(10)
    assert crashes == []
    failed = lines.head.status != 200 or any(event["type"] == "ERROR" for event in events)
    position = dict(watches[1])["resourceVersion"]
    if failed:
        assert (lists, position) == (2, "1")
        assert entries == {}
    else:
        assert lists == 1
        assert position == (events[-1]["object"]["metadata"]["resourceVersion"] if events else "1")
        assert {key: entry.resource_version for key, entry in entries.items()} == expected(events)


@pytest.mark.parametrize("path", REFUSED)
def test_a_watch_that_was_refused_is_an_error(path: str) -> None:
    head = recorded_head(path)
    client = KubeClient(Replies(open_stream=lambda request: Lines(head)))
    with pytest.raises(ApiError) as caught, client.watch("/api/v1/things", (), silence=1):
        pass
    assert caught.value.status == head.status
    assert caught.value.message == json.loads(head.body)["message"]
