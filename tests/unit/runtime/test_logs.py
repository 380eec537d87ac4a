"""Log lines as people and machines get them."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.runtime.logs import JsonFormatter, LogFormat, TextFormatter, set_up_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root_logger_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(format: LogFormat, level: int = logging.INFO, stream: io.StringIO | None = None) -> io.StringIO:
    # The handlers pytest put there are kept alive by the fixture above; ours replaces them.
    logging.getLogger().handlers[:] = []
    stream = stream or io.StringIO()
    set_up_logging(format, level, stream)
    return stream


def fail() -> None:
    try:
        raise OSError(16, "Device or resource busy", "/sys/x")
    except OSError as error:
        raise ValueError("no\nVFs") from error


def test_a_json_line_has_every_extra() -> None:
    stream = lines(LogFormat.JSON)
    logging.getLogger("a.b").warning(
        "set %d VFs", 8, extra={"device": "0000-b3-00-0-0x56c0", "claim": "uid-1", "level": "mine", "n": [1]}
    )
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("ts"))
    assert record == {
        "level": "WARNING",
        "logger": "a.b",
        "message": "set 8 VFs",
        "device": "0000-b3-00-0-0x56c0",
        "claim": "uid-1",
        "level_": "mine",
        "n": [1],
    }


def test_a_json_exception_is_in_the_same_line() -> None:
    stream = lines(LogFormat.JSON)
    try:
        fail()
    except ValueError:
        logging.getLogger().exception("oh")
    record = json.loads(stream.getvalue())
    assert "in fail" in record["exception"]
    assert "Device or resource busy" in record["exception"]


def test_a_text_line_has_every_extra() -> None:
    stream = lines(LogFormat.TEXT)
    logging.getLogger("a.b").info("set", extra={"device": "d", "why": 'a "b" c', "none": ""})
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(r'\S+Z INFO    a\.b: set device=d none="" why="a \\"b\\" c"', line)


def test_a_text_exception_is_short_unless_debugging() -> None:
    stream = lines(LogFormat.TEXT)
    debug = lines(LogFormat.TEXT, logging.DEBUG)
    for level, out in ((logging.INFO, stream), (logging.DEBUG, debug)):
        lines(LogFormat.TEXT, level, out)
        try:
            fail()
        except ValueError:
            logging.getLogger().exception("oh", extra={"device": "d"})
    (line,) = stream.getvalue().splitlines()
    assert "error=" in line
    assert "ValueError: no" in line
    assert "test_logs.py" in line
    assert "Device or resource busy" in line
    assert "Traceback" in debug.getvalue()


def test_levels_below_are_not_written() -> None:
    stream = lines(LogFormat.TEXT, logging.WARNING)
    logging.getLogger("x").info("quiet")
    assert stream.getvalue() == ""


def test_colour_only_on_a_terminal() -> None:
    for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
        lines(LogFormat.TEXT, stream=stream)
        logging.getLogger().error("red")
        assert ("\x1b[31m" in stream.getvalue()) is coloured
    terminal = Terminal()
    lines(LogFormat.JSON, stream=terminal)
    logging.getLogger().error("plain")
    assert "\x1b" not in terminal.getvalue()


def test_setting_up_twice_writes_once() -> None:
    lines(LogFormat.TEXT)
    stream = io.StringIO()
    set_up_logging(LogFormat.TEXT, logging.INFO, stream)
    logging.getLogger().info("once")
    assert len(logging.getLogger().handlers) == 1
    assert stream.getvalue().count("once") == 1


@given(message=st.text(), value=st.text())
def test_a_record_is_one_line_whatever_it_says(message: str, value: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, message, None, None)
    record.__dict__["key"] = value
    for formatter in (JsonFormatter(), TextFormatter(colour=False, tracebacks=False)):
        text = formatter.format(record)
        assert len(text.splitlines()) == 1
        assert text.isprintable()
    decoded = json.loads(JsonFormatter().format(record))
    assert (decoded["message"], decoded["key"]) == (message, value)
