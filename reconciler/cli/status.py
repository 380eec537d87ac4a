"""``status``: what the agent last said. Reads one file and nothing of the machine, so it is quick."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reconciler.cli.allocations import allocation_table
from reconciler.cli.gpus import gpu_table
from reconciler.cli.options import Format, Options
from reconciler.cli.output import age, elapsed, write_data
from reconciler.cli.problems import CommandError
from reconciler.cli.tables import Cell, table
from reconciler.cli.terminal import Colour, Terminal
from reconciler.runtime.files import FileRefused, read_bounded
from state.status import Condition, StatusError, StatusFile, decode_status

LARGEST_STATUS = 16 * 1024 * 1024
_BOOT_ID_BYTES = 4096
STALE = timedelta(seconds=30)
"""An agent that lives rewrites the file every 10 s; DESIGN takes it for dead after three times that."""

_BAD_WHEN_TRUE = ("Stalled",)


def show_status(options: Options, screen: Terminal) -> int:
    """Show the status file."""
    file = last_status(options)
    now = datetime.now(UTC)
    note_age(file, options, now, screen)
    if options.format.for_people:
        wide = options.format is Format.WIDE
        screen.say("\n\n".join(_paragraphs(file, now, screen, wide=wide)))
    else:
        write_data(screen, options.format, file)
    return 0


def last_status(options: Options) -> StatusFile:
    """The status file. Raises CommandError when there is none, or none that makes sense."""
    path = options.roots.status_file
    try:
        return decode_status(read_bounded(Path(path), LARGEST_STATUS))
    except FileRefused as error:
        if error.absent:
            raise CommandError(f"{path}: no such file: no agent has run here since boot") from error
        raise
    except StatusError as error:
        raise CommandError(f"{path}: {error}") from error


def note_age(file: StatusFile, options: Options, now: datetime, screen: Terminal) -> None:
    """Warn of a status that nobody keeps up to date, or from before the machine was started."""
    path = options.roots.status_file
    boot_id = _boot_id(options.roots.procfs)
    if boot_id is not None and boot_id != file.boot_id:
        screen.note(f"{path}: from another boot: the machine may be different now")
    elif elapsed(file.written_at, now) > STALE:
        screen.note(f"{path}: written {age(file.written_at, now)} ago: no agent keeps it up to date now")


def _boot_id(procfs: str) -> str | None:
    try:
        return (
            read_bounded(Path(procfs, "sys/kernel/random/boot_id"), _BOOT_ID_BYTES)
            .decode(errors="replace")
            .strip()
        )
    except FileRefused:
        return None  # then the age alone has to tell


def _paragraphs(file: StatusFile, now: datetime, screen: Terminal, *, wide: bool) -> Iterable[str]:
    status = file.status
    yield table(
        screen,
        ("condition", "status", "reason", "since", "message"),
        [
            (item.type, _value(item), item.reason, age(item.last_transition_time, now), item.message)
            for item in status.conditions
        ],
    )
    if status.devices:
        yield gpu_table(screen, status.devices, wide=wide)
    else:
        yield "no Intel GPU on this machine"
    if status.allocations:
        yield allocation_table(screen, status.allocations, now, wide=wide)
    if status.plan.actions:
        rows = [(action.device, action.action) for action in status.plan.actions]
        yield table(screen, ("device", "planned"), rows)
    if status.plan.blocked:
        rows = [(item.what, item.why) for item in status.plan.blocked]
        yield table(screen, ("blocked", "why"), rows)


def _value(condition: Condition) -> Cell:
    if condition.type == "Ready":
        return Cell(text=condition.status, colour=Colour.GOOD if condition.status == "True" else Colour.WAITING)
    bad = condition.type in _BAD_WHEN_TRUE and condition.status == "True"
    return Cell(text=condition.status, colour=Colour.BAD if bad else None)
