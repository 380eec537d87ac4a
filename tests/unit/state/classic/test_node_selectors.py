"""Node selectors against the semantics of the API reference: one of the terms, all of its requirements."""

import msgspec
import pytest

from state.classic.node_selectors import NodeSelector

LABELS = {"gpu": "flex", "generation": "3"}


def selector(*terms: dict[str, object]) -> NodeSelector:
    return msgspec.convert({"nodeSelectorTerms": list(terms)}, NodeSelector)


def needs(key: str, operator: str, *values: str) -> dict[str, object]:
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        (needs("gpu", "In", "max", "flex"), True),
        (needs("gpu", "In", "max"), False),
        (needs("none", "In", "flex"), False),
        (needs("gpu", "NotIn", "flex"), False),
        (needs("none", "NotIn", "flex"), True),
        (needs("gpu", "Exists"), True),
        (needs("none", "Exists"), False),
        (needs("gpu", "DoesNotExist"), False),
        (needs("none", "DoesNotExist"), True),
        (needs("generation", "Gt", "2"), True),
        (needs("generation", "Gt", "3"), False),
        (needs("generation", "Lt", "4"), True),
        (needs("generation", "Lt", "3"), False),
        (needs("gpu", "Gt", "2"), False),
        (needs("none", "Lt", "2"), False),
        (needs("gpu", "Like", "flex"), False),
    ],
)
def test_each_operator(requirement: dict[str, object], met: bool) -> None:
    assert selector({"matchExpressions": [requirement]}).matches("n", LABELS) is met


def test_terms_are_alternatives_and_their_requirements_are_not() -> None:
    flex, tenth = needs("gpu", "In", "flex"), needs("generation", "In", "10")
    assert not selector({"matchExpressions": [flex, tenth]}).matches("n", LABELS)
    assert selector({"matchExpressions": [tenth]}, {"matchExpressions": [flex]}).matches("n", LABELS)
    assert not selector().matches("n", LABELS)
    assert not selector({}).matches("n", LABELS)


def test_the_name_is_a_field_and_no_label() -> None:
    by_name = selector({"matchFields": [needs("metadata.name", "In", "n")], "matchExpressions": []})
    assert by_name.matches("n", {})
    assert not by_name.matches("m", {"metadata.name": "n"})
