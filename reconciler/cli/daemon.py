"""``run``: the node agent, from the command line of one machine."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from reconciler.cli.machine import STDIN, settings
from reconciler.cli.options import Options
from reconciler.cli.problems import CommandError, UsageError
from reconciler.cli.terminal import Terminal
from reconciler.node.running import RunConfig, run
from reconciler.runtime.logs import LogFormat, set_up_logging
from reconciler.runtime.metrics import parse_listen
from reconciler.runtime.uevents import Source

_ABOUT_ADDRESSES = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""What only listening can fail with; such errors name no file."""


def run_daemon(options: Options, screen: Terminal) -> int:
    """Run until told to end. Logs go to stderr."""
    if options.file == STDIN:
        raise UsageError("-f/--file: a daemon follows a file, it can't follow standard input")
    level = logging.getLevelNamesMapping()[options.log_level.upper()]
    set_up_logging(LogFormat(options.log_format), level, screen.err)
    config = RunConfig(
        file=Path(options.file),
        cluster=False,
        settings=settings(options),
        roots=options.roots,
        resync=options.resync_seconds,
        uevents=None if options.uevents == "off" else Source(options.uevents),
        metrics=parse_listen(options.metrics_listen) if options.metrics_listen else None,
    )
    try:
        return run(config)
    except OSError as error:
        if error.errno in _ABOUT_ADDRESSES:
            raise CommandError(f"--metrics-listen: {options.metrics_listen}: {error.strerror}") from error
        raise
