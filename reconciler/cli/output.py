"""Results for programs, and the words and numbers for people that several commands share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from reconciler.cli.options import Format
from reconciler.cli.terminal import Terminal

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def write_data(screen: Terminal, format: Format, data: object) -> None:
    """``data`` as YAML or JSON. Keys and numbers are the same in both; times are RFC 3339."""
    if format is Format.JSON:
        screen.say(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
        return
    import yaml

    plain = msgspec.to_builtins(data, str_keys=True)
    text: str = yaml.dump(
        plain, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=110
    )
    screen.out.write(text)


def size(count: int) -> str:
    """Bytes for people: ``15.9 GiB``, ``512 MiB``."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    shown = f"{value:.1f}".removesuffix(".0")
    return f"{shown} {_UNITS[unit]}"


def elapsed(since: datetime, now: datetime) -> timedelta:
    """The time gone by, none if the clock was set back. A time without a zone is taken for UTC."""
    aware = since if since.tzinfo is not None else since.replace(tzinfo=UTC)
    return max(timedelta(), now - aware)


def age(since: datetime, now: datetime) -> str:
    """How long ago, in the largest unit that fits: ``4s``, ``12m``, ``3h``, ``5d``."""
    seconds = elapsed(since, now) // timedelta(seconds=1)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def counted(number: int, one: str, many: str) -> str:
    """``1 VF``, ``4 VFs``."""
    return f"{number} {one if number == 1 else many}"
