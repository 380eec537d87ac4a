"""Drivers as they come and go: sockets in plugins_registry, and the conversation over each."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubesim.actors.kubelet import messages
from kubesim.actors.kubelet.messages import PluginInfo, registration_status
from kubesim.actors.kubelet.plugins import (
    CallFailed,
    Connection,
    Plugin,
    driver_connection,
    registration_connection,
)
from kubesim.actors.kubelet.versions import Rules, Unsupported, higher_than
from kubesim.actors.kubelet.wire import Malformed
from kubesim.actors.timing import Timing

PLUGIN_TYPE = "DRAPlugin"
HINT = "RegisterPlugin error -- "


class Listener(Protocol):
    """Who is told of drivers, from any thread."""

    def registered(self, plugin: Plugin) -> None: ...

    def deregistered(self, plugin: Plugin) -> None: ...


class Refused(Exception):
    """The kubelet does not want a driver; the driver is told this text."""


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """The last try at a path: when, and how long to wait after it. It outlives the socket."""

    at: float
    back_off: float


@dataclass(slots=True, kw_only=True)
class _Socket:
    """A socket that is there. `identity` tells it from another one made later at the same path."""

    identity: tuple[int, int]
    attempt: threading.Thread | None = None
    plugin: Plugin | None = None


class Registry:
    """Watches a directory for registration sockets."""

    def __init__(
        self,
        directory: Path,
        rules: Rules,
        timing: Timing,
        *,
        clock: Callable[[], float],
        listener: Listener,
    ) -> None:
        self._directory = directory
        self._rules = rules
        self._timing = timing
        self._clock = clock
        self._listener = listener
        self._sockets: dict[Path, _Socket] = {}
        self._attempts: dict[Path, _Attempt] = {}

    def look(self) -> None:
        """Compare the directory with what is known. Called every `registry_look` seconds."""
        present = self._present()
        for path in [path for path, known in self._sockets.items() if known.identity != present.get(path)]:
            self._drop(self._sockets.pop(path))
        for path, identity in present.items():
            known = self._sockets.setdefault(path, _Socket(identity=identity))
            busy = known.attempt is not None and known.attempt.is_alive()
            if known.plugin is None and not busy and self._due(path):
                known.attempt = threading.Thread(target=self._try, args=(path, known), daemon=True)
                known.attempt.start()

    def close(self) -> None:
        """Forget all drivers, and wait for conversations under way. Nobody is told."""
        for known in self._sockets.values():
            if known.attempt is not None:
                known.attempt.join()
            if known.plugin is not None:
                known.plugin.connection.close()
        self._sockets.clear()

    def _present(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for path in sorted(self._directory.glob("*.sock")):
            if not path.name.startswith("."):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                found[path] = (status.st_ino, status.st_ctime_ns)
        return found

    def _due(self, path: Path) -> bool:
        last = self._attempts.get(path)
        return last is None or self._clock() >= last.at + last.back_off

    def _drop(self, known: _Socket) -> None:
        if known.attempt is not None:
            known.attempt.join()
        if known.plugin is not None:
            known.plugin.connection.close()
            self._listener.deregistered(known.plugin)

    def _try(self, path: Path, known: _Socket) -> None:
        """One conversation; what fails is tried again later, ever more rarely."""
        plugin = None
        connection = registration_connection(path, self._rules)
        try:
            plugin = self._conversation(path, connection)
        except Refused as refusal:
            self._tell(connection, f"{refusal}")
        except (CallFailed, Malformed):
            pass  # the kubelet says nothing to a driver that can't be asked
        finally:
            connection.close()
        before = self._attempts.get(path)
        if plugin is not None:
            self._attempts.pop(path, None)
            known.plugin = plugin
            return
        longer = self._timing.first_back_off if before is None else before.back_off * 2
        limited = min(longer, self._timing.longest_back_off)
        self._attempts[path] = _Attempt(at=self._clock(), back_off=limited)

    def _registered(self, driver: str) -> tuple[tuple[str, ...], ...]:
        """The versions of a driver's instances that are registered."""
        plugins = (known.plugin for known in tuple(self._sockets.values()))
        return tuple(each.versions for each in plugins if each is not None and each.driver == driver)

    def _tell(self, connection: Connection, error: str) -> None:
        with contextlib.suppress(CallFailed):  # it is refused either way
            connection.call(messages.NOTIFY, registration_status(error), self._timing.notification)

    def _conversation(self, path: Path, connection: Connection) -> Plugin | None:
        """Raises Refused, CallFailed, Malformed."""
        info = PluginInfo.decode(connection.call(messages.GET_INFO, b"", self._timing.information))
        if info.type != PLUGIN_TYPE:
            raise Refused(f"{HINT}no handler registered for plugin type: {info.type} at socket {path}")
        endpoint = Path(info.endpoint) if info.endpoint else path
        try:
            service = self._rules.service(info.supported_versions)
            if self._rules.compares_versions:
                higher_than(self._registered(info.name), info.supported_versions)
        except Unsupported as error:
            why = self._rules.refusal(info.name, endpoint, error)
            raise Refused(f"{HINT}plugin validation failed with err: {why}") from error
        plugin = Plugin(
            driver=info.name,
            endpoint=endpoint,
            versions=info.supported_versions,
            service=service,
            connection=driver_connection(endpoint, self._rules),
        )
        self._listener.registered(plugin)
        try:
            connection.call(messages.NOTIFY, registration_status(), self._timing.notification)
        except CallFailed:
            plugin.connection.close()
            self._listener.deregistered(plugin)
            raise
        return plugin
