"""All of it against the simulated API server, over TLS, with its own ideas of conflicts, schemas and faults."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kubesim import Cluster as SimulatedCluster
from kubesim import Fault, Rule, Served, serving
from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.client import KubeClient, Retries
from reconciler.runtime.kube.config import Cluster
from reconciler.runtime.kube.connecting import connect
from reconciler.runtime.kube.errors import AlreadyExists, Conflict, Invalid, NotFound
from reconciler.runtime.kube.event_bodies import EventType, Regarding
from reconciler.runtime.kube.events import EventRecorder, Restraint
from reconciler.runtime.kube.lease import Elector
from reconciler.runtime.kube.reflector import Reflector, Timing

pytestmark = pytest.mark.usefixtures("no_proxies")

MAPS = "/api/v1/namespaces/default/configmaps"
SWIFT = Timing(first_wait=0.001, longest_wait=0.02, good_after=0.05)
ALL = 12


@contextmanager
def simulated(directory: Path) -> Iterator[tuple[SimulatedCluster, KubeClient, Served]]:
    cluster = SimulatedCluster("1.36", seed=1)
    with serving(cluster, directory) as served:
        client = connect(
            Cluster(user_agent="tester/1", kubeconfig=served.kubeconfig),
            environment={},
            retries=Retries(base=0.001),
        )
        try:
            yield cluster, client, served
        finally:
            client.close()


def config_map(name: str, **data: str) -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}).encode()


class Follower:
    """A reflector of the config maps, and what it was told."""

    def __init__(self, client: KubeClient, *, page: int = 500) -> None:
        self.told = threading.Condition()
        self.crashes: list[BaseException] = []
        self.reflector: Reflector[dict[str, Any]] = Reflector(
            client,
            MAPS,
            json.loads,
            self._on_change,
            on_crash=self.crashes.append,
            timing=SWIFT,
            page=page,
            rng=random.Random(1),
        )

    def _on_change(self, key: Key) -> None:
        with self.told:
            self.told.notify_all()

    def until(self, so: Callable[[], object]) -> None:
        with self.told:
            assert self.told.wait_for(so, 20), self.reflector.trouble

    def versions(self) -> dict[str, str]:
        return {key.name: value["metadata"]["resourceVersion"] for key, value in self.reflector.cache.items()}


@contextmanager
def following(client: KubeClient, *, page: int = 500) -> Iterator[Follower]:
    follower = Follower(client, page=page)
    follower.reflector.start()
    try:
        yield follower
    finally:
        follower.reflector.stop(10)
    assert follower.crashes == []


def stored(cluster: SimulatedCluster) -> dict[str, str]:
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in cluster.get(MAPS)["items"]}


def test_reads_and_writes_with_preconditions(tmp_path: Path) -> None:
    with simulated(tmp_path) as (_, client, _):
        made = json.loads(client.create(MAPS, config_map("a", x="1")))
        with pytest.raises(AlreadyExists):
            client.create(MAPS, config_map("a"))
        path, version = f"{MAPS}/a", made["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "data": {"x": "2"}}
        client.merge_patch(path, json.dumps(patch).encode())
        with pytest.raises(Conflict):
            client.merge_patch(path, json.dumps({**patch, "data": {"x": "3"}}).encode())
        client.json_patch(path, b'[{"op": "test", "path": "/data/x", "value": "2"}]')
        with pytest.raises(Invalid):
            client.json_patch(path, b'[{"op": "test", "path": "/data/x", "value": "1"}]')
        with pytest.raises(Conflict):
            client.delete(path, uid="another")
        with pytest.raises(Conflict):
            client.delete(path, resource_version=version)
        client.delete(path, uid=made["metadata"]["uid"])
        with pytest.raises(NotFound) as caught:
            client.get(path)
        assert not caught.value.resource_absent


def test_server_side_apply(tmp_path: Path) -> None:
    with simulated(tmp_path) as (_, client, _):
        path = f"{MAPS}/a"
        client.apply(path, config_map("a", x="1"), field_manager="one")
        with pytest.raises(Conflict) as caught:
            client.apply(path, config_map("a", x="2"), field_manager="two")
        assert [cause.field for cause in caught.value.causes] == [".data.x"]
        client.apply(path, config_map("a", x="2"), field_manager="two", force=True)
        assert json.loads(client.get(path))["data"] == {"x": "2"}


def test_a_resource_that_nobody_serves(tmp_path: Path) -> None:
    with simulated(tmp_path) as (_, client, _), pytest.raises(NotFound) as caught:
        client.get("/apis/nobody.example/v1/things")
    assert caught.value.resource_absent


def test_pages_changes_and_an_outage(tmp_path: Path) -> None:
    with simulated(tmp_path) as (cluster, client, served):
        for number in range(ALL):
            client.create(MAPS, config_map(f"c{number}"))
        with following(client, page=5) as follower:
            follower.until(follower.reflector.synced.is_set)
            assert follower.versions() == stored(cluster)
            client.delete(f"{MAPS}/c3")
            client.merge_patch(f"{MAPS}/c4", b'{"data": {"x": "1"}}')
            follower.until(lambda: follower.versions() == stored(cluster))
            served.server.pause()
            cluster.delete(f"{MAPS}/c5")
            cluster.merge(f"{MAPS}/c6", {"data": {"x": "1"}})
            cluster.compact()
            served.server.resume()
            follower.until(lambda: follower.versions() == stored(cluster))
    pages = [logged.request.query for logged in cluster.requests if ("limit", "5") in logged.request.query]
    assert len(pages) >= 3


@pytest.mark.parametrize("seed", range(3))
def test_the_cache_is_right_again_after_all_kinds_of_faults(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    with simulated(tmp_path) as (cluster, client, _), following(client, page=3) as follower:
        for fault in (
            Fault.DROPPED,
            Fault.EXPIRED,
            Fault.THROTTLED,
            Fault.INTERNAL,
            Fault.UNAVAILABLE,
            Fault.STALE,
        ):
            if fault is not Fault.THROTTLED:  # which has the client wait a second each time
                cluster.add_fault(Rule(fault=fault, method="GET", probability=0.3))
        cluster.add_fault(Rule(fault=Fault.EXPIRED, method="WATCH", probability=0.3))
        cluster.add_fault(Rule(fault=Fault.WATCH_DROPPED, method="WATCH", events=2, probability=0.5))
        for step in range(60):
            name = f"c{rng.randrange(ALL)}"
            if name not in stored(cluster):
                cluster.create(MAPS, {"metadata": {"name": name}, "data": {"x": f"{step}"}})
            elif rng.random() < 0.4:
                cluster.delete(f"{MAPS}/{name}")
            else:
                cluster.merge(f"{MAPS}/{name}", {"data": {"x": f"{step}"}})
            if rng.random() < 0.1:
                cluster.compact()
        cluster.clear_faults()
        cluster.end_watches()
        follower.until(lambda: follower.versions() == stored(cluster))


def test_events_and_their_series_are_accepted(tmp_path: Path) -> None:
    with simulated(tmp_path) as (cluster, client, _):
        crashes: list[BaseException] = []
        recorder = EventRecorder(
            client,
            "gpu.example/agent",
            "agent-1",
            restraint=Restraint(series_every=0.001),
            on_crash=crashes.append,
        )
        recorder.start()
        node = Regarding(api_version="v1", kind="Node", name="node-a", uid="u")
        for _ in range(3):
            recorder.record(node, EventType.WARNING, "Stalled", "spec.x: not a number", "Converge")
        recorder.stop(10)
        assert crashes == []
        event = cluster.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"][0]
    assert (event["reason"], event["note"], event["regarding"]["name"]) == (
        "Stalled",
        "spec.x: not a number",
        "node-a",
    )
    assert event["series"]["count"] == 3


def test_a_lease_goes_from_one_to_the_other(tmp_path: Path) -> None:
    with simulated(tmp_path) as (cluster, client, _):
        leading = {name: threading.Event() for name in ("one", "two")}

        def elector(name: str) -> Elector:
            return Elector(
                client,
                namespace="default",
                name="leader",
                identity=name,
                on_change=lambda leads: leading[name].set() if leads else leading[name].clear(),
            )

        one, two = elector("one"), elector("two")
        one.start()
        assert leading["one"].wait(10)
        two.attempt()
        assert not leading["two"].is_set()
        one.stop(10)
        assert not leading["one"].is_set()
        two.attempt()
        assert leading["two"].is_set()
        lease = cluster.get("/apis/coordination.k8s.io/v1/namespaces/default/leases/leader")
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]) == ("two", 1)


def test_a_watch_from_too_far_back_is_told_so(tmp_path: Path) -> None:
    with simulated(tmp_path) as (cluster, client, _):
        client.create(MAPS, config_map("a"))
        cluster.merge(f"{MAPS}/a", {"data": {"x": "1"}})
        cluster.compact()
        with client.watch(MAPS, (("resourceVersion", "1"),), silence=10) as stream:
            line = json.loads(next(iter(stream)))
    assert (line["type"], line["object"]["code"]) == ("ERROR", 410)
