"""What a 1.36.3 server accepts and refuses of ResourceSlices and ResourceClaims, asked of the simulated one."""

import json
from dataclasses import replace
from typing import Any

import pytest

from kubesim import Cluster
from tests.contract_files import copied_paths
from tests.kubesim.recorded import Exchange, Replay, differences, exchanges

FOLDER = "discovery/validation/"
STATUS_ORDER = (
    "claimstatus-device-not-allocated",
    "claimstatus-allocated-by-hand",
    "claimstatus-devices-ok",
    "claimstatus-wrong-device",
    "claimstatus-9-conditions",
    "claimstatus-condition-without-reason",
    "claimstatus-data-too-large",
    "claimstatus-deallocate",
)
NAMES = [path.removeprefix(FOLDER).removesuffix(".json") for path in copied_paths() if path.startswith(FOLDER)]
ALONE = [name for name in NAMES if not name.startswith("claimstatus")]
LEFT_OUT = "(object of 10.3 KB left out)"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/rec-err/resourceclaims"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"


@pytest.fixture(scope="module")
def replay() -> Replay:
    cluster = Cluster("1.36")
    cluster.create("/api/v1/namespaces", {"metadata": {"name": "rec-err"}})
    claim = {
        "metadata": {"name": "st"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "x"}}]}},
    }
    pool = {"name": "x", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "rec.gpu.intel.com", "pool": pool, "nodeName": "node-b", "devices": [{"name": "gpu-0"}]}
    stored = cluster.create(CLAIMS, claim), cluster.create(SLICES, {"metadata": {"name": "rec-imm"}, "spec": spec})
    replay = Replay(cluster)
    for name, now in zip(("claimstatus-allocated-by-hand", "resourceslice-immutable-fields"), stored, strict=True):
        replay.learn(recorded(name).body, now)
    return replay


def recorded(name: str) -> Exchange:
    """A recorded exchange, with the large bodies put back that the recording leaves out."""
    [exchange] = exchanges(f"{FOLDER}{name}.json")
    large = json.dumps({"text": "x" * 10_300})
    text = json.dumps(exchange.body).replace(json.dumps(LEFT_OUT), large)
    body: Any = json.loads(text)
    return replace(exchange, body=body)


@pytest.mark.parametrize("name", ALONE)
def test_the_verdict_is_the_recorded_one(replay: Replay, name: str) -> None:
    exchange = recorded(name)
    assert differences(exchange, replay.send(exchange)) == []


def test_the_status_of_a_claim_meets_the_recorded_verdicts(replay: Replay) -> None:
    """In their order: they build on each other."""
    found = {name: differences(recorded(name), replay.send(recorded(name))) for name in STATUS_ORDER}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_every_recorded_file_is_asked() -> None:
    assert set(NAMES) == {*ALONE, *STATUS_ORDER}
