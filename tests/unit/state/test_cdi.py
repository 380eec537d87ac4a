"""CDI spec files: valid by the specification's schema, and with just the nodes a user needs."""

import json
from typing import Any

import jsonschema
import pytest

from state.cdi import CdiDevice, file_name, is_our_file, key_of, render
from state.observed import DeviceNode
from tests.contract_files import read_json

CARD = DeviceNode(path="dri/card1", major=226, minor=1)
RENDER = DeviceNode(path="dri/renderD129", major=226, minor=129)
BY_PATH = DeviceNode(path="dri/by-path/pci-0000:4d:00.1-render", major=226, minor=129)
DEVICES = (
    CdiDevice(name="alloc-jupyter-0", nodes=(RENDER, CARD, BY_PATH)),
    CdiDevice(name="jupyter", nodes=(RENDER, CARD, BY_PATH, CARD)),
)


def rendered(devfs: str) -> Any:
    return json.loads(render(DEVICES, devfs=devfs))


@pytest.mark.parametrize("devfs", ["/dev", "/host/dev"])
def test_the_file_is_valid(devfs: str) -> None:
    definitions = read_json("cdi/defs.json")
    schema = {**read_json("cdi/schema.json"), "definitions": definitions["definitions"]}
    text = json.dumps(schema).replace("defs.json#/definitions", "#/definitions")
    jsonschema.validate(rendered(devfs), json.loads(text))


def test_each_node_is_injected_once_in_a_fixed_order() -> None:
    nodes = rendered("/dev")["devices"][1]["containerEdits"]["deviceNodes"]
    assert [node["path"] for node in nodes] == [f"/dev/{node.path}" for node in (BY_PATH, CARD, RENDER)]
    assert nodes[1] == {"path": "/dev/dri/card1", "type": "c", "major": 226, "minor": 1}


def test_a_host_path_is_named_only_where_devices_live_elsewhere() -> None:
    assert rendered("/dev")["cdiVersion"] == "0.3.0"
    elsewhere = rendered("/host/dev")
    assert elsewhere["cdiVersion"] == "0.5.0"
    nodes = elsewhere["devices"][0]["containerEdits"]["deviceNodes"]
    assert {node["hostPath"] for node in nodes} == {f"/host/dev/{node.path}" for node in (CARD, RENDER, BY_PATH)}


def test_other_orders_of_nodes_give_the_same_bytes() -> None:
    turned = CdiDevice(name="a", nodes=(BY_PATH, RENDER, CARD))
    assert render([turned], devfs="/dev") == render(
        [CdiDevice(name="a", nodes=(CARD, RENDER, BY_PATH))], devfs="/dev"
    )


@pytest.mark.parametrize("key", ["claim-0b7c-11", "alloc-jupyter.lab"])
def test_our_files_are_told_by_their_names(key: str) -> None:
    assert is_our_file(file_name(key))
    assert key_of(file_name(key)) == key


@pytest.mark.parametrize(
    "name", ["intel.com-gpu.yaml", "intel.com-gpu_claim-.yaml", "intel.com-gpu_other-a.json", "x_claim-a.json"]
)
def test_files_of_others_are_not_ours(name: str) -> None:
    assert not is_our_file(name)
