"""``export``: what is there now, as a desired-state file."""

from __future__ import annotations

from reconciler.cli.machine import note_surroundings, require_bus
from reconciler.cli.options import Format, Options
from reconciler.cli.output import write_data
from reconciler.cli.terminal import Terminal
from reconciler.node.manifest_file import dump_manifest
from reconciler.node.once import look
from reconciler.node.tables import load_tables
from state.exporting import export
from state.manifest_decoding import encode


def export_machine(options: Options, screen: Terminal) -> int:
    """Write a manifest that wants just what is there."""
    tables = load_tables(options.roots.pci_ids)
    observed = look(options.roots, tables)
    note_surroundings(observed, options, screen)
    require_bus(observed, options)
    state = export(observed, tables.profiles, None)
    if options.format is Format.JSON:
        write_data(screen, options.format, encode(state))
    else:
        screen.out.write(dump_manifest(state))
    return 0
