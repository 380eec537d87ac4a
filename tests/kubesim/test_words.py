"""Small parts: ages, quantities, paths, protobuf."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesim.clock import timestamp
from kubesim.columns import age
from kubesim.protobuf import ENVELOPE, MESSAGES, decode_object
from kubesim.quantities import quantity
from kubesim.refusals import Refusal
from kubesim.rules import escaped
from kubesim.tables import path_value

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (301, "5m1s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600 + 60, "8h"),
        (48 * 3600, "2d"),
        (3 * 86400 + 3600, "3d1h"),
        (400 * 86400, "400d"),
        (3 * 365 * 86400 + 86400, "3y1d"),
        (9 * 365 * 86400, "9y"),
        (-5, "<invalid>"),
    ],
)
def test_ages_as_kubectl_words_them(seconds: int, words: str) -> None:
    assert age(timestamp(NOW - timedelta(seconds=seconds)), NOW) == words


def test_no_time_no_age() -> None:
    assert age(None, NOW) == "<unknown>"


@pytest.mark.parametrize(
    ("text", "amount"),
    [("8Gi", 8 * 2**30), ("1Ki", 1024), ("500m", Fraction(1, 2)), ("3", 3), ("1.5k", 1500), ("2e3", 2000), (7, 7)],
)
def test_quantities(text: str | int, amount: Fraction | int) -> None:
    assert quantity(text) == amount


def test_what_is_no_quantity_is_an_error() -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity("8GB")


CONDITIONS = {"status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]}}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ('.status.conditions[?(@.type=="Ready")].status', "True"),
        ('.status.conditions[?(@.type=="Gone")].status', None),
        (".status.conditions[0].type", "A"),
        (".status.conditions[-1].type", "Ready"),
        (".status.conditions[*].type", "A"),
        (".status['conditions'][1].status", "True"),
        (".nothing.at.all", None),
    ],
)
def test_paths_of_columns(path: str, found: str | None) -> None:
    assert path_value(CONDITIONS, path) == found


@pytest.mark.parametrize(
    ("name", "written"), [("namespace", "__namespace__"), ("a-b", "a__dash__b"), ("a.b/c", "a__dot__b__slash__c")]
)
def test_names_as_rules_write_them(name: str, written: str) -> None:
    assert escaped(name) == written


@given(st.binary(max_size=60))
def test_no_bytes_confuse_the_protobuf_reader(data: bytes) -> None:
    try:
        decode_object(ENVELOPE + data, MESSAGES["ConfigMap"])
    except Refusal as refusal:
        assert refusal.code == 400  # noqa: PT017  either outcome is fine, another exception is not
