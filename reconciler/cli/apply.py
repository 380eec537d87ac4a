"""``apply``: make the machine as wanted, once, telling each step."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from reconciler.cli.allocations import allocation_table, podman_lines
from reconciler.cli.machine import desired_file, settings
from reconciler.cli.options import Format, Options
from reconciler.cli.output import write_data
from reconciler.cli.plan import DIFFERS, NOTHING_TO_DO
from reconciler.cli.tables import table
from reconciler.cli.terminal import Colour, Terminal
from reconciler.node import announcing, applying
from reconciler.node.agent import Pass
from reconciler.node.applying import Step
from reconciler.node.clock import Clock
from reconciler.node.once import Converged, converge
from reconciler.node.tables import load_tables
from state.actions import Action, RemoveCdiSpec, WriteCdiSpec
from state.status import AllocationStatus, BlockedStatus, DeviceStatus, condition_of
from state.summary import STALLED


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How it ended. ``why`` says what kept it from getting further, empty if nothing did."""

    reached: bool
    why: str
    devices: tuple[DeviceStatus, ...]
    allocations: tuple[AllocationStatus, ...]
    blocked: tuple[BlockedStatus, ...]


def apply(options: Options, screen: Terminal) -> int:
    """Converge, then show what came of it."""
    progress = Progress(screen, beside=not options.format.for_people)
    tables = load_tables(options.roots.pci_ids)
    with desired_file(options) as file, _errors_noted(screen):
        ended = converge(
            file,
            settings(options),
            options.roots,
            tables,
            Clock(),
            timeout=options.timeout,
            followed=progress.passed,
            stepped=progress.stepped,
        )
    result = _result(ended)
    if not result.devices:
        screen.note("no Intel GPU on this machine")
    if options.format.for_people:
        wide = options.format is Format.WIDE
        screen.say("\n\n".join(_paragraphs(result, screen, anything_done=progress.anything, wide=wide)))
    else:
        write_data(screen, options.format, result)
    return 0 if result.reached else DIFFERS


class Progress:
    """Tells each step as it begins and ends. Steps end in the GPUs' own threads."""

    def __init__(self, screen: Terminal, *, beside: bool) -> None:
        self._screen = screen
        self._stream = screen.err if beside else screen.out
        self._lock = threading.Lock()
        self._told: tuple[Action, ...] = ()
        self.anything = False

    def passed(self, done: Pass) -> None:
        """A pass is about to act: say which steps begin."""
        fresh = tuple(action for action in done.plan.actions if action not in self._told)
        self._told = done.plan.actions
        for action in fresh:
            # Files are written in no time and have no end worth telling.
            self._tell(action, "" if isinstance(action, WriteCdiSpec | RemoveCdiSpec) else " …")

    def stepped(self, step: Step) -> None:
        """A step on a GPU has ended."""
        if step.failed is not None:
            self._tell(step.action, f"  failed after {step.seconds:.2f} s: {step.failed}", Colour.BAD)
        elif not isinstance(step.action, WriteCdiSpec | RemoveCdiSpec):
            self._tell(step.action, f"  done in {step.seconds:.2f} s", Colour.GOOD)

    def _tell(self, action: Action, ending: str, colour: Colour | None = None) -> None:
        if self._stream is self._screen.out:
            ending = self._screen.paint(ending, colour)
        with self._lock:
            self.anything = True
            self._stream.write(f"{action.pf or 'this machine'}  {action}{ending}\n")
            self._stream.flush()


def _result(ended: Converged) -> Result:
    """The end as data. Something refused is not reached either, though nothing waits for it."""
    stalled = condition_of(ended.status, STALLED)
    refused = stalled is not None and stalled.status == "True"
    return Result(
        reached=ended.reached and not refused,
        why=ended.why or (stalled.message if stalled is not None and refused else ""),
        devices=ended.status.devices,
        allocations=ended.status.allocations,
        blocked=ended.status.plan.blocked,
    )


def _paragraphs(result: Result, screen: Terminal, *, anything_done: bool, wide: bool) -> Iterable[str]:
    if result.reached:
        done = "done: the machine is as wanted" if anything_done else NOTHING_TO_DO
        yield screen.paint(done, Colour.GOOD)
    else:
        yield screen.paint(f"not all as wanted: {result.why}", Colour.WAITING)
    if result.allocations:
        yield allocation_table(screen, result.allocations, datetime.now(UTC), wide=wide)
    if result.blocked:
        yield table(screen, ("blocked", "why"), [(item.what, item.why) for item in result.blocked])
    lines = podman_lines(result.allocations)
    if lines:
        yield "\n".join(("to use them:", *(f"  {line}" for line in lines)))


class _Notes(logging.Handler):
    """Shows records as notes, but for those on steps and outcomes: Progress and the result tell these."""

    def __init__(self, screen: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        if record.name not in (applying.__name__, announcing.__name__):
            self._screen.note(record.getMessage())


@contextlib.contextmanager
def _errors_noted(screen: Terminal) -> Iterator[None]:
    """Log records that nobody else tells, as lines of ours."""
    handler = _Notes(screen)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
