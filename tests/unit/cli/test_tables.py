"""Tables, colours, numbers for people."""

import io
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.cli.options import Format
from reconciler.cli.output import age, size, write_data
from reconciler.cli.tables import Cell, fields, table
from reconciler.cli.terminal import Colour, Terminal, terminal

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(*, coloured: bool = False) -> Terminal:
    return Terminal(out=io.StringIO(), err=io.StringIO(), coloured=coloured)


def test_columns_are_aligned_and_lines_have_no_end_blanks() -> None:
    rows = [("a", "longer"), ("longest", ""), ("b", "c\nd\x1b[2J")]
    assert table(screen(), ("one", "two"), rows).splitlines() == [
        "ONE      TWO",
        "a        longer",
        "longest  -",
        "b        c\\nd\\x1b[2J",
    ]


def test_colours_do_not_move_columns() -> None:
    rows: list[tuple[str | Cell, str]] = [(Cell(text="ok", colour=Colour.GOOD), "x"), ("long", "y")]
    plain = table(screen(), ("one", "two"), rows)
    painted = table(screen(coloured=True), ("one", "two"), rows)
    assert painted != plain
    assert painted.replace("\x1b[32m", "").replace("\x1b[0m", "") == plain


def test_fields_leave_out_what_is_empty() -> None:
    assert fields([("A", "1"), ("Longer", "2"), ("None", "")], screen()) == "A:       1\nLonger:  2"


@pytest.mark.parametrize(
    ("out", "environment", "coloured"),
    [
        (Screen(), {}, True),
        (Screen(), {"NO_COLOR": ""}, True),
        (Screen(), {"NO_COLOR": "0"}, False),
        (Screen(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_only_where_wanted(out: io.StringIO, environment: dict[str, str], coloured: bool) -> None:
    assert terminal(out, io.StringIO(), environment).coloured is coloured


def test_notes_are_one_line() -> None:
    seen = screen()
    seen.note("a\nb")
    assert isinstance(seen.err, io.StringIO)
    assert seen.err.getvalue() == "gpu-reconciler: a\\nb\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (512 << 20, "512 MiB"), (17045651456, "15.9 GiB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0s"), (59, "59s"), (60, "1m"), (7199, "1h"), (90000, "1d")])
def test_ages(seconds: int, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_a_time_without_zone_is_utc() -> None:
    assert age(datetime(2026, 1, 1, 23), NOW) == "1h"  # noqa: DTZ001


def test_data_in_both_formats() -> None:
    as_json, as_yaml = screen(), screen()
    write_data(as_json, Format.JSON, {"id": "0x10", "list": []})
    write_data(as_yaml, Format.YAML, {"id": "0x10", "list": []})
    assert isinstance(as_json.out, io.StringIO)
    assert isinstance(as_yaml.out, io.StringIO)
    assert as_json.out.getvalue() == '{\n  "id": "0x10",\n  "list": []\n}\n'
    assert as_yaml.out.getvalue() == "id: '0x10'\nlist: []\n"
