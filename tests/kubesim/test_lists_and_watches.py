"""Lists by page, version and selector; watches from versions, with bookmarks, and their ends."""

import json
import threading
from typing import Any

import pytest

from kubesim import Cluster, Dropped, ManualClock, Refusal, Request, Watch

MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cluster(clock: ManualClock) -> Cluster:
    return Cluster(clock=clock, history=50)


def add(cluster: Cluster, *names: str, **labels: str) -> str:
    """Create objects; the version of the last."""
    made = [cluster.create(MAPS, {"metadata": {"name": name, "labels": labels}}) for name in names]
    version: str = made[-1]["metadata"]["resourceVersion"]
    return version


def names(listed: dict[str, Any]) -> list[str]:
    return [each["metadata"]["name"] for each in listed["items"]]


def events(watch: Watch) -> list[tuple[str, str]]:
    """What there is to read: type and name."""
    lines, _ = watch.poll()
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in map(json.loads, lines)]


def open_watch(cluster: Cluster, query: str = "") -> Watch:
    return cluster.watch(Request.to("GET", f"{MAPS}?watch=true{query}"))


def test_pages_are_of_one_version(cluster: Cluster) -> None:
    add(cluster, "a", "b", "c")
    first = cluster.get(f"{MAPS}?limit=2")
    assert (names(first), first["metadata"]["remainingItemCount"]) == (["a", "b"], 1)
    add(cluster, "bb", "d")
    cluster.delete(f"{MAPS}/c")
    rest = cluster.get(f"{MAPS}?limit=2&continue={first['metadata']['continue']}")
    assert names(rest) == ["c"]
    assert rest["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in rest["metadata"]


def test_an_old_page_can_be_continued_inconsistently(cluster: Cluster) -> None:
    add(cluster, "a", "b", "c")
    token = cluster.get(f"{MAPS}?limit=2")["metadata"]["continue"]
    add(cluster, "d")
    cluster.compact()
    with pytest.raises(Refusal) as refused:
        cluster.get(f"{MAPS}?limit=2&continue={token}")
    assert refused.value.code == 410
    assert names(cluster.get(f"{MAPS}?limit=9&continue={refused.value.metadata['continue']}")) == ["c", "d"]


def test_exact_versions_of_the_past(cluster: Cluster) -> None:
    version = add(cluster, "a")
    add(cluster, "b")
    cluster.merge(f"{MAPS}/a", {"data": {"x": "1"}})
    past = cluster.get(f"{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact")
    assert names(past) == ["a"]
    assert "data" not in past["items"][0]


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("x=1", ["a"]),
        ("x==1", ["a"]),
        ("x!=1", ["b", "c"]),
        ("x", ["a", "b"]),
        ("!x", ["c"]),
        ("x in (1, 2)", ["a", "b"]),
        ("x notin (1)", ["b", "c"]),
        ("x>1", ["b"]),
        ("x,y=z", ["b"]),
    ],
)
def test_label_selectors(cluster: Cluster, selector: str, found: list[str]) -> None:
    add(cluster, "a", x="1")
    add(cluster, "b", x="2", y="z")
    add(cluster, "c")
    request = Request(method="GET", path=MAPS, query=(("labelSelector", selector),))
    assert names(json.loads(cluster.handle(request).body)) == found


def test_field_selectors_are_those_of_the_kind(cluster: Cluster) -> None:
    add(cluster, "a", "b")
    assert names(cluster.get(f"{MAPS}?fieldSelector=metadata.name%3Db")) == ["b"]
    with pytest.raises(Refusal, match=r"field label not supported: spec\.x"):
        cluster.get(f"{MAPS}?fieldSelector=spec.x%3D1")


def test_a_selection_is_entered_and_left(cluster: Cluster) -> None:
    watch = open_watch(cluster, "&labelSelector=x%3D1&resourceVersion=1")
    add(cluster, "a")
    cluster.merge(f"{MAPS}/a", {"metadata": {"labels": {"x": "1"}}})
    cluster.merge(f"{MAPS}/a", {"data": {"k": "v"}})
    cluster.merge(f"{MAPS}/a", {"metadata": {"labels": None}})
    cluster.delete(f"{MAPS}/a")
    assert events(watch) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    watch.close()


def test_a_watch_from_a_version_misses_nothing(cluster: Cluster) -> None:
    version = add(cluster, "a")
    add(cluster, "b")
    watch = open_watch(cluster, f"&resourceVersion={version}")
    add(cluster, "c")
    assert events(watch) == [("ADDED", "b"), ("ADDED", "c")]
    watch.close()


def test_history_has_an_end(cluster: Cluster) -> None:
    version = add(cluster, "a")
    for index in range(60):
        cluster.merge(f"{MAPS}/a", {"data": {"x": str(index)}})
    watch = open_watch(cluster, f"&resourceVersion={version}")
    [line], more = watch.poll()
    assert not more
    assert json.loads(line)["object"]["code"] == 410
    watch.close()


def test_a_watch_ends_by_its_timeout(cluster: Cluster, clock: ManualClock) -> None:
    watch = open_watch(cluster, "&resourceVersion=1&timeoutSeconds=10")
    assert watch.poll() == ([], True)
    clock.seconds += 10
    assert watch.poll() == ([], False)
    watch.close()
    assert cluster.open_watches == 0


def test_close_ends_a_reader_in_another_thread(cluster: Cluster) -> None:
    watch = open_watch(cluster, "&resourceVersion=1")
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(watch))
    reader.start()
    add(cluster, "a")
    watch.close()
    reader.join(5)
    assert not reader.is_alive()


def test_dropped_and_frozen_watches(cluster: Cluster, clock: ManualClock) -> None:
    dropped, frozen = open_watch(cluster, "&resourceVersion=1"), open_watch(cluster, "&allowWatchBookmarks=true")
    cluster.freeze_watches("nothing")
    frozen.frozen = True
    add(cluster, "a")
    clock.seconds += 300
    assert frozen.poll() == ([], True)
    cluster.drop_watches("configmaps")
    with pytest.raises(Dropped):
        dropped.poll()
    for watch in (dropped, frozen):
        watch.close()


def test_a_refused_watch_says_why(cluster: Cluster) -> None:
    watch = cluster.watch(Request.to("GET", "/api/v1/nothings?watch=true"))
    assert watch.status == 404
    assert json.loads(b"".join(watch))["reason"] == "NotFound"


def test_tables_are_watched_too(cluster: Cluster) -> None:
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    watch = cluster.watch(Request.to("GET", f"{MAPS}?watch=true", accept=accept))
    add(cluster, "a", "b")
    lines, _ = watch.poll()
    first, second = (json.loads(line)["object"] for line in lines)
    assert first["rows"][0]["cells"][:2] == ["a", 0]
    assert [each["name"] for each in first["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert second["columnDefinitions"] is None
    watch.close()


@pytest.mark.parametrize("path", [f"{MAPS}?fieldSelector=metadata.name%3Db&", f"{MAPS}/b?"])
def test_a_watch_of_one_name_sees_that_one(cluster: Cluster, path: str) -> None:
    watch = cluster.watch(Request.to("GET", f"{path}watch=true&resourceVersion=1"))
    add(cluster, "a", "b")
    cluster.delete(f"{MAPS}/a")
    cluster.delete(f"{MAPS}/b")
    assert events(watch) == [("ADDED", "b"), ("DELETED", "b")]
    watch.close()
    assert cluster.open_watches == 0
