"""``controller``: the cluster's side, one or several replicas of it."""

from __future__ import annotations

import errno
import logging
import os
import socket
import uuid
from pathlib import Path

from reconciler.cli.options import Options
from reconciler.cli.problems import CommandError
from reconciler.cli.terminal import Terminal
from reconciler.cli.version import version
from reconciler.controller.controller import ControllerSettings
from reconciler.controller.running import ControllerConfig, run_controller
from reconciler.node.tables import load_tables
from reconciler.runtime.kube.config import SERVICE_ACCOUNT, Cluster, ConfigError
from reconciler.runtime.logs import LogFormat, set_up_logging
from reconciler.runtime.metrics import Listen, parse_listen
from state.classic.spots import Policy, PolicyResource, PreferredAllocation

_ABOUT_ADDRESSES = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""What only listening can fail with; such errors name no file."""


def run_cluster_controller(options: Options, screen: Terminal) -> int:
    """Run until told to end. Logs go to stderr."""
    level = logging.getLevelNamesMapping()[options.log_level.upper()]
    set_up_logging(LogFormat(options.log_format), level, screen.err)
    config = ControllerConfig(
        cluster=Cluster(
            user_agent=f"gpu-reconciler/{version()} (controller)",
            kubeconfig=Path(options.kubeconfig) if options.kubeconfig else None,
            context=options.context or None,
        ),
        settings=ControllerSettings(
            lease_namespace=options.lease_namespace or _own_namespace(),
            identity=f"{socket.gethostname()}_{uuid.uuid4()}",
            policy=Policy(
                preferred=PreferredAllocation(options.preferred_allocation_policy),
                resource=PolicyResource(options.allocation_policy_resource),
            ),
        ),
        probes=_listen(options.probes_listen),
        metrics=_listen(options.metrics_listen),
    )
    try:
        return run_controller(config, load_tables(os.devnull).profiles)
    except ConfigError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        if error.errno in _ABOUT_ADDRESSES:
            raise CommandError(f"--probes-listen or --metrics-listen: {error.strerror}") from error
        raise


def _listen(text: str) -> Listen | None:
    return parse_listen(text) if text else None


def _own_namespace() -> str:
    """The namespace of the pod we are in, ``default`` outside of one."""
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except FileNotFoundError:
        return "default"
