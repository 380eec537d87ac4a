"""``plan``: what apply would do and why, and what would have to wait."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.cli.allocations import phase_cell
from reconciler.cli.forecast import AllocationForecast, Forecast, GpuForecast, forecast
from reconciler.cli.machine import desired_file, note_surroundings, settings
from reconciler.cli.options import Format, Options
from reconciler.cli.output import write_data
from reconciler.cli.tables import Cell, table
from reconciler.cli.terminal import Colour, Terminal
from reconciler.node.clock import Clock
from reconciler.node.once import preview
from reconciler.node.tables import load_tables

DIFFERS = 2
NOTHING_TO_DO = "nothing to do: the machine is as wanted"


def show_plan(options: Options, screen: Terminal) -> int:
    """Show it, changing nothing."""
    tables = load_tables(options.roots.pci_ids)
    with desired_file(options) as file:
        seen = preview(file, settings(options), options.roots, tables, Clock())
    note_surroundings(seen.observed, options, screen)
    told = forecast(seen, tables.profiles)
    if options.format.for_people:
        screen.say("\n\n".join(paragraphs(told, screen, wide=options.format is Format.WIDE)))
    else:
        write_data(screen, options.format, told)
    return 0 if told.as_wanted else DIFFERS


def paragraphs(told: Forecast, screen: Terminal, *, wide: bool) -> Iterable[str]:
    """The plan for people, each GPU a paragraph; ``wide`` has those that stay as they are, too."""
    if told.as_wanted:
        yield screen.paint(NOTHING_TO_DO, Colour.GOOD)
    elif not told.changes:
        yield "nothing can be done now, but the machine is not as wanted"
    for gpu in told.devices:
        if gpu.actions or wide:
            yield "\n".join(_gpu(gpu, screen))
    if told.actions:
        yield "\n".join((screen.paint("this machine", Colour.HEADING), *_numbered(told.actions)))
    problems = [f"  {item.what}: {item.why}" for item in told.blocked]
    if problems:
        yield "\n".join((screen.paint("blocked", Colour.HEADING), *problems))
    if told.overridden and wide:
        yield "\n".join((screen.paint("overridden", Colour.HEADING), *(f"  {text}" for text in told.overridden)))
    if told.allocations and (wide or not told.as_wanted):
        heading = screen.paint("allocations", Colour.HEADING)
        yield f"{heading}\n{_allocations(told.allocations, screen)}"


def _gpu(gpu: GpuForecast, screen: Terminal) -> Iterable[str]:
    model = f" ({gpu.model})" if gpu.model else ""
    change = gpu.now if gpu.then == gpu.now else f"{gpu.now} → {gpu.then}"
    yield f"{screen.paint(gpu.device + model, Colour.HEADING)}: {change}"
    if gpu.actions and not gpu.wanted_by:
        yield "  why: nobody wants it as it is"
    for wish in gpu.wanted_by:
        yield f"  why: {wish}"
    yield from _numbered(gpu.actions)


def _numbered(actions: Sequence[str]) -> Iterable[str]:
    for number, action in enumerate(actions, 1):
        yield f"  {number}. {action}"


def _allocations(allocations: Iterable[AllocationForecast], screen: Terminal) -> str:
    rows: list[Sequence[str | Cell]] = [
        (item.claim or item.name, item.now, _then(item), ",".join(item.devices), item.message)
        for item in allocations
    ]
    return table(screen, ("name", "now", "then", "devices", "message"), rows, indent="  ")


def _then(item: AllocationForecast) -> Cell:
    return phase_cell(item.then) if item.then else Cell(text="gone")
