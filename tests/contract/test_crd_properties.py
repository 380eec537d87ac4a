"""The definition's schema and the node's decoder say yes and no to the same, but for what is listed here."""

import json
import re
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from hack.crdgen.admission import QUANTITY
from hack.crdgen.definition import root_schema
from state.manifest import API_VERSION, KIND, NodeState
from state.manifest_decoding import ManifestError, decode, encode, parse_quantity
from state.status import NodeStatus
from tests.contract.admission import Schema, admit, defaulted
from tests.contract.crd_values import values
from tests.contract_files import REPOSITORY
from tests.unit.manifest_strategies import documents, node_states

ROOT: Schema = root_schema()
SPEC: Schema = ROOT["properties"]["spec"]
HEAD = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "node"}}
GOLDEN = REPOSITORY / "tests" / "golden"

REFUSED_EARLIER = {
    # Names and layouts that the engine refuses one by one, so that a slip in a file costs one entry and not all.
    "spec.overrides[].device",
    "spec.overrides[].virtualFunctions.profile",
    "spec.policy.profiles[]",
    "spec.manualAllocations[].name",
    "spec.manualAllocations[].devices[].device",
    "spec.manualAllocations[].devices[]",
    # What means nothing to a node.
    "spec.releases[]",
    "spec.allocations[]",
}
"""What the server refuses although the decoder takes it: test_crd_rules says what becomes of it there."""


JSON = documents().map(lambda raw: json.loads(json.dumps(raw)))


def whole(spec: object) -> dict[str, Any]:
    return {**HEAD, "spec": spec}


def pattern_of(path: str) -> str:
    return re.sub(r"\[\d+\]", "[]", path)


def wanted(case: str) -> Any:
    return yaml.safe_load((GOLDEN / case / "desired.yaml").read_text())


CASES = sorted(
    path.parent.name for path in GOLDEN.glob("*/desired.yaml") if wanted(path.parent.name) != "NotSynced"
)


@pytest.mark.parametrize("case", CASES)
def test_golden_manifests_are_admitted(case: str) -> None:
    refused = {pattern_of(one.path) for one in admit(whole(wanted(case) or {}))}
    assert refused <= REFUSED_EARLIER


@given(values(SPEC))
@settings(max_examples=100)
def test_what_the_server_admits_the_node_understands(spec: dict[str, Any]) -> None:
    assume(admit(whole(spec)) == ())
    plain = decode(whole(spec), cluster=True)
    filled = decode(whole(defaulted(SPEC, spec)), cluster=True)
    assert plain == filled, "a default of the server is not the node's"


@given(st.from_regex(QUANTITY.replace("$", r"\Z")))
@settings(max_examples=500)
def test_every_quantity_that_is_admitted_is_a_size(text: str) -> None:
    assert 1 <= parse_quantity(text) < 2**63


@given(node_states(cluster=True))
def test_what_types_can_express_is_admitted(state: NodeState) -> None:
    refused = {pattern_of(one.path) for one in admit({**encode(state), "metadata": {}})}
    assert refused <= REFUSED_EARLIER


@given(values(SPEC), JSON, st.data())
def test_what_the_server_refuses_the_node_refuses(
    spec: dict[str, Any], stranger: object, data: st.DataObject
) -> None:
    assume(spec and stranger is not None)  # null is "not set" to the node, and an error to the server
    replace_somewhere(spec, stranger, data)
    refused = {pattern_of(one.path) for one in admit(whole(spec))}
    assume(refused - REFUSED_EARLIER)
    with pytest.raises(ManifestError):
        decode(whole(spec), cluster=True)


def replace_somewhere(holder: Any, stranger: object, data: st.DataObject) -> None:
    """Puts ``stranger`` in the place of one value of ``holder``, however deep."""
    while True:
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if data.draw(st.booleans()) or not isinstance(holder[key], dict | list) or not holder[key]:
            holder[key] = stranger
            return
        holder = holder[key]


def full(kind: inspect.Type) -> Any:
    """A value of ``kind`` with every field set, and everything in lists and maps once."""
    match kind:
        case inspect.StructType():
            return {field.encode_name: full(field.type) for field in kind.fields}
        case inspect.VarTupleType():
            return [full(kind.item_type)]
        case inspect.DictType():
            return {"key": full(kind.value_type)}
        case inspect.UnionType():
            return full(kind.types[0])
        case inspect.StrType():
            return "text"
        case inspect.IntType():
            return 7
        case inspect.BoolType():
            return True
        case inspect.DateTimeType():
            return "2026-01-01T12:00:00Z"
        case _:
            raise TypeError(kind)


def closed(schema: Schema) -> Schema:
    """``schema`` without the leave for unknown fields."""
    result = {name: child for name, child in schema.items() if name != "x-kubernetes-preserve-unknown-fields"}
    if "properties" in result:
        result["properties"] = {key: closed(child) for key, child in result["properties"].items()}
    for name in ("items", "additionalProperties"):
        if name in result:
            result[name] = closed(result[name])
    return result


def test_every_field_of_a_status_is_known() -> None:
    raw = full(inspect.type_info(NodeStatus))
    written = msgspec.json.decode(msgspec.json.encode(msgspec.convert(raw, NodeStatus)))
    assert written == raw
    assert admit({**HEAD, "status": written}, closed(ROOT)) == ()


def test_a_newer_agent_may_say_more() -> None:
    raw = full(inspect.type_info(NodeStatus))
    for place in (raw, raw["devices"][0], raw["plan"]["blocked"][0], raw["conditions"][0], raw["summary"]):
        place["fieldOfTomorrow"] = {"any": ["thing"]}
    raw["allocations"][0]["phase"] = "Teleporting"
    assert admit({**HEAD, "status": raw}) == ()
    assert admit({**HEAD, "status": raw}, closed(ROOT)) != ()


def test_an_empty_object_is_admitted() -> None:
    assert admit(dict(HEAD)) == ()
    assert admit(whole({})) == ()
