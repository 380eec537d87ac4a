"""Start to end of one command: what is asked, doing it, and how it ended as an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from reconciler.cli.arguments import HelpAsked, parse
from reconciler.cli.options import Options
from reconciler.cli.problems import CommandError, in_words
from reconciler.cli.terminal import Terminal, terminal

FAILED = 1
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
BROKEN_PIPE = 141
"""128 + SIGPIPE: whoever read our output has had enough."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; ``argv`` is without the program's name."""
    words = sys.argv[1:] if argv is None else argv
    with open(os.devnull, "w") as nowhere:
        # Python has None for a stream that was closed before it started: output that nobody wants.
        out = nowhere if sys.stdout is None else sys.stdout
        err = nowhere if sys.stderr is None else sys.stderr
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="backslashreplace")  # whatever the locale lacks; stderr is set up so already
        return _run(words, terminal(out, err, os.environ))


def _run(words: Sequence[str], screen: Terminal) -> int:
    try:
        code = _answer(words, os.environ, screen)
        screen.out.flush()
        return code
    except CommandError as error:
        screen.note(str(error))
    except KeyboardInterrupt:
        screen.note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_output()
        return BROKEN_PIPE
    except OSError as error:
        about_output = not _flushed(screen) and error.filename is None
        screen.note(f"standard output: {in_words(error)}" if about_output else in_words(error))
    return FAILED


def _flushed(screen: Terminal) -> bool:
    """Write what is still buffered. Where that can't be done it is given up."""
    try:
        screen.out.flush()
    except OSError:
        _give_up_output()
        return False
    return True


def _answer(words: Sequence[str], environment: Mapping[str, str], screen: Terminal) -> int:
    try:
        options = parse(words, environment)
    except HelpAsked as asked:
        screen.out.write(str(asked))
        return 0
    for note in options.notes:
        screen.note(note)
    return _command(options.command)(options, screen)


def _command(name: str) -> Callable[[Options, Terminal], int]:
    """The function of a command. Each brings in only what it needs, so that small questions are answered fast."""
    match name:
        case "discover":
            from reconciler.cli.discover import discover

            return discover
        case "export":
            from reconciler.cli.export import export_machine

            return export_machine
        case "plan":
            from reconciler.cli.plan import show_plan

            return show_plan
        case "apply":
            from reconciler.cli.apply import apply

            return apply
        case "assert":
            from reconciler.cli.asserting import assert_machine

            return assert_machine
        case "run":
            from reconciler.cli.daemon import run_daemon

            return run_daemon
        case "node":
            from reconciler.cli.daemon import run_in_cluster

            return run_in_cluster
        case "controller":
            from reconciler.cli.controller import run_cluster_controller

            return run_cluster_controller
        case "plugin":
            from reconciler.cli.plugin import run_kubelet_plugin

            return run_kubelet_plugin
        case "status":
            from reconciler.cli.status import show_status

            return show_status
        case "explain":
            from reconciler.cli.explain import explain

            return explain
        case _:
            raise CommandError(f"{name}: no such command")


def _give_up_output() -> None:
    """Point stdout elsewhere: what is still buffered can't be written, and the interpreter would try at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    # Without a descriptor behind stdout there is nothing the interpreter would write to.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
