"""What a watcher knows is what there is, whatever happens to its watch; writers in threads lose nothing."""

import json
import threading
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubesim import Cluster, Dropped, Request, Watch

MAPS = "/api/v1/namespaces/default/configmaps"
NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), NAMES, st.sampled_from(["1", "2"])),
        st.tuples(st.just("delete"), NAMES, st.just("")),
        st.tuples(st.sampled_from(["drop", "end", "compact", "read"]), st.just(""), st.just("")),
    ),
    max_size=30,
)


class Follower:
    """A minimal reflector: list, watch, list again when the version is too old."""

    def __init__(self, cluster: Cluster, selector: str) -> None:
        self.cluster = cluster
        self.selector = selector
        self.known: dict[str, Any] = {}
        self.version = ""
        self.watch: Watch | None = None

    def read(self) -> None:
        """Take in everything that happened so far."""
        while True:
            if self.watch is None:
                if not self.version:
                    self._list()
                query = f"watch=true&resourceVersion={self.version}&labelSelector={self.selector}"
                self.watch = self.cluster.watch(Request.to("GET", f"{MAPS}?{query}"))
            try:
                lines, more = self.watch.poll()
            except Dropped:
                lines, more = [], False
            for line in lines:
                self._take(json.loads(line))
            if more:
                return
            self.watch.close()
            self.watch = None

    def _list(self) -> None:
        listed = self.cluster.get(f"{MAPS}?labelSelector={self.selector}")
        self.known = {each["metadata"]["name"]: each["metadata"]["uid"] for each in listed["items"]}
        self.version = listed["metadata"]["resourceVersion"]

    def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "ERROR":
            assert event["object"]["code"] == 410
            self.version = ""
            return
        meta = event["object"]["metadata"]
        assert int(meta["resourceVersion"]) > int(self.version)
        self.version = meta["resourceVersion"]
        if event["type"] == "DELETED":
            assert self.known.pop(meta["name"]) == meta["uid"]
        else:
            assert (event["type"] == "ADDED") == (meta["name"] not in self.known)
            self.known[meta["name"]] = meta["uid"]


def happen(cluster: Cluster, step: tuple[str, str, str]) -> None:
    action, name, label = step
    there = any(each["metadata"]["name"] == name for each in cluster.get(MAPS)["items"])
    match action:
        case "set" if there:
            cluster.merge(f"{MAPS}/{name}", {"metadata": {"labels": {"x": label}}})
        case "set":
            cluster.create(MAPS, {"metadata": {"name": name, "labels": {"x": label}}})
        case "delete" if there:
            cluster.delete(f"{MAPS}/{name}")
        case "drop":
            cluster.drop_watches()
        case "end":
            cluster.end_watches()
        case "compact":
            cluster.compact()
        case _:
            pass


@settings(max_examples=60)
@given(STEPS)
def test_a_follower_ends_up_with_the_truth(steps: list[tuple[str, str, str]]) -> None:
    cluster = Cluster(history=8)
    followers = [Follower(cluster, selector) for selector in ("", "x%3D1")]
    for step in steps:
        happen(cluster, step)
        if step[0] == "read":
            for follower in followers:
                follower.read()
    for follower in followers:
        follower.read()
        listed = cluster.get(f"{MAPS}?labelSelector={follower.selector}")
        assert follower.known == {each["metadata"]["name"]: each["metadata"]["uid"] for each in listed["items"]}
        assert follower.watch is not None
        follower.watch.close()
    assert cluster.open_watches == 0


def test_writers_that_mind_versions_lose_nothing() -> None:
    cluster = Cluster()
    cluster.create(MAPS, {"metadata": {"name": "counter"}, "data": {"n": "0"}})
    conflicts = []

    def count() -> None:
        for _ in range(50):
            while True:
                body = json.loads(cluster.handle(Request.to("GET", f"{MAPS}/counter")).body)
                body["data"]["n"] = str(int(body["data"]["n"]) + 1)
                answer = cluster.handle(Request.to("PUT", f"{MAPS}/counter", body))
                if answer.status == 200:
                    break
                conflicts.append(answer.status)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert cluster.get(f"{MAPS}/counter")["data"]["n"] == "200"
    assert set(conflicts) <= {409}
