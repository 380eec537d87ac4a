import pytest

from state.dra.quantities import whole_units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4Gi", 4 * 1024**3),
        ("1k", 1000),
        ("250", 250),
        ("1.5Mi", 3 * 512 * 1024),
        ("1e3", 1000),
        ("12E2", 1200),
        ("500m", 1),
        ("1", 1),
        ("2E", 2 * 10**18),
        (".5", 1),
        ("5.", 5),
    ],
)
def test_every_form_a_server_sends_is_read(text: str, value: int) -> None:
    assert whole_units(text) == value


@pytest.mark.parametrize("text", ["", ".", "Gi", "1Zi", "-1", "1 Gi", "1e", "1Gi\n", "0x10", "\u0661"])
def test_anything_else_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|suffix"):
        whole_units(text)
