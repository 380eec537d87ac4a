"""``assert``: whether the machine is as wanted, and where it is not."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from reconciler.cli.forecast import Forecast, Waiting, forecast
from reconciler.cli.machine import desired_file, note_surroundings, settings
from reconciler.cli.options import Options
from reconciler.cli.output import counted, write_data
from reconciler.cli.plan import DIFFERS
from reconciler.cli.tables import table
from reconciler.cli.terminal import Colour, Terminal
from reconciler.node.clock import Clock
from reconciler.node.once import preview
from reconciler.node.tables import load_tables
from state.outcomes import Phase


class Drift(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where the machine differs from what is wanted."""

    as_wanted: bool
    drift: tuple[Waiting, ...]


def assert_machine(options: Options, screen: Terminal) -> int:
    """Compare, changing nothing."""
    tables = load_tables(options.roots.pci_ids)
    with desired_file(options) as file:
        seen = preview(file, settings(options), options.roots, tables, Clock())
    note_surroundings(seen.observed, options, screen)
    told = forecast(seen, tables.profiles)
    messages = {item.name: item.message for item in seen.status.allocations}
    found = Drift(as_wanted=told.as_wanted, drift=tuple(drift(told, messages)) if not told.as_wanted else ())
    if not options.format.for_people:
        write_data(screen, options.format, found)
    elif found.as_wanted:
        screen.say(screen.paint("the machine is as wanted", Colour.GOOD))
    else:
        screen.say(table(screen, ("drift", "why"), [(item.what, item.why) for item in found.drift]))
    return 0 if found.as_wanted else DIFFERS


def drift(told: Forecast, messages: dict[str, str]) -> Iterable[Waiting]:
    """Each difference and why it is one. ``messages`` say of each allocation how it stands now."""
    for gpu in told.devices:
        if gpu.then != gpu.now:
            yield Waiting(what=gpu.device, why=f"is: {gpu.now}; wanted: {gpu.then}")
        elif gpu.actions:
            actions = counted(len(gpu.actions), "change", "changes")
            yield Waiting(what=gpu.device, why=f"{actions} to make, first: {gpu.actions[0]}")
    for action in told.actions:
        yield Waiting(what="this machine", why=f"to do: {action}")
    for item in told.allocations:
        if item.now != Phase.READY.value:
            why = messages.get(item.name) or item.message
            yield Waiting(what=f"allocation {item.claim or item.name}", why=f"{item.now}: {why}")
    yield from told.blocked
