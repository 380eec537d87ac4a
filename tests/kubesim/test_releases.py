"""What the releases serve: discovery, documents, and one object in several versions."""

import json
from typing import Any

import pytest

from kubesim import Cluster, Request
from kubesim.releases import RELEASES
from tests.contract_files import ORIGINALS, copied_paths
from tests.kubesim.recorded import Replay, exchanges, normal, unequal

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
SERVERS = {"k1.36.3": "1.36", "k1.26.5": "1.26"}
SAME = ("api-plain", "healthz", "livez", "readyz", "version", "apis-resource.k8s.io")
"""The answers that are the recorded ones whole; others are the part that is simulated."""
NEWER_HASH = "storageVersionHash"


def answer(cluster: Cluster, path: str, accept: str = "application/json") -> Any:
    got = cluster.handle(Request.to("GET", path, accept=accept))
    assert got.status == 200, got
    return json.loads(got.body)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", SAME)
def test_small_answers_are_the_recorded_ones(server: str, name: str) -> None:
    [recorded] = exchanges(f"discovery/{server}/{name}.json")
    response = Replay(Cluster(SERVERS[server])).send(recorded)
    assert response.status == recorded.status
    body = response.body.decode()
    now = body if isinstance(recorded.answer, str) else json.loads(body)
    skipped = {"gitCommit", "goVersion"}
    assert unequal(_without(normal(recorded.answer), skipped), _without(normal(now), skipped)) == []


def _without(value: Any, keys: set[str]) -> Any:
    return {key: each for key, each in value.items() if key not in keys} if isinstance(value, dict) else value


@pytest.mark.parametrize("path", [path for path in copied_paths() if "/apis-" in path or "/api-v1" in path])
def test_every_resource_listed_is_listed_as_recorded(path: str) -> None:
    """In plain lists: what is simulated is a part of what there was, each entry the same."""
    [recorded] = exchanges(path)
    if not isinstance(recorded.answer, dict) or "resources" not in recorded.answer:
        return
    server = path.split("/")[1]
    now = answer(Cluster(SERVERS[server]), recorded.path)
    there = {each["name"]: _without(each, {NEWER_HASH}) for each in recorded.answer["resources"]}
    assert now["resources"]
    for each in now["resources"]:
        assert _without(each, {NEWER_HASH}) == there[each["name"]]
    assert now["groupVersion"] == recorded.answer["groupVersion"]


def test_aggregated_discovery_is_a_part_of_the_recorded_one() -> None:
    cluster = Cluster("1.36")
    for name, path in (("api-aggregated", "/api"), ("apis-aggregated", "/apis")):
        [recorded] = exchanges(f"discovery/k1.36.3/{name}.json")
        there = {
            (item["metadata"].get("name"), version["version"], resource["resource"]): resource
            for item in recorded.answer["items"]
            for version in item["versions"]
            for resource in version["resources"]
        }
        for item in answer(cluster, path, AGGREGATED)["items"]:
            for version in item["versions"]:
                for resource in version["resources"]:
                    was = there[item["metadata"].get("name"), version["version"], resource["resource"]]
                    assert _without(resource, {"subresources"}) == _without(was, {"subresources"})
                    assert all(part in was["subresources"] for part in resource.get("subresources", ()))


def test_aggregated_discovery_came_with_1_27() -> None:
    assert answer(Cluster("1.26"), "/apis", AGGREGATED)["kind"] == "APIGroupList"
    assert answer(Cluster("1.27"), "/apis", AGGREGATED)["kind"] == "APIGroupDiscoveryList"


def test_an_unchanged_answer_is_not_sent_twice() -> None:
    cluster = Cluster()
    for path, accept in (
        ("/apis", AGGREGATED),
        ("/openapi/v3", "application/json"),
        ("/openapi/v3/api/v1", "*/*"),
    ):
        first = cluster.handle(Request.to("GET", path, accept=accept))
        again = Request.to("GET", path, accept=accept, headers={"If-None-Match": first.header("Etag") or ""})
        assert (cluster.handle(again).status, cluster.handle(again).body) == (304, b"")


@pytest.mark.parametrize("name", RELEASES)
def test_every_release_has_documents_for_what_it_serves(name: str) -> None:
    cluster = Cluster(name)
    for path, entry in answer(cluster, "/openapi/v3")["paths"].items():
        whole = answer(cluster, entry["serverRelativeURL"].partition("?")[0])
        assert any(path in each for each in whole["paths"]), path
    with cluster.unobserved() as state:
        for resource in state.served():
            for version in resource.versions:
                assert resource.schemas.get(version) is not None, (resource.plural, version)


@pytest.mark.parametrize("name", RELEASES)
def test_a_claim_is_the_same_in_every_version(name: str) -> None:
    cluster = Cluster(name)
    with cluster.unobserved() as state:
        versions = state.resources["resource.k8s.io", "resourceclaims"].versions
    request: dict[str, Any] = {"name": "r", "deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}
    for version in versions:
        nested = {"name": "r", "exactly": {key: each for key, each in request.items() if key != "name"}}
        spec: dict[str, Any] = {"devices": {"requests": [nested if version in ("v1", "v1beta2") else request]}}
        if int(name.split(".")[1]) <= 30:
            spec = {"resourceClassName": "c", "allocationMode": "WaitForFirstConsumer"}
        path = f"/apis/resource.k8s.io/{version}/namespaces/default/resourceclaims"
        made = cluster.create(path, {"metadata": {"name": f"made-{version}"}, "spec": spec})
        assert made["spec"] == spec
        for other in versions:
            shown = cluster.get(path.replace(version, other) + f"/made-{version}")
            assert cluster.replace(path.replace(version, other) + f"/made-{version}", shown) == shown
        assert cluster.get(f"{path}/made-{version}") == made


def test_slices_are_flat_since_v1beta2() -> None:
    cluster = Cluster("1.34")
    device = {"name": "gpu", "attributes": {"model": {"string": "x"}}, "capacity": {"memory": {"value": "8Gi"}}}
    spec = {"driver": "a.b", "nodeName": "n", "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1}}
    path = "/apis/resource.k8s.io/{}/resourceslices"
    cluster.create(path.format("v1"), {"metadata": {"name": "s"}, "spec": {**spec, "devices": [device]}})
    [old] = cluster.get(path.format("v1beta1") + "/s")["spec"]["devices"]
    assert old == {"name": "gpu", "basic": {key: each for key, each in device.items() if key != "name"}}


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="no ../shared/contracts beside the repository")
def test_the_package_s_documents_are_the_recorded_ones() -> None:
    import gzip

    from kubesim import documents

    for name in documents.available():
        places = [ORIGINALS / "openapi" / f"{name}{end}" for end in (".json", ".json.gz", ".schemas.json")]
        [original] = [place for place in places if place.exists()]
        text = original.read_bytes()
        text = gzip.decompress(text) if original.suffix == ".gz" else text
        assert documents.document(name) == json.loads(text), name
