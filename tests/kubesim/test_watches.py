"""Recorded watch streams of both servers, watched again while the same things happen."""

import json
from typing import Any

import pytest

from kubesim import Cluster, ManualClock, Request
from tests.contract_files import copied_paths
from tests.kubesim.recorded import Replay, exchanges, normal, parsed, unequal

FOLDER = "discovery/watch/"
SERVERS = {"k1.36.3": "1.36", "k1.26.5": "1.26"}
ORDER = (
    "added-modified-deleted",
    "label-selector",
    "rv-zero",
    "no-rv",
    "send-initial-events",
    "future-rv",
    "bad-rv",
    "timeout-end",
    "bookmark",
    "error-410",
)
MAPS = "/api/v1/namespaces/rec-watch/configmaps"
START = {"k1.36.3": "32667", "k1.26.5": "957"}
LIVE = ("added-modified-deleted", "label-selector", "rv-zero", "no-rv", "send-initial-events")
"""While these were made, something happened."""


def cluster_of(server: str) -> tuple[Cluster, ManualClock]:
    """Two objects of the test's own, and the certificate that every namespace had."""
    clock = ManualClock()
    cluster = Cluster(SERVERS[server], clock=clock)
    cluster.create("/api/v1/namespaces", {"metadata": {"name": "rec-watch"}})
    [recorded] = exchanges(f"{FOLDER}{server}-no-rv.json")
    for event in recorded.stream[:3]:
        meta = {key: value for key, value in event["object"]["metadata"].items() if key in ("name", "annotations")}
        cluster.create(MAPS, {"metadata": meta, "data": event["object"]["data"]})
    return cluster, clock


def one_round(cluster: Cluster) -> None:
    """What happened during most recordings: an object comes, changes, loses its label, goes."""
    cluster.create(MAPS, {"metadata": {"name": "c", "labels": {"x": "1"}}, "data": {"a": "1"}})
    cluster.merge(f"{MAPS}/c", {"data": {"a": "2"}})
    cluster.merge(f"{MAPS}/c", {"metadata": {"labels": None}})
    cluster.delete(f"{MAPS}/c")


def watched(cluster: Cluster, clock: ManualClock, request: Request, *, live: bool) -> tuple[int, list[Any]]:
    """All lines of a watch up to its timeout."""
    watch = cluster.watch(request)
    if live:
        one_round(cluster)
    lines, more = watch.poll()
    clock.seconds += 4
    while more:
        clock.seconds += 60
        rest, more = watch.poll()
        lines += rest
    watch.close()
    return watch.status, [parsed(line) for line in lines]


def without_bookmarks(stream: list[Any]) -> list[Any]:
    """Without those that only tell the time."""
    return [
        line for line in stream if line.get("type") != "BOOKMARK" or "annotations" in line["object"]["metadata"]
    ]


@pytest.mark.parametrize("server", SERVERS)
def test_the_stream_is_the_recorded_one(server: str) -> None:
    cluster, clock = cluster_of(server)
    replay = Replay(cluster)
    with cluster.unobserved() as state:
        replay.known[START[server]] = str(state.store.version)
    found = {}
    for name in ORDER:
        [recorded] = exchanges(f"{FOLDER}{server}-{name}.json")
        if name == "error-410":
            cluster.compact()
        status, lines = watched(cluster, clock, replay.request(recorded), live=name in LIVE)
        problems = unequal(
            normal(by_name(without_bookmarks(recorded.stream))), normal(by_name(without_bookmarks(lines)))
        )
        if status != recorded.status or problems:
            found[name] = [f"status {status}, recorded {recorded.status}", *problems]
    assert found == {}


def by_name(stream: list[Any]) -> list[Any]:
    """Objects that were there before come in any order: as etcd or as a cache has them."""
    first = [line for line in stream[:3] if line.get("type") == "ADDED"]
    return sorted(first, key=lambda line: str(line["object"]["metadata"]["name"])) + stream[len(first) :]


@pytest.mark.parametrize("server", SERVERS)
def test_a_bookmark_says_the_version_only(server: str) -> None:
    cluster, clock = cluster_of(server)
    [stream] = [exchange.stream for exchange in exchanges(f"{FOLDER}{server}-bookmark.json")]
    recorded = next(line for line in stream if line["type"] == "BOOKMARK")
    watch = cluster.watch(Request.to("GET", f"{MAPS}?watch=true&resourceVersion=1&allowWatchBookmarks=true"))
    watch.poll()
    clock.seconds += 60
    [line], more = watch.poll()
    watch.close()
    assert more
    assert normal(json.loads(line)) == normal(recorded)
    assert recorded["object"]["metadata"].keys() == json.loads(line)["object"]["metadata"].keys()


def test_every_recorded_watch_is_watched() -> None:
    there = [path for path in copied_paths() if path.startswith(FOLDER)]
    assert len(there) == len(ORDER) * len(SERVERS)
