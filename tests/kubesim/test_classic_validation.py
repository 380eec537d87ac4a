"""The limits of classic kinds, as tried on a 1.26.5 server, and those of the versions that followed."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from kubesim import Cluster, Refusal, Request

Object = dict[str, Any]
V1ALPHA1 = "/apis/resource.k8s.io/v1alpha1/namespaces/default"
V1ALPHA2 = "/apis/resource.k8s.io/v1alpha2/namespaces/default"
USER = {"resource": "pods", "name": "p", "uid": "u"}
ALLOCATED: Object = {"driverName": "d.example.com", "allocation": {"resourceHandle": "h", "shareable": True}}


def users(count: int) -> list[Object]:
    return [{**USER, "uid": f"u{number}"} for number in range(count)]


def claim(cluster: Cluster, status: Object | None = None) -> str:
    """A claim with a status; its path."""
    spec = {"resourceClassName": "c"}
    cluster.create(f"{V1ALPHA1}/resourceclaims", {"metadata": {"name": "c"}, "spec": spec})
    path = f"{V1ALPHA1}/resourceclaims/c"
    if status is not None:
        cluster.merge(f"{path}/status", {"status": status})
    return path


@pytest.mark.parametrize(
    ("before", "patch", "field"),
    [
        (None, {"allocation": {"resourceHandle": "h"}}, "status.driverName"),
        (None, {"reservedFor": [USER]}, "status.reservedFor"),
        (None, {"deallocationRequested": True}, "status.deallocationRequested"),
        (None, {**ALLOCATED, "allocation": {"resourceHandle": "x" * 16385}}, "status.allocation.resourceHandle"),
        (None, {**ALLOCATED, "reservedFor": users(33)}, "status.reservedFor"),
        (None, {**ALLOCATED, "allocation": {}, "reservedFor": users(2)}, "status.reservedFor"),
        ({**ALLOCATED, "reservedFor": [USER]}, {"allocation": None, "driverName": None}, "status.reservedFor"),
        ({**ALLOCATED, "reservedFor": [USER]}, {"deallocationRequested": True}, "status.deallocationRequested"),
        (
            {**ALLOCATED, "deallocationRequested": True},
            {"deallocationRequested": None},
            "status.deallocationRequested",
        ),
    ],
)
def test_statuses_that_are_refused(before: Object | None, patch: Object, field: str) -> None:
    cluster = Cluster("1.26")
    path = claim(cluster, before)
    with pytest.raises(Refusal) as refused:
        cluster.merge(f"{path}/status", {"status": patch})
    assert refused.value.code == 422
    assert field in str(refused.value)


def test_statuses_that_are_accepted() -> None:
    cluster = Cluster("1.26")
    path = claim(cluster, {**ALLOCATED, "reservedFor": users(32)})
    steps: list[Object] = [
        {"allocation": {"resourceHandle": "x" * 16384}},  # also while it is in use
        {"reservedFor": None},
        {"deallocationRequested": True},
        {"deallocationRequested": None, "allocation": None, "driverName": None},
    ]
    for step in steps:
        cluster.merge(f"{path}/status", {"status": step})
    assert cluster.get(path)["status"] == {}


def test_a_claim_on_its_way_out_gets_no_consumer_but_may_lose_some() -> None:
    cluster = Cluster("1.26")
    path = claim(cluster, {**ALLOCATED, "reservedFor": users(2)})
    cluster.merge(path, {"metadata": {"finalizers": ["example.com/kept"]}})
    cluster.delete(path)
    with pytest.raises(Refusal, match="new entries may not be added"):
        cluster.merge(f"{path}/status", {"status": {"reservedFor": users(3)}})
    cluster.merge(f"{path}/status", {"status": {"reservedFor": users(1)}})


def refuses(write: Callable[[], object], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        write()


@pytest.mark.parametrize(
    ("release", "plural"),
    [("1.26", "podschedulings"), ("1.27", "podschedulingcontexts"), ("1.30", "podschedulingcontexts")],
)
def test_not_more_nodes_than_128(release: str, plural: str) -> None:
    cluster = Cluster(release)
    base = f"{V1ALPHA1 if release == '1.26' else V1ALPHA2}/{plural}"
    names = [f"n{number}" for number in range(129)]
    refuses(
        lambda: cluster.create(base, {"metadata": {"name": "p"}, "spec": {"potentialNodes": names}}), "Too many"
    )
    cluster.create(base, {"metadata": {"name": "p"}, "spec": {"potentialNodes": names[:128]}})
    said = {"status": {"resourceClaims": [{"name": "gpu", "unsuitableNodes": names}]}}
    refuses(lambda: cluster.merge(f"{base}/p/status", said), "Too many")
    said["status"]["resourceClaims"][0]["unsuitableNodes"] = names[:128]
    assert cluster.merge(f"{base}/p/status", said)["status"] == said["status"]
    ignored = cluster.merge(f"{base}/p", {"status": {"resourceClaims": None}})
    assert ignored["status"] == said["status"]


def test_not_more_handles_than_32() -> None:
    cluster = Cluster("1.27")
    path = f"{V1ALPHA2}/resourceclaims"
    cluster.create(path, {"metadata": {"name": "c"}, "spec": {"resourceClassName": "c"}})
    handles = [{"driverName": "d", "data": "x"} for _ in range(33)]
    status = {"driverName": "d", "allocation": {"resourceHandles": handles}}
    refuses(lambda: cluster.merge(f"{path}/c/status", {"status": status}), "resourceHandles: Too many")
    status["allocation"] = {"resourceHandles": [{"driverName": "d", "data": "x" * 16385}]}
    refuses(lambda: cluster.merge(f"{path}/c/status", {"status": status}), "Too long")


def test_specs_are_immutable() -> None:
    cluster = Cluster("1.26")
    path = claim(cluster)
    refuses(lambda: cluster.merge(path, {"spec": {"resourceClassName": "other"}}), "field is immutable")


@pytest.mark.parametrize(
    ("release", "classic", "served"), [("1.30", False, True), ("1.31", False, False), ("1.31", True, True)]
)
def test_1_31_is_classic_only_if_asked(release: str, classic: bool, served: bool) -> None:
    cluster = Cluster(release, classic=classic)
    assert cluster.release.classic is served
    version = "v1alpha2" if release == "1.30" else "v1alpha3"
    answer = json.loads(cluster.handle(Request.to("GET", f"/apis/resource.k8s.io/{version}")).body)
    names = {each["name"] for each in answer["resources"]}
    assert names >= {"resourceclaims", "resourceclaims/status"}
    assert ({"podschedulingcontexts", "podschedulingcontexts/status"} <= names) is served


def test_later_releases_have_no_classic_mode() -> None:
    with pytest.raises(ValueError, match=r"1\.32.*no classic mode"):
        Cluster("1.32", classic=True)
