"""What commands that look at the machine have in common."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from reconciler.cli.options import Options
from reconciler.cli.problems import CommandError, in_words
from reconciler.cli.terminal import Terminal
from reconciler.cli.version import version
from reconciler.node.agent import Settings
from reconciler.node.manifest_file import LARGEST_FILE, ManifestFileError
from reconciler.node.users import Visibility
from reconciler.runtime.files import FileRefused
from reconciler.runtime.locks import LockBusy
from state.manifest_decoding import ManifestError
from state.observed import Observed
from state.planning import Options as PlanOptions

STDIN = "-"
PATIENCE_SECONDS = 2.0
"""How long a command that is done once waits for a GPU to be read: it has no next pass to make up for it."""


def settings(options: Options) -> Settings:
    """How to plan and act, as the flags say."""
    found = Settings(
        version=version(),
        options=PlanOptions(
            linger=timedelta(seconds=options.linger_seconds),
            force_release=options.force_release,
            devfs=options.roots.devfs,
            by_marks=options.command == "node",
        ),
        visibility=Visibility(options.processes),
    )
    return found if options.command in ("run", "node") else replace(found, patience=PATIENCE_SECONDS)


@contextmanager
def desired_file(options: Options) -> Iterator[Path]:
    """The file of ``-f``; standard input is kept in one for as long as the context lasts.

    What is wrong with it, or with reading it, leaves the context as CommandError that names it.
    """
    if options.file != STDIN:
        with _explained(options.file, Path(options.file)):
            yield Path(options.file)
        return
    with tempfile.TemporaryDirectory(prefix="gpu-reconciler-") as directory:
        path = Path(directory) / "stdin"
        path.write_bytes(_standard_input())
        with _explained("standard input", path):
            yield path


def _standard_input() -> bytes:
    """All of it; of one that is too long, just enough to be refused for that."""
    if sys.stdin is None:
        raise CommandError("standard input: is closed")
    try:
        return sys.stdin.buffer.read(LARGEST_FILE + 1)
    except OSError as error:
        raise CommandError(f"standard input: {in_words(error)}") from error


@contextmanager
def _explained(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except ManifestFileError as error:
        raise CommandError(str(error).replace(str(path), name, 1)) from error
    except ManifestError as error:
        raise CommandError(f"{name}: {error}") from error
    except FileRefused as error:
        if error.path != path:
            raise
        raise CommandError(f"{name}: {error.why}") from error
    except LockBusy as error:
        raise CommandError(f"{error.path}: another agent is at work here, {error.strerror}") from error


def note_surroundings(observed: Observed, options: Options, screen: Terminal) -> None:
    """Tell what could not be read, and that there is no GPU if so."""
    for problem in observed.unreadable:
        screen.note(str(problem))
    if not observed.gpus and not _bus_unreadable(observed, options):
        screen.note(f"no Intel GPU on this machine (looked in {options.roots.sysfs}/bus/pci/devices)")


def require_bus(observed: Observed, options: Options) -> None:
    """Raises CommandError when nobody can tell whether there are GPUs; a machine without PCI has none."""
    if not observed.gpus and _bus_unreadable(observed, options):
        raise CommandError("whether there are GPUs can't be told: PCI devices can't be read")


def _bus_unreadable(observed: Observed, options: Options) -> bool:
    bus = f"{options.roots.sysfs}/bus/pci/devices"
    return os.path.isdir(bus) and any(problem.path.startswith(bus) for problem in observed.unreadable)
