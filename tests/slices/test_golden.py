"""Golden slices: each kind of machine, in each layout, for each generation of servers.

``UPDATE_GOLDEN=1 pytest tests/slices/test_golden.py`` writes them anew; read what changed before it is kept.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from msgspec.structs import replace

import kubesim
from kubesim import documents
from state.manifest import Layout, Override, OverrideMode, Policy, Spec, VirtualFunctions
from state.slices.wire import encode_slice
from state.status import NodeStatus
from tests.slices.cases import SERVERS, slices_of, view
from tests.slices.machines import status_of

HERE = Path(__file__).parent / "golden"

CASES = [
    *((machine, "auto", "1.37") for machine in (
        "flex170", "flex170-ecc", "flex140", "max1550", "b50", "arc-b580", "igpu", "foreign-vfs", "survivability",
        "unbound", "no-gpus",
    )),
    ("flex140", "dynamic", "1.34-gates"),
    ("flex170", "fixed", "1.36"),
    ("flex170", "pinned", "1.36"),
    ("max1550", "auto", "1.36"),
    ("flex140", "auto", "1.35"),
    ("flex140", "auto", "1.33"),
    ("igpu", "auto", "1.32"),
    ("flex170", "fixed", "1.32"),
    ("flex140", "auto", "1.31"),
]  # fmt: skip
RELEASES = {"1.37": "1.36", "1.34-gates": "1.34"}
"""The newest releases that are simulated: the API of 1.37 is that of 1.36."""


def made(machine: str, layout: str, server: str) -> list[dict[str, Any]]:
    status, spec = status_of(machine), Spec()
    if layout in ("dynamic", "pinned"):
        spec = Spec(policy=Policy(layout=Layout(layout.capitalize())))
    if layout == "fixed":
        status, spec = _fixed(status)
    can = SERVERS[server]
    return [encode_slice(each, can.row) for each in slices_of(view(status, can, spec))]


def _fixed(status: NodeStatus) -> tuple[NodeStatus, Spec]:
    (gpu,) = status.devices
    override = Override(device=gpu.name, mode=OverrideMode.FIXED, virtual_functions=VirtualFunctions(profile="m4"))
    fixed = replace(status, devices=(replace(gpu, override="Fixed"),), withdrawn={gpu.name: "t"})
    return fixed, Spec(overrides=(override,))


@pytest.mark.parametrize(("machine", "layout", "server"), CASES)
def test_slices(machine: str, layout: str, server: str) -> None:
    slices = made(machine, layout, server)
    file = HERE / f"{machine}-{layout}-{server}.yaml"
    text = yaml.safe_dump_all(slices, sort_keys=False, default_flow_style=None, width=115)
    if "UPDATE_GOLDEN" in os.environ:
        file.write_text(text)
    assert file.read_text() == text


@pytest.mark.parametrize(("machine", "layout", "server"), CASES)
def test_servers_accept_them_and_keep_every_field(machine: str, layout: str, server: str) -> None:
    cluster = kubesim.Cluster(RELEASES.get(server, server))
    for slice in made(machine, layout, server):
        jsonschema.Draft202012Validator(schema(slice["apiVersion"], RELEASES.get(server, server))).validate(slice)
        version = slice["apiVersion"].rpartition("/")[2]
        cluster.create(f"/apis/resource.k8s.io/{version}/resourceslices", slice)
        kept = cluster.get(f"/apis/resource.k8s.io/{version}/resourceslices/{slice['metadata']['name']}")
        assert missing(slice["spec"], kept["spec"]) == []


@cache
def schema(api_version: str, release: str) -> dict[str, Any]:
    """The OpenAPI schema of a slice, with everything it refers to."""
    version = api_version.rpartition("/")[2]
    file = next(
        each
        for each in documents.available()
        if each.startswith(f"k{release}.") and each.endswith(f"-resource.k8s.io-{version}")
    )
    components = documents.document(file)["components"]
    return {"$ref": f"#/components/schemas/io.k8s.api.resource.{version}.ResourceSlice", "components": components}


def missing(sent: Any, kept: Any, path: str = "spec") -> list[str]:
    """Fields that did not come back; quantities may look another way."""
    if isinstance(sent, dict):
        if not isinstance(kept, dict):
            return [path]
        return [each for name in sent for each in missing(sent[name], kept.get(name), f"{path}.{name}")]
    if isinstance(sent, list):
        if not isinstance(kept, list) or len(kept) != len(sent):
            return [path]
        return [each for at, item in enumerate(sent) for each in missing(item, kept[at], f"{path}[{at}]")]
    return [] if kept is not None else [path]
