"""Manifests are refused with a path, plain words and what is allowed there; what is accepted round-trips."""

import contextlib
import copy

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state import manifest
from state.manifest import API_VERSION, KIND, NodeState
from state.manifest_decoding import MOST_PROBLEMS, ManifestError, decode, encode, parse_quantity
from state.mismatches import mismatches
from tests.unit.manifest_strategies import documents, node_states

HEAD = {"apiVersion": API_VERSION, "kind": KIND}
MODES = ("Managed", "Fixed", "Drain", "Ignore")
OVERRIDE, MANUAL, DEVICE = "spec.overrides[0]", "spec.manualAllocations[0]", "spec.manualAllocations[0].devices[0]"
CONFIG = "spec.allocations[0].config"
BYTES = ("1 to 9223372036854775807",)
ENTRY = {"name": "a", "devices": [{"device": "x"}]}
CLAIM = {"name": "c1", "claimNamespace": "ns", "claimName": "c", "source": "v1"}


def refusal(spec: object, *, cluster: bool = True, **head: object) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        decode({**HEAD, "spec": spec, **head}, cluster=cluster)
    assert "\n" not in str(caught.value)
    return caught.value


def manual(*devices: object, name: str = "a") -> dict[str, object]:
    return {"manualAllocations": [{"name": name, "devices": list(devices)}]}


@pytest.mark.parametrize(
    ("spec", "path", "allowed"),
    [
        ([], "spec", ()),
        (None, "spec", ()),
        ({"overides": []}, "spec.overides", ("paused", "policy", "overrides", "manualAllocations")),
        ({"overrides": {}}, "spec.overrides", ()),
        ({"overrides": ["x"]}, "spec.overrides[0]", ()),
        ({"overrides": [{"device": "a", "mode": "Foo"}]}, f"{OVERRIDE}.mode", MODES),
        ({"overrides": [{"device": "a", "mode": 1}]}, f"{OVERRIDE}.mode", MODES),
        ({"overrides": [{"mode": "Drain"}]}, f"{OVERRIDE}.device", ()),
        ({"overrides": [{"device": "a", "kernelDriver": "i916"}]}, f"{OVERRIDE}.kernelDriver", ("i915",)),
        ({"overrides": [{"device": "a", "virtualFunctions": {}}]}, f"{OVERRIDE}.virtualFunctions.profile", ()),
        ({"paused": "yes"}, "spec.paused", ("true", "false")),
        ({"policy": {"layout": "Static"}}, "spec.policy.layout", ("Auto", "Dynamic", "Pinned", "CounterFree")),
        ({"policy": {"bindingConditions": "Always"}}, "spec.policy.bindingConditions", ("Never", "OnReconfigure")),
        ({"policy": {"lingerSeconds": -1}}, "spec.policy.lingerSeconds", ("0 to 86400",)),
        ({"policy": {"lingerSeconds": 10**60}}, "spec.policy.lingerSeconds", ("0 to 86400",)),
        ({"policy": {"lingerSeconds": 1.0}}, "spec.policy.lingerSeconds", ()),
        ({"policy": {"lingerSeconds": True}}, "spec.policy.lingerSeconds", ()),
        ({"policy": {"profiles": "m4"}}, "spec.policy.profiles", ()),
        ({"policy": {3: "m4"}}, "spec.policy[3]", ()),
        ({"manualAllocations": [{"name": "a", "devices": []}]}, f"{MANUAL}.devices", ()),
        (manual({"device": "x"}, name="A b"), f"{MANUAL}.name", ()),
        (manual({"device": "x"}, name="a\n"), f"{MANUAL}.name", ()),
        (manual({"device": "x", "kernelDriver": "i915"}), f"{DEVICE}.kernelDriver", ("drm", "vfio")),
        (manual({"device": "x", "memory": 0}), f"{DEVICE}.memory", BYTES),
        (manual({"device": "x", "memory": 2**63}), f"{DEVICE}.memory", BYTES),
        (manual({"device": "x", "memory": "4GB"}), f"{DEVICE}.memory", ("Ki", "Gi", "G")),
        (manual({"device": "x", "memory": "1.5"}), f"{DEVICE}.memory", ()),
        (manual(*({"device": f"d{number}"} for number in range(65))), f"{MANUAL}.devices", ()),
        (manual({"device": "x"}, name="a" * 64), f"{MANUAL}.name", ()),
        ({"releases": [1]}, "spec.releases[0]", ()),
        ({"withdrawalsConfirmed": {"a b": 1}}, "spec.withdrawalsConfirmed['a b']", ()),
        ({"allocations": [{**CLAIM, "config": {"q": {"kernelDriver": 1}}}]}, f"{CONFIG}.q.kernelDriver", ("drm",)),
        ({"allocations": [{**CLAIM, "name": ""}]}, "spec.allocations[0].name", ()),
    ],
)  # fmt: skip
def test_refusals_name_path_and_allowed_values(spec: object, path: str, allowed: tuple[str, ...]) -> None:
    error = refusal(spec)
    assert error.path == path
    assert str(error).startswith(f"{path}: ")
    assert set(allowed) <= set(error.allowed)
    assert all(value in str(error) for value in allowed)


def test_the_message_is_one_plain_line() -> None:
    error = refusal({"overrides": [{"device": "a", "mode": "Foo"}]})
    assert str(error) == ("spec.overrides[0].mode: 'Foo' is not allowed (allowed: Managed, Fixed, Drain, Ignore)")


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ({"overides": []}, "did you mean 'overrides'?"),
        ({"manualallocations": []}, "did you mean 'manualAllocations'?"),
        ({"overrides": [{"device": "a", "mode": "drain"}]}, "did you mean 'Drain'?"),
    ],
)
def test_near_misses_are_recognised(spec: object, meant: str) -> None:
    assert meant in str(refusal(spec))


def test_nothing_is_suggested_for_a_word_unlike_all() -> None:
    assert "did you mean" not in str(refusal({"zzzzzz": 1}))


@pytest.mark.parametrize("raw", [None, 3, "x", [], [1]])
def test_a_manifest_is_an_object(raw: object) -> None:
    with pytest.raises(ManifestError, match="must be an object"):
        decode(raw, cluster=True)


@pytest.mark.parametrize("version", ["gpu.dra.intel.com/v1", "v1alpha1", 1, None, []])
def test_another_version_is_said_alone_with_those_understood(version: object) -> None:
    error = refusal({"unknown": 1}, apiVersion=version)
    assert (error.path, error.allowed, len(error.problems)) == ("apiVersion", (API_VERSION,), 1)


def test_another_kind_is_said_alone() -> None:
    assert (refusal({}, kind="Node").path, refusal({}, kind="Node").allowed) == ("kind", (KIND,))


def test_version_and_kind_must_be_there() -> None:
    with pytest.raises(ManifestError) as caught:
        decode({}, cluster=True)
    assert [str(problem) for problem in caught.value.problems] == ["apiVersion: is missing", "kind: is missing"]


def test_all_problems_are_told_up_to_a_number() -> None:
    error = refusal({"paused": 1, "overrides": [{"device": 1}]})
    assert [problem.path for problem in error.problems] == ["spec.paused", "spec.overrides[0].device"]
    assert str(error).endswith("; and 1 more problem")
    assert len(refusal({"releases": list(range(100))}).problems) == MOST_PROBLEMS


@pytest.mark.parametrize(
    ("field", "entries", "where", "first", "again"),
    [
        ("overrides", [{"device": "a"}, {"device": "b"}, {"device": "a"}], "overrides[{}].device", 0, 2),
        ("manualAllocations", [ENTRY, ENTRY], "manualAllocations[{}].name", 0, 1),
        (
            "manualAllocations",
            [{"name": "a", "devices": [{"device": "x"}] * 2}],
            "manualAllocations[0].devices[{}].device",
            0,
            1,
        ),
        ("allocations", [CLAIM, CLAIM], "allocations[{}].name", 0, 1),
        ("releases", ["u", "v", "v"], "releases[{}]", 1, 2),
    ],
)
def test_repetitions_name_both_places(
    field: str, entries: list[object], where: str, first: int, again: int
) -> None:
    error = refusal({field: entries})
    assert error.path == f"spec.{where.format(again)}"
    assert error.why.endswith(f" is already at spec.{where.format(first)}")


def test_allocations_are_the_controllers() -> None:
    decode({**HEAD, "spec": {"allocations": [CLAIM]}}, cluster=True)
    decode({**HEAD, "spec": {"allocations": []}}, cluster=False)
    error = refusal({"allocations": [CLAIM]}, cluster=False)
    assert error.path == "spec.allocations"
    assert "use spec.manualAllocations" in error.why


@pytest.mark.parametrize("mode", ["Managed", "Drain", "Ignore"])
def test_virtual_functions_need_mode_fixed(mode: str) -> None:
    override = {"device": "a", "mode": mode, "virtualFunctions": {"profile": "m4"}}
    error = refusal({"overrides": [override]})
    assert error.path == "spec.overrides[0].virtualFunctions"
    assert "Fixed" in error.why
    decode({**HEAD, "spec": {"overrides": [{**override, "mode": "Fixed"}]}}, cluster=False)


@pytest.mark.parametrize("driver", ["vfio", "xe-vfio"])
def test_a_gpu_given_away_whole_has_no_virtual_functions(driver: str) -> None:
    override = {"device": "a", "mode": "Fixed", "kernelDriver": driver}
    decode({**HEAD, "spec": {"overrides": [override]}}, cluster=False)
    error = refusal({"overrides": [{**override, "virtualFunctions": {"profile": "m4"}}]})
    assert (error.path, error.allowed) == ("spec.overrides[0].kernelDriver", ("drm", "i915", "xe"))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4Gi", 4 * 1024**3), ("500M", 500_000_000), ("1024Mi", 1024**3), ("1.5Gi", 3 * 2**29),
        ("2k", 2000), ("2Ki", 2048), ("1Ti", 1024**4), ("1P", 10**15), ("1Ei", 1024**6), ("4096", 4096),
        ("0.5Ki", 512),
    ],
)  # fmt: skip
def test_memory_may_be_a_quantity(text: str, size: int) -> None:
    assert parse_quantity(text) == size
    raw = {**HEAD, "spec": manual({"device": "x", "memory": text})}
    before = copy.deepcopy(raw)
    decoded = decode(raw, cluster=False)
    assert decoded.spec.manual_allocations[0].devices[0].memory == size
    assert raw == before
    assert encode(decoded)["spec"] == manual({"device": "x", "memory": size})


@pytest.mark.parametrize(
    "text", ["", "Gi", "-1", "+1", "1 Gi", "4gi", "4GiB", "1m", "1e3", "1.", ".5Gi", "٣", "9" * 21, "0.3"]
)
def test_other_text_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|suffix|whole number"):
        parse_quantity(text)


def test_status_is_accepted_and_left_out() -> None:
    printed = {**HEAD, "metadata": {"name": "n1", "managedFields": [{}]}, "status": {"conditions": [{"x": 1}]}}
    assert encode(decode(printed, cluster=True)) == {**HEAD, "metadata": {"name": "n1"}}


@given(node_states(cluster=True))
def test_what_is_encoded_decodes_to_the_same(state: NodeState) -> None:
    assert decode(encode(state), cluster=True) == state


@given(node_states(cluster=False))
def test_the_same_without_a_cluster(state: NodeState) -> None:
    assert decode(encode(state), cluster=False) == state


@given(documents(), st.booleans())
def test_any_document_is_decoded_or_refused(raw: object, cluster: bool) -> None:
    for document in (raw, {**HEAD, "spec": raw}, {**HEAD, "spec": manual(raw)}, {**HEAD, "status": raw}):
        with contextlib.suppress(ManifestError):
            decode(document, cluster=cluster)


@given(node_states(cluster=True), documents(), st.data())
def test_the_explanation_agrees_with_msgspec(state: NodeState, stranger: object, data: st.DataObject) -> None:
    raw = encode(state)
    holder: object = raw
    while isinstance(holder, dict | list) and holder:
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if data.draw(st.booleans()) or not isinstance(holder[key], dict | list) or not holder[key]:
            holder[key] = stranger
            break
        holder = holder[key]
    found = [problem.path for problem in mismatches(raw, NodeState)]
    try:
        msgspec.convert(raw, NodeState, strict=True)
    except msgspec.ValidationError:
        assert found
    else:
        assert not found


@pytest.mark.parametrize("field", manifest.Spec.__struct_encode_fields__)
def test_every_field_is_explained(field: str) -> None:
    # A type that the explanation does not know would be refused in msgspec's words, without a path.
    assert refusal({field: 1.5}).path == f"spec.{field}"
