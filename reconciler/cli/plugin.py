"""``plugin``: the kubelet's side of a node."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from plugin.places import Places
from plugin.running import PluginConfig, run_plugin
from reconciler.cli.options import Options
from reconciler.cli.problems import CommandError
from reconciler.cli.terminal import Terminal
from reconciler.runtime.files import FileRefused
from reconciler.runtime.logs import LogFormat, set_up_logging
from reconciler.runtime.metrics import Listen, parse_listen


def run_kubelet_plugin(options: Options, screen: Terminal) -> int:
    """Run until told to end. Logs go to stderr."""
    level = logging.getLevelNamesMapping()[options.log_level.upper()]
    set_up_logging(LogFormat(options.log_format), level, screen.err)
    config = PluginConfig(
        node_name=options.node_name,
        places=_places(options),
        instance=options.instance,
        probes=_listen(options.probes_listen),
        metrics=_listen(options.metrics_listen),
    )
    try:
        return run_plugin(config)
    except FileRefused as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        if error.filename is None:  # only listening fails like this
            raise CommandError(f"--probes-listen or --metrics-listen: {error.strerror or error}") from error
        raise


def _places(options: Options) -> Places:
    roots = options.roots
    places = Places(run=Path(roots.run), procfs=Path(roots.procfs))
    if not options.kubelet_root:
        return places
    return replace(places, kubelet=Path(options.kubelet_root).absolute())


def _listen(text: str) -> Listen | None:
    return parse_listen(text) if text else None
