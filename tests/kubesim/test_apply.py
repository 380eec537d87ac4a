"""Server-side apply: who owns which field, and what follows from it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesim import Cluster, Refusal, Request, fieldsets

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def apply(cluster: Cluster, path: str, manager: str, body: dict[str, Any], query: str = "") -> dict[str, Any]:
    url = f"{path}?fieldManager={manager}{query}"
    answer = cluster.handle(Request.to("PATCH", url, body, content_type="application/apply-patch+yaml"))
    whole: dict[str, Any] = json.loads(answer.body)
    if answer.status >= 400:
        raise Refusal(answer.status, whole["message"], details=whole.get("details"))
    return whole


def data(**values: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": values}


def test_a_field_no_longer_applied_goes(cluster: Cluster) -> None:
    apply(cluster, f"{MAPS}/a", "one", data(x="1", y="1"))
    assert apply(cluster, f"{MAPS}/a", "one", data(x="1"))["data"] == {"x": "1"}


def test_but_stays_if_somebody_else_applies_it(cluster: Cluster) -> None:
    apply(cluster, f"{MAPS}/a", "one", data(x="1", y="1"))
    apply(cluster, f"{MAPS}/a", "two", data(y="1"))
    assert apply(cluster, f"{MAPS}/a", "one", data(x="1"))["data"] == {"x": "1", "y": "1"}
    assert apply(cluster, f"{MAPS}/a", "two", data())["data"] == {"x": "1"}


def test_a_conflict_is_with_every_owner(cluster: Cluster) -> None:
    apply(cluster, f"{MAPS}/a", "one", data(x="1"))
    apply(cluster, f"{MAPS}/a", "two", data(x="1"))
    with pytest.raises(Refusal, match="Apply failed with 2 conflicts") as refused:
        apply(cluster, f"{MAPS}/a", "three", data(x="2"))
    assert 'conflicts with "one":\n- .data.x\nconflicts with "two":\n- .data.x' in refused.value.message
    apply(cluster, f"{MAPS}/a", "three", data(x="2"), "&force=true")
    owners = cluster.get(f"{MAPS}/a")["metadata"]["managedFields"]
    assert [entry["manager"] for entry in owners] == ["three"]


def test_applying_the_same_again_is_no_write(cluster: Cluster) -> None:
    first = apply(cluster, f"{MAPS}/a", "one", data(x="1"))
    assert apply(cluster, f"{MAPS}/a", "one", data(x="1")) == first


def test_a_plain_write_takes_what_it_changes(cluster: Cluster) -> None:
    apply(cluster, f"{MAPS}/a", "one", data(x="1", y="1"))
    cluster.merge(f"{MAPS}/a", {"data": {"x": "2"}})
    with pytest.raises(Refusal, match=r'conflict with "unknown" using v1: .data.x'):
        apply(cluster, f"{MAPS}/a", "one", data(x="1", y="1"))
    assert apply(cluster, f"{MAPS}/a", "one", data(y="2"))["data"] == {"x": "2", "y": "2"}


def test_items_of_keyed_lists_have_owners_of_their_own(cluster: Cluster) -> None:
    def pod(*containers: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p"},
            "spec": {"containers": list(containers)},
        }

    apply(cluster, f"{PODS}/p", "one", pod({"name": "a", "image": "i"}))
    apply(cluster, f"{PODS}/p", "two", pod({"name": "b", "image": "i"}))
    named = apply(cluster, f"{PODS}/p", "one", pod({"name": "c", "image": "i"}))["spec"]["containers"]
    assert [container["name"] for container in named] == ["b", "c"]


def test_sets_are_joined_by_value(cluster: Cluster) -> None:
    def held(*finalizers: str) -> dict[str, Any]:
        return {**data(), "metadata": {"name": "a", "finalizers": list(finalizers)}}

    apply(cluster, f"{MAPS}/a", "one", held("x.y/a", "x.y/b"))
    apply(cluster, f"{MAPS}/a", "two", held("x.y/c"))
    assert apply(cluster, f"{MAPS}/a", "one", held("x.y/b"))["metadata"]["finalizers"] == ["x.y/b", "x.y/c"]


def test_a_stale_version_in_the_configuration_conflicts(cluster: Cluster) -> None:
    version = apply(cluster, f"{MAPS}/a", "one", data(x="1"))["metadata"]["resourceVersion"]
    apply(cluster, f"{MAPS}/a", "one", data(x="2"))
    stale = {**data(x="3"), "metadata": {"name": "a", "resourceVersion": version}}
    with pytest.raises(Refusal, match="the object has been modified"):
        apply(cluster, f"{MAPS}/a", "one", stale)


def test_the_body_may_be_yaml(cluster: Cluster) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: 2026-01-01}\n"
    url = f"{MAPS}/a?fieldManager=one"
    answer = cluster.handle(Request.to("PATCH", url, body, content_type="application/apply-patch+yaml"))
    assert json.loads(answer.body)["data"] == {"x": "2026-01-01"}


def test_ownership_can_be_given_up(cluster: Cluster) -> None:
    apply(cluster, f"{MAPS}/a", "one", data(x="1"))
    assert "managedFields" in cluster.get(f"{MAPS}/a")["metadata"]
    cluster.merge(f"{MAPS}/a", {"metadata": {"managedFields": [{}]}})
    assert cluster.get(f"{MAPS}/a")["metadata"].get("managedFields", []) == []


KEYS = st.text("abc", min_size=1, max_size=3)
TREES = st.recursive(st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(KEYS, inner, max_size=3))


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_fields_survive_being_written_down(tree: dict[str, Any]) -> None:
    paths = fieldsets.applied(tree, None)
    assert fieldsets.from_json(fieldsets.to_json(paths)) == paths - {()}


@given(st.dictionaries(KEYS, TREES, max_size=4), st.dictionaries(KEYS, TREES, max_size=4))
def test_what_changed_is_what_differs(before: dict[str, Any], after: dict[str, Any]) -> None:
    written, removed = fieldsets.changed(before, after, None)
    assert not written & removed
    assert (not written and not removed) == (before == after)
