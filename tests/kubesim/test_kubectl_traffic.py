"""What kubectl asked of real servers (1.36.3 and 1.26.5), asked again in its order; the answers are compared."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from kubesim import Cluster, ManualClock, Request
from tests.contract_files import copied_paths, read_json
from tests.kubesim.recorded import Exchange, Replay, differences, exchanges, normal, unequal

FOLDER = "discovery/kubectl/"
SERVERS = {"k1.36.3": "1.36", "k1.26.5": "1.26"}
ORDER = (
    "version", "api-resources", "apply-crd", "wait-crd", "apply-create", "apply-unchanged", "apply-invalid",
    "apply-update", "diff", "get-table", "get-wide", "get-shortname", "get-yaml", "get-notfound", "describe",
    "patch-status", "wait-condition", "patch-merge", "patch-json", "label", "annotate", "apply-server-side",
    "apply-server-side-force", "explain", "get-selector", "get-watch", "configmap-apply-create",
    "configmap-apply-update", "configmap-server-side", "claim-apply", "claim-get", "claim-describe",
    "slices-get", "classes-get", "events", "auth-can-i", "dry-run-server", "replace", "delete", "delete-claim",
    "delete-all", "delete-crd",
)  # fmt: skip
ELSEWHERE = re.compile(r"^/(openapi|api|apis)(/[^/]+){0,2}(\?|$)")
"""Discovery and documents: the simulated server serves fewer groups. See test_discovery."""
PROTOBUF = "application/vnd.kubernetes.protobuf"
GONE_AT_ONCE = "a definition and its objects are gone when the answer comes; a real server takes a moment"
DIFFERENT = {("delete-crd", "GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions"): GONE_AT_ONCE}
"""Answers after which kubectl does the same all the same, by command and the beginning of the request, and why."""
AGE = re.compile(r"\d+[smh](\d+[sm])?")


def files(server: str) -> list[str]:
    names = [path.removeprefix(f"{FOLDER}{server}-").removesuffix(".json") for path in copied_paths()]
    return [name for name in ORDER if name in names]


def cluster_of(server: str) -> Cluster:
    """A cluster with what was there before kubectl came."""
    cluster = Cluster(SERVERS[server], clock=ManualClock())
    cluster.create("/api/v1/namespaces", {"metadata": {"name": "rec-kubectl"}})
    if server == "k1.36.3":
        row = exchanges(f"{FOLDER}k1.36.3-slices-get.json")[0].answer["rows"][0]
        pool = {"name": "node-b", "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": "rec.gpu.intel.com", "nodeName": "node-b", "pool": pool, "devices": []}
        body = {"metadata": row["object"]["metadata"] | {"resourceVersion": ""}, "spec": spec}
        cluster.create("/apis/resource.k8s.io/v1/resourceslices", body)
    else:
        body = {"metadata": {"name": "rec"}, "driverName": "rec.gpu.intel.com"}
        cluster.create("/apis/resource.k8s.io/v1alpha1/resourceclasses", body)
    return cluster


def ageless(value: Any) -> Any:
    """A table without ages."""
    if isinstance(value, dict):
        return {key: _cells(each) if key == "cells" else ageless(each) for key, each in value.items()}
    return [ageless(each) for each in value] if isinstance(value, list) else value


def _cells(cells: list[Any]) -> list[Any]:
    return ["AGE" if isinstance(cell, str) and AGE.fullmatch(cell) else cell for cell in cells]


def asked_again(replay: Replay, exchange: Exchange) -> list[str]:
    """The differences of one answer."""
    if "watch=true" in exchange.path:
        return watched_again(replay, exchange)
    response = replay.send(exchange)
    if exchange.answer_headers.get("content-type") == PROTOBUF:  # the simulated server answers in JSON
        return [] if response.status == exchange.status else [f"status {response.status}"]
    plain = replace(exchange, answer=ageless(exchange.answer))
    now = replace(response, body=json.dumps(ageless(json.loads(response.body))).encode())
    return differences(plain, now)


def watched_again(replay: Replay, exchange: Exchange) -> list[str]:
    """The events that are there at once, which is what kubectl waited for."""
    request: Request = replay.request(exchange)
    watch = replay.cluster.watch(request)
    lines, _ = watch.poll()
    watch.close()
    now = [json.loads(line) for line in lines]
    recorded = [event for event in exchange.stream if event.get("type") != "BOOKMARK"]
    now = [event for event in now if event["type"] != "BOOKMARK"]
    return unequal(normal(ageless(recorded)), normal(ageless(now)))


@pytest.mark.parametrize("server", SERVERS)
def test_kubectl_would_not_notice(server: str) -> None:
    replay = Replay(cluster_of(server))
    found: dict[str, list[str]] = {}
    for name in files(server):
        for exchange in exchanges(f"{FOLDER}{server}-{name}.json"):
            if exchange.path.startswith("/openapi") or ELSEWHERE.match(exchange.path):
                continue
            lines = asked_again(replay, exchange)
            known = any(name == file and exchange.name.startswith(start) for file, start in DIFFERENT)
            if lines and not known:
                found[f"{name}: {exchange.name}"] = lines
    assert found == {}


def test_the_recordings_are_all_asked() -> None:
    for server in SERVERS:
        there = [path for path in copied_paths() if path.startswith(f"{FOLDER}{server}-")]
        assert len(files(server)) == len(there) == 41
        assert all(read_json(path)["exchanges"] for path in there)
