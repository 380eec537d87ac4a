"""GpuNodeStates as they are read and written."""

import json
from typing import Any

import pytest

import kubesim
from reconciler.controller.controller_metrics import DECLARED
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.node_states import NODE_STATES, NodeStates
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import Conflict, NotFound
from reconciler.runtime.metrics import NoMetrics
from state.dra.node_object import NodeObject, read_node_object
from state.dra.spec_writing import spec_write
from tests.contract_files import REPOSITORY
from tests.kube_in_memory import InMemory
from tests.unit.state.dra.objects import NODE, raw_node

CRD = REPOSITORY / "deploy/crd/gpunodestates.gpu.dra.intel.com.yaml"
PATH = f"{NODE_STATES}/{NODE}"


def seen(raw: Any) -> NodeObject:
    return read_node_object(json.dumps(raw).encode())


def test_after_a_conflict_what_others_wrote_is_known_before_any_watch_tells() -> None:
    cluster, knowledge = kubesim.Cluster("1.36"), Knowledge(lambda: 0.0)
    cluster.load(CRD.read_text())
    first = seen(cluster.create(NODE_STATES, {**raw_node(spec={}), "metadata": {"name": NODE}}))
    knowledge.take_node(NODE, first)
    client = KubeClient(InMemory(cluster), retries=NO_RETRIES)
    states = NodeStates(client, knowledge, NoMetrics(DECLARED), inventory=lambda: False)
    cluster.merge(PATH, {"spec": {"paused": True}})
    with pytest.raises(Conflict):
        states.write(NODE, spec_write(first, {}, {}, ("adopt",)))
    newest = knowledge.node(NODE)
    assert newest == seen(cluster.get(PATH)) != first
    states.write(NODE, spec_write(newest, {}, {}, ("adopt",)))
    written = knowledge.node(NODE)
    assert written is not None
    assert written.adopted
    cluster.delete(PATH)
    with pytest.raises(NotFound):
        states.reread(NODE)
    assert knowledge.node(NODE) == written
