"""The plugin as a process: what wakes it, and a clean end."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from plugin import plugin_metrics
from plugin.agent_status import AgentStatus, Seen
from plugin.clock import Clock
from plugin.confirming import Node
from plugin.driver import Driver, SocketPaths, clear_dead
from plugin.health_feed import HealthFeed
from plugin.marks import Marks
from plugin.node_calls import NodeCalls
from plugin.offering import Offering
from plugin.places import Places
from plugin.preparing import Preparations
from plugin.probing import LIVENESS, READINESS, ProbeServer
from plugin.registered import RegisteredSign
from plugin.server_file import ServerFile
from plugin.services import Offer, Service
from reconciler.runtime.files import read_bounded, sweep_temporaries
from reconciler.runtime.metrics import Listen, Metrics, open_metrics
from reconciler.runtime.signals import (
    After,
    Essentials,
    HardExit,
    block_signals,
    dump_stacks_on,
    wait_for_signals,
)
from reconciler.runtime.wakeups import WakeSet
from reconciler.runtime.watching import FileWatcher, Interest

GRACE_SECONDS = 60.0
"""How long calls under way may take at the end. None takes longer than the kubelet waits for it: 45 s."""

_STOP_SECONDS = 5.0
_LOOK_SECONDS = 10.0
_POLL_SECONDS = 0.2
"""How often to look where the kernel does not tell of changes."""

_RETRY_SECONDS = 1.0
_LONGEST_BOOT_ID = 128

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConfig:
    """What to run. ``instance`` tells this plugin's sockets from another one's beside it; empty: no other."""

    node_name: str
    places: Places
    instance: str = ""
    probes: Listen | None = None
    metrics: Listen | None = None
    grace: float = GRACE_SECONDS
    clock: Clock = field(default_factory=Clock)


def run_plugin(config: PluginConfig) -> int:
    """Serve the kubelet until SIGTERM or SIGINT. Returns the process's exit status.

    Raises OSError where our directories, the boot's id or a port can't be had.
    """
    block_signals()
    dump_stacks_on()
    essentials = Essentials()
    with contextlib.ExitStack() as closing:
        metrics = open_metrics(plugin_metrics.DECLARED, config.metrics)
        closing.callback(metrics.close)
        plugin = Plugin(config, metrics)
        if config.probes is not None:
            checks = {"": plugin.ready, READINESS: plugin.ready, LIVENESS: lambda: True}
            closing.callback(ProbeServer(config.probes, checks).close)
        gc.collect()
        gc.freeze()
        os.umask(0o077)  # sockets are for root alone from their first moment
        plugin.start(essentials)
        wait_for_signals(
            {
                signal.SIGTERM: lambda: After.END,
                signal.SIGINT: lambda: After.END,
                signal.SIGHUP: lambda: After.GO_ON,
            }
        )
        essentials.expect_end()
        exit_by_force = HardExit(config.grace + _STOP_SECONDS, status=1)
        plugin.stop()
        essentials.join(_STOP_SECONDS)
        exit_by_force.cancel()
    if essentials.failed is not None:
        _log.critical("ended: %s", essentials.failed)
        return 1
    return 0


class Plugin:
    """The parts of the plugin and their two threads: one follows the status, the other keeps the sockets."""

    def __init__(self, config: PluginConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        places = config.places
        for directory in (places.status_dir, places.marks_dir, places.lock_dir):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not config.instance:  # the only one here, so nobody else is writing
            sweep_temporaries(places.marks_dir)
        boot_id = read_bounded(places.boot_id_file, _LONGEST_BOOT_ID).decode().strip()
        node = Node(pool=config.node_name, boot_id=boot_id)
        self._status = AgentStatus(places.status_file, self._status_changed)
        self._preparations = Preparations(
            node, Marks(places.marks_dir), self._status, config.clock, lambda: secrets.token_hex(8)
        )
        self._offering = Offering(
            Offer(
                calls=NodeCalls(self._preparations, metrics),
                health=HealthFeed(self._status, node, config.clock),
            ),
            self._status,
            ServerFile(places.server_file),
            self._make_driver,
            lambda driver: clear_dead(places, driver),
            grace=config.grace,
        )
        self._status_wakes = WakeSet()
        self._socket_wakes = WakeSet()
        self._watcher = FileWatcher(self._interests())
        self._stopping = threading.Event()

    def ready(self) -> bool:
        """Registered with the kubelet."""
        return self._offering.ready

    def start(self, essentials: Essentials) -> None:
        """Start the threads."""
        self._status.refresh()
        essentials.start("status", self._follow_status)
        essentials.start("sockets", self._keep_sockets)

    def stop(self) -> None:
        """Withdraw from the kubelet, wait for calls under way, end the threads."""
        self._socket_wakes.close()
        self._stopping.wait()
        self._status_wakes.close()
        self._watcher.stop()

    def _follow_status(self) -> None:
        while not self._status_wakes.closed:
            self._status.refresh()  # at once: calls are waiting
            watched = self._watcher.check()
            self._status.refresh()  # what changed before it was watched
            self._status_wakes.wait(_LOOK_SECONDS if watched else _POLL_SECONDS)

    def _keep_sockets(self) -> None:
        try:
            while not self._socket_wakes.closed:
                self._watcher.check()
                well = self._offering.step()
                self._socket_wakes.wait(_LOOK_SECONDS if well else _RETRY_SECONDS)
        finally:
            self._offering.stop()
            self._stopping.set()

    def _status_changed(self, seen: Seen) -> None:
        self._preparations.status_changed(seen)
        if seen.number == 1:
            self._socket_wakes.wake("status")

    def _make_driver(self, name: str, services: tuple[Service, ...]) -> Driver:
        places, instance = self._config.places, self._config.instance
        owner = f"{socket.gethostname()} {instance}".strip()
        sign = RegisteredSign(places.registered_lock(name), owner=owner)
        return Driver(name, services, SocketPaths.of(places, name, instance), sign, self._metrics)

    def _interests(self) -> tuple[Interest, ...]:
        places = self._config.places

        def waking(wakes: WakeSet, topic: str) -> Callable[[], None]:
            return lambda: wakes.wake(topic)

        sockets = waking(self._socket_wakes, "sockets")
        status_name, server_name = frozenset({places.status_file.name}), frozenset({places.server_file.name})
        return (
            Interest(directory=places.status_dir, names=status_name, wake=waking(self._status_wakes, "status")),
            Interest(directory=places.status_dir, names=server_name, wake=waking(self._socket_wakes, "server")),
            Interest(directory=places.registry_dir, names=None, wake=sockets),
            Interest(directory=places.kubelet / "plugins", names=None, wake=sockets),
        )
