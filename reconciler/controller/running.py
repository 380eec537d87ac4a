"""The controller as a process: signals, probes, metrics, and a clean end."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import threading
import time
from dataclasses import dataclass

from reconciler.controller.controller import Controller, ControllerSettings
from reconciler.controller.controller_metrics import DECLARED
from reconciler.runtime.kube.config import Cluster
from reconciler.runtime.kube.connecting import connect
from reconciler.runtime.metrics import Listen, open_metrics
from reconciler.runtime.probes import Probes
from reconciler.runtime.signals import After, HardExit, block_signals, dump_stacks_on, wait_for_signals
from state.profiles import ProfileTable

STOP_SECONDS = 8.0
"""How long a request under way gets to end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """What to run. Without ``probes`` or ``metrics`` nothing is served there."""

    cluster: Cluster
    settings: ControllerSettings
    probes: Listen | None = None
    metrics: Listen | None = None


def _calm_garbage_collection() -> None:
    """Keep the collector away from what lives as long as the process, and from searching the caches all the time.

    By default every 700 new objects may have all others searched: of no use where hardly anything is a cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class _Crashes:
    """The first thread that died of a bug; it ends the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first: BaseException | None = None

    def note(self, error: BaseException) -> None:
        with self._lock:
            if self.first is None:
                self.first = error
                os.kill(os.getpid(), signal.SIGTERM)


def run_controller(config: ControllerConfig, table: ProfileTable) -> int:
    """Run until SIGTERM or SIGINT; returns the process's exit status.

    Raises OSError where a port can't be had, and ConfigError where the connection's configuration is at fault.
    """
    block_signals()
    dump_stacks_on()
    crashes = _Crashes()
    with contextlib.ExitStack() as closing:
        metrics = open_metrics(DECLARED, config.metrics)
        closing.callback(metrics.close)
        client = connect(config.cluster, metrics=metrics)
        controller = Controller(
            client,
            table,
            config.settings,
            metrics=metrics,
            on_crash=crashes.note,
            clock=time.monotonic,
            rng=random.Random(),
        )
        if config.probes is not None:
            checks = {"/healthz": lambda: "", "/readyz": controller.not_ready}
            closing.callback(Probes(config.probes, checks).close)
        _calm_garbage_collection()
        controller.start()
        wait_for_signals({signal.SIGTERM: lambda: After.END, signal.SIGINT: lambda: After.END})
        exit_by_force = HardExit(STOP_SECONDS, status=1)
        controller.stop()
        exit_by_force.cancel()
    if crashes.first is not None:
        _log.critical("ended: %r", crashes.first)
        return 1
    return 0
