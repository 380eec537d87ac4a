"""Writing and deleting objects: versions, generations, finalizers, owners, names, dry runs."""

import pytest

from kubesim import Cluster, Refusal, Request

MAPS = "/api/v1/namespaces/default/configmaps"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def config(name: str, **more: object) -> dict[str, object]:
    return {"metadata": {"name": name, **more}}


def slice_of(node: str, count: int = 1) -> dict[str, object]:
    pool = {"name": node, "generation": 1, "resourceSliceCount": count}
    return {"metadata": {"name": node}, "spec": {"driver": "a.b", "nodeName": node, "pool": pool}}


def exists(cluster: Cluster, path: str) -> bool:
    status = cluster.handle(Request.to("GET", path)).status
    assert status in (200, 404)
    return status == 200


def test_a_write_that_changes_nothing_is_no_write(cluster: Cluster) -> None:
    made = cluster.create(MAPS, {**config("a"), "data": {"x": "1"}})
    assert cluster.replace(f"{MAPS}/a", made) == made
    assert cluster.merge(f"{MAPS}/a", {"data": {"x": "1"}}) == made
    changed = cluster.merge(f"{MAPS}/a", {"data": {"x": "2"}})
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


def test_generation_counts_changes_of_the_spec(cluster: Cluster) -> None:
    assert cluster.create(SLICES, slice_of("n"))["metadata"]["generation"] == 1
    assert cluster.merge(f"{SLICES}/n", {"metadata": {"labels": {"a": "b"}}})["metadata"]["generation"] == 1
    assert cluster.merge(f"{SLICES}/n", {"spec": {"pool": {"generation": 2}}})["metadata"]["generation"] == 2
    assert "generation" not in cluster.create(MAPS, config("a"))["metadata"]


def test_names_are_generated_and_checked(cluster: Cluster) -> None:
    made = cluster.create(MAPS, {"metadata": {"generateName": "event-"}})
    assert made["metadata"]["name"].startswith("event-")
    assert len(made["metadata"]["name"]) == len("event-") + 5
    for body, said in (
        ({"metadata": {}}, "name or generateName is required"),
        (config("A_b"), "RFC 1123 subdomain"),
    ):
        with pytest.raises(Refusal, match=said) as refused:
            cluster.create(MAPS, body)
        assert refused.value.code == 422


def test_seeds_decide_on_uids_and_names() -> None:
    def made(seed: int) -> tuple[str, str]:
        metadata = Cluster(seed=seed).create(MAPS, {"metadata": {"generateName": "x-"}})["metadata"]
        return metadata["name"], metadata["uid"]

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_a_namespace_must_exist(cluster: Cluster) -> None:
    with pytest.raises(Refusal, match='namespaces "nowhere" not found'):
        cluster.create("/api/v1/namespaces/nowhere/configmaps", config("a"))


def test_a_uid_of_another_life_conflicts(cluster: Cluster) -> None:
    old = cluster.create(MAPS, config("a"))
    cluster.delete(f"{MAPS}/a")
    cluster.create(MAPS, config("a"))
    del old["metadata"]["resourceVersion"]
    with pytest.raises(Refusal, match="Precondition failed: UID") as refused:
        cluster.replace(f"{MAPS}/a", old | {"data": {"x": "1"}})
    assert refused.value.code == 409


def test_dry_runs_store_nothing(cluster: Cluster) -> None:
    answer = cluster.handle(Request.to("POST", f"{MAPS}?dryRun=All", config("a")))
    assert answer.status == 201
    assert not exists(cluster, f"{MAPS}/a")
    cluster.create(MAPS, config("a"))
    cluster.handle(Request.to("DELETE", f"{MAPS}/a?dryRun=All"))
    assert exists(cluster, f"{MAPS}/a")


def test_finalizers_hold_an_object(cluster: Cluster) -> None:
    cluster.create(MAPS, config("a", finalizers=["x.y/z"]))
    assert "deletionTimestamp" in cluster.delete(f"{MAPS}/a")["metadata"]
    with pytest.raises(Refusal, match="no new finalizers can be added"):
        cluster.merge(f"{MAPS}/a", {"metadata": {"finalizers": ["x.y/z", "x.y/more"]}})
    cluster.merge(f"{MAPS}/a", {"metadata": {"finalizers": None}})
    assert not exists(cluster, f"{MAPS}/a")


def owned(name: str, *owners: dict[str, object], block: bool = False) -> dict[str, object]:
    references = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],  # type: ignore[index]
            "uid": owner["metadata"]["uid"],  # type: ignore[index]
            **({"blockOwnerDeletion": True} if block else {}),
        }
        for owner in owners
    ]
    return config(name, ownerReferences=references)


def test_dependents_go_with_their_last_owner(cluster: Cluster) -> None:
    first, second = cluster.create(MAPS, config("one")), cluster.create(MAPS, config("two"))
    cluster.create(MAPS, owned("child", first, second))
    cluster.delete(f"{MAPS}/one")
    [left] = cluster.get(f"{MAPS}/child")["metadata"]["ownerReferences"]
    assert left["name"] == "two"
    cluster.delete(f"{MAPS}/two")
    assert not exists(cluster, f"{MAPS}/child")


def test_orphans_stay(cluster: Cluster) -> None:
    cluster.create(MAPS, owned("child", cluster.create(MAPS, config("owner"))))
    cluster.delete(f"{MAPS}/owner?propagationPolicy=Orphan")
    assert not exists(cluster, f"{MAPS}/owner")
    assert "ownerReferences" not in cluster.get(f"{MAPS}/child")["metadata"]


def test_in_the_foreground_an_owner_waits_for_dependents_that_block_it(cluster: Cluster) -> None:
    child = owned("child", cluster.create(MAPS, config("owner")), block=True)
    child["metadata"]["finalizers"] = ["x.y/z"]  # type: ignore[index]
    cluster.create(MAPS, child)
    cluster.delete(f"{MAPS}/owner?propagationPolicy=Foreground")
    assert exists(cluster, f"{MAPS}/owner")
    cluster.merge(f"{MAPS}/child", {"metadata": {"finalizers": None}})
    assert not exists(cluster, f"{MAPS}/owner")


def test_a_namespace_takes_everything_with_it(cluster: Cluster) -> None:
    cluster.create("/api/v1/namespaces", config("gone"))
    inside = "/api/v1/namespaces/gone/configmaps"
    cluster.create(inside, config("a"))
    cluster.create(inside, config("held", finalizers=["x.y/z"]))
    assert cluster.delete("/api/v1/namespaces/gone")["status"]["phase"] == "Terminating"
    with pytest.raises(Refusal, match="because it is being terminated"):
        cluster.create(inside, config("late"))
    assert not exists(cluster, f"{inside}/a")
    cluster.merge(f"{inside}/held", {"metadata": {"finalizers": None}})
    assert not exists(cluster, "/api/v1/namespaces/gone")


def test_a_namespace_with_a_finalizer_waits_too(cluster: Cluster) -> None:
    cluster.create("/api/v1/namespaces", config("held", finalizers=["x.y/z"]))
    cluster.delete("/api/v1/namespaces/held")
    assert exists(cluster, "/api/v1/namespaces/held")
    cluster.merge("/api/v1/namespaces/held", {"metadata": {"finalizers": None}})
    assert not exists(cluster, "/api/v1/namespaces/held")


def test_a_running_pod_is_given_time(cluster: Cluster) -> None:
    cluster.create(PODS, {**config("p"), "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}})
    assert cluster.delete(f"{PODS}/p")["metadata"]["deletionGracePeriodSeconds"] == 30
    running = cluster.merge(f"{PODS}/p/status", {"status": {"phase": "Running"}})
    assert cluster.get(f"{PODS}/p") == running
    cluster.delete(f"{PODS}/p?gracePeriodSeconds=0")
    assert not exists(cluster, f"{PODS}/p")


def test_status_and_the_rest_are_written_apart(cluster: Cluster) -> None:
    claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
    request = {"name": "r", "exactly": {"deviceClassName": "c"}}
    cluster.create(claims, {**config("c"), "spec": {"devices": {"requests": [request]}}})
    allocation = {"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "x"}]}}
    cluster.merge(f"{claims}/c", {"status": {"allocation": allocation}})
    assert cluster.get(f"{claims}/c")["status"] == {}
    written = cluster.merge(f"{claims}/c/status", {"status": {"allocation": allocation}, "spec": None})
    assert written["status"] == {"allocation": allocation}
    assert written["spec"]["devices"]["requests"][0]["name"] == "r"


def test_a_collection_is_deleted_by_selector(cluster: Cluster) -> None:
    cluster.create(MAPS, config("a", labels={"x": "1"}))
    cluster.create(MAPS, config("b"))
    cluster.handle(Request.to("DELETE", f"{MAPS}?labelSelector=x%3D1"))
    assert [each["metadata"]["name"] for each in cluster.get(MAPS)["items"]] == ["b"]


def test_a_strategic_patch_merges_lists_by_key(cluster: Cluster) -> None:
    containers = [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]
    cluster.create(PODS, {**config("p"), "spec": {"containers": containers}})
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "b", "image": "2"}],
        }
    }
    answer = cluster.handle(
        Request.to("PATCH", f"{PODS}/p", patch, content_type="application/strategic-merge-patch+json")
    )
    assert answer.status == 200
    present = cluster.get(f"{PODS}/p")["spec"]["containers"]
    assert [(each["name"], each["image"]) for each in present] == [("b", "2"), ("a", "1")]


def test_events_are_one_store_with_two_faces(cluster: Cluster) -> None:
    event = {"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": "hello", "reason": "R"}
    cluster.create("/apis/events.k8s.io/v1/namespaces/default/events", event)
    seen = cluster.get("/api/v1/namespaces/default/events/e")
    assert (seen["message"], seen["involvedObject"]["name"]) == ("hello", "p")
    selected = cluster.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp")
    assert len(selected["items"]) == 1


def test_taints_are_given_the_time(cluster: Cluster) -> None:
    body = slice_of("n")
    body["spec"]["devices"] = [{"name": "gpu", "taints": [{"key": "a", "effect": "NoSchedule"}]}]  # type: ignore[index]
    [device] = cluster.create(SLICES, body)["spec"]["devices"]
    assert device["taints"][0]["timeAdded"].endswith("Z")
