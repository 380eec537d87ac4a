"""``discover``: the GPUs of this machine."""

from __future__ import annotations

from reconciler.cli.gpus import gpu_table
from reconciler.cli.machine import note_surroundings, require_bus
from reconciler.cli.options import Format, Options
from reconciler.cli.output import write_data
from reconciler.cli.terminal import Terminal
from reconciler.node.once import look
from reconciler.node.tables import load_tables
from state.planning import NOT_SYNCED
from state.summary import describe_device


def discover(options: Options, screen: Terminal) -> int:
    """List all GPUs; an empty list is no error."""
    tables = load_tables(options.roots.pci_ids)
    observed = look(options.roots, tables)
    note_surroundings(observed, options, screen)
    require_bus(observed, options)
    gpus = [
        describe_device(observed.gpus[name], observed, NOT_SYNCED, tables.profiles, ())
        for name in sorted(observed.gpus)
    ]
    if not options.format.for_people:
        write_data(screen, options.format, gpus)
    elif gpus:
        screen.say(gpu_table(screen, gpus, wide=options.format is Format.WIDE))
    return 0
