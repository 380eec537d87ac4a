"""Logging for people (text) or machines (JSON), on stderr, with every `extra` shown: device=…, claim=…"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from enum import Enum
from typing import TextIO

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[1;31m"}
_RESET = "\x1b[0m"


class LogFormat(Enum):
    """How a record is written."""

    TEXT = "text"
    JSON = "json"


def set_up_logging(format: LogFormat, level: int, stream: TextIO | None = None) -> None:
    """Send all logging of the process from `level` up to `stream` (stderr), in place of whatever was set up
    before.
    """
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    if format is LogFormat.JSON:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter(colour=target.isatty(), tracebacks=level <= logging.DEBUG))
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts (RFC 3339, UTC), level, logger, message, the extras, and exception if there
    is one.

    An extra named like one of these keys gets an underscore appended, so it can't hide them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        fields: dict[str, object] = {
            "ts": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1]:
            fields["exception"] = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        for name, value in _extras(record).items():
            fields[f"{name}_" if name in fields else name] = value
        return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """One line a record: time, level, logger, message, key=value …; tracebacks below it only if asked for."""

    def __init__(self, *, colour: bool, tracebacks: bool) -> None:
        super().__init__()
        self._colour = colour
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of text, with its traceback below where that is wanted."""
        message = _one_line(record.getMessage())
        words = [_timestamp(record), f"{record.levelname:<7}", f"{record.name}:", message]
        words += [f"{name}={_value(value)}" for name, value in _extras(record).items()]
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            words.append(f"error={_value(_in_short(error))}")
        line = " ".join(words)
        if self._colour and (start := _COLOURS.get(record.levelno)):
            line = f"{start}{line}{_RESET}"
        if error is not None and self._tracebacks:
            line += "\n" + "".join(traceback.format_exception(error)).rstrip()
        return line


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in sorted(record.__dict__.items()) if name not in _STANDARD}


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    """Control characters made visible: a message can neither fake a second record nor paint the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _value(value: object) -> str:
    text = _one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & set(' "=') else text


def _in_short(error: BaseException) -> str:
    """The error, where it came from, and what caused it."""
    text = f"{type(error).__name__}: {error}"
    if frames := traceback.extract_tb(error.__traceback__, limit=-1):
        text += f" ({frames[0].filename.rpartition('/')[2]}:{frames[0].lineno} in {frames[0].name})"
    return f"{text} from {_in_short(error.__cause__)}" if error.__cause__ else text
