"""Every state in which real servers had an object during the recorded scenarios is accepted and kept."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from kubesim import Cluster
from tests.contract_files import copied_paths, read_text
from tests.kubesim.recorded import normal, unequal

RELEASES = {"new": "1.36", "old": "1.26"}
SCENARIOS = [path for path in copied_paths() if path.startswith("recordings/") and ".grpc." not in path]
GROUPS = ("resource.k8s.io", "events.k8s.io", "")
ELSEWHERE = ("Namespace", "Node", "Pod")
"""Core kinds whose states the server itself, or a kubelet, makes."""


def states(path: str) -> Iterator[dict[str, Any]]:
    """The distinct objects in a recording."""
    seen = set()
    for line in read_text(path).splitlines():
        event = json.loads(line)
        found = event.get("items") or [event.get("object")]
        for each in found if event.get("source") in ("watch", "list") else ():
            if not isinstance(each, dict) or not each.get("metadata", {}).get("name"):
                continue
            identity = json.dumps({key: value for key, value in each.items() if key != "metadata"}, sort_keys=True)
            if identity not in seen and _is_looked_at(each):
                seen.add(identity)
                yield each


def _is_looked_at(found: dict[str, Any]) -> bool:
    return found["apiVersion"].rpartition("/")[0] in GROUPS and found["kind"] not in ELSEWHERE


def stored(release: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """What a cluster makes of an object, its status included."""
    cluster = Cluster(release)
    kept = ("name", "namespace", "labels", "annotations")
    meta = {key: value for key, value in wanted["metadata"].items() if key in kept}
    namespace = meta.get("namespace", "default")
    labels = {"resource.kubernetes.io/admin-access": "true"}
    names = [each["metadata"]["name"] for each in cluster.get("/api/v1/namespaces")["items"]]
    if namespace not in names:
        cluster.create("/api/v1/namespaces", {"metadata": {"name": namespace, "labels": labels}})
    [made] = cluster.load(json.dumps({**wanted, "metadata": meta}))
    group, _, version = wanted["apiVersion"].rpartition("/")
    with cluster.unobserved() as state:
        [resource] = [each for each in state.served() if (each.kind, each.group) == (wanted["kind"], group)]
    if "status" not in wanted or not resource.has_status:
        return made
    inside = f"namespaces/{namespace}/" if resource.namespaced else ""
    path = f"/{resource.base_path(version)}/{inside}{resource.plural}/{meta['name']}/status"
    return cluster.replace(path, {**made, "status": wanted["status"]})


@pytest.mark.parametrize("path", SCENARIOS)
def test_every_state_is_accepted_and_kept(path: str) -> None:
    release = RELEASES[path.split("/")[1]]
    problems = []
    for wanted in states(path):
        now = stored(release, wanted)
        parts = (wanted.keys() | now.keys()) - {"metadata"}
        problems += unequal(
            {part: normal(wanted.get(part)) for part in sorted(parts)},
            {part: normal(now.get(part)) for part in sorted(parts)},
            f"{wanted['kind']} {wanted['metadata']['name']}",
        )
    assert problems == []


def test_all_scenarios_are_there() -> None:
    assert {path.split("/")[1] for path in SCENARIOS} == set(RELEASES)
    assert sum(1 for path in SCENARIOS for _ in states(path)) > 500
