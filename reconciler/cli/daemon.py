"""``run`` and ``node``: the node agent, for one machine by itself and for a node of a cluster."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from reconciler.cli.machine import STDIN, settings
from reconciler.cli.options import Options
from reconciler.cli.problems import CommandError, UsageError
from reconciler.cli.terminal import Terminal
from reconciler.cli.version import version
from reconciler.node.running import InCluster, RunConfig, run
from reconciler.runtime.kube.config import Cluster, ConfigError
from reconciler.runtime.kube.connecting import connect
from reconciler.runtime.logs import LogFormat, set_up_logging
from reconciler.runtime.metrics import parse_listen
from reconciler.runtime.uevents import Source
from state.manifest import BindingConditions, Layout, Policy

_ABOUT_ADDRESSES = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""What only listening can fail with; such errors name no file."""


def run_daemon(options: Options, screen: Terminal) -> int:
    """Run until told to end. Logs go to stderr."""
    if options.file == STDIN:
        raise UsageError("-f/--file: a daemon follows a file, it can't follow standard input")
    _log_to(screen, options)
    return _run(options, Path(options.file), None)


def run_in_cluster(options: Options, screen: Terminal) -> int:
    """Run as a node of a cluster until told to end. Logs go to stderr."""
    _log_to(screen, options)
    cluster = Cluster(
        user_agent=f"gpu-reconciler-node/{version()}",
        kubeconfig=Path(options.kubeconfig) if options.kubeconfig else None,
        context=options.context or None,
    )
    in_cluster = InCluster(
        node=options.node_name, connect=lambda metrics: connect(cluster, metrics=metrics), offer=_offer(options)
    )
    try:
        return _run(options, Path(options.roots.desired_file), in_cluster)
    except ConfigError as error:
        raise CommandError(str(error)) from error


def _offer(options: Options) -> Policy:
    return Policy(
        layout=Layout(options.layout),
        profiles=options.profiles,
        shared_memory=options.shared_memory,
        binding_conditions=BindingConditions(options.binding_conditions),
        reorder=options.reorder,
    )


def _log_to(screen: Terminal, options: Options) -> None:
    level = logging.getLevelNamesMapping()[options.log_level.upper()]
    set_up_logging(LogFormat(options.log_format), level, screen.err)


def _run(options: Options, file: Path, cluster: InCluster | None) -> int:
    config = RunConfig(
        file=file,
        cluster=cluster,
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
