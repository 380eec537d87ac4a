"""One driver at the kubelet: its two sockets, and the sign that it is registered."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from plugin import plugin_metrics
from plugin.places import Places
from plugin.registered import RegisteredSign
from plugin.registration import Registration
from plugin.services import Offer, Service
from plugin.sockets import SocketServer, check_length, remove_dead
from reconciler.runtime.metrics import Metrics

MOST_CALLS = 128
"""Calls at the same time. Each may wait 40 s, and those of other pods must not wait for it."""

_REGISTRATION_CALLS = 2
_SHORT = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketPaths:
    """Where a driver is served, and where the kubelet finds that out.

    An ``instance`` (a pod's UID) keeps two plugins of one driver apart, for updates without a gap: kubelets from
    1.33 on know several of one driver.
    """

    dra: Path
    registration: Path

    @classmethod
    def of(cls, places: Places, driver: str, instance: str) -> SocketPaths:
        """The paths, which may be too long for sockets: so only the beginning of a UID is used."""
        suffix = f"-{instance[:_SHORT]}" if instance else ""
        return cls(
            dra=places.plugin_dir(driver) / f"dra{suffix}.sock",
            registration=places.registry_dir / f"{driver}{suffix}-reg.sock",
        )


class Driver:
    """A driver while it is offered to the kubelet. All methods but those given to servers are for one thread."""

    def __init__(
        self, name: str, services: tuple[Service, ...], paths: SocketPaths, sign: RegisteredSign, metrics: Metrics
    ) -> None:
        self.name = name
        self.services = services
        self._paths = paths
        self._sign = sign
        self._metrics = metrics
        self._registered = False
        self._dra: SocketServer | None = None
        self._retired: SocketServer | None = None
        self._registration: SocketServer | None = None
        for path in (paths.dra, paths.registration):
            check_length(path.with_name(f".{path.name}"))

    @property
    def registered(self) -> bool:
        """The kubelet said so last."""
        return self._registered

    def ensure(self, offer: Offer, grace: float) -> None:
        """Serve, and serve anew what somebody removed: a kubelet's directories may be cleared. Raises OSError.

        The kubelet looks for the driver's own socket as soon as it finds that for registration, so it comes first.
        """
        if self._dra is None or not self._dra.in_place():
            self._serve_calls(offer, grace)
        if self._registration is None or not self._registration.in_place():
            self._serve_registration()
        if self._registered and not self._sign.shown:
            self._sign.show()

    def withdraw(self) -> None:
        """Have the kubelet forget us, which it does within a second. Calls go on being answered."""
        if self._registration is not None:
            self._registration.stop(0)
            self._registration = None
        self._told(False)

    def stop(self, grace: float) -> None:
        """Withdraw, and wait up to ``grace`` seconds for calls under way."""
        self.withdraw()
        for server in (self._dra, self._retired):
            if server is not None:
                server.stop(grace)
        self._dra = self._retired = None

    def _serve_calls(self, offer: Offer, grace: float) -> None:
        directory = self._paths.dra.parent
        directory.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        os.chmod(directory, 0o700)
        before = self._dra
        self._dra = SocketServer(
            self._paths.dra,
            (service.handler(offer) for service in self.services),
            calls=MOST_CALLS,
            name=f"{self.name}-call",
        )
        self._dra.start()
        if before is not None:
            _log.warning("the driver's socket was gone: made it anew", extra={"driver": self.name})
            before.retire(grace)
            self._retired = before

    def _serve_registration(self) -> None:
        versions = tuple(dict.fromkeys(each for service in self.services for each in service.versions))
        registration = Registration(self.name, self._paths.dra, versions, self._told)
        self._paths.registration.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        before = self._registration
        self._registration = SocketServer(
            self._paths.registration,
            (registration.handler(),),
            calls=_REGISTRATION_CALLS,
            name=f"{self.name}-registration",
        )
        self._registration.start()
        if before is not None:
            before.stop(0)

    def _told(self, registered: bool) -> None:
        self._registered = registered
        self._metrics.gauge(plugin_metrics.REGISTERED, float(registered), driver=self.name)
        try:
            if registered:
                self._sign.show()
            else:
                self._sign.hide()
        except OSError as error:
            # Tried again by ensure(). The kubelet's call must not fail of it: that would end the registration.
            _log.error("can't show that the driver is registered: %s", error, extra={"driver": self.name})


def clear_dead(places: Places, driver: str) -> None:
    """Remove sockets of earlier instances of this driver that were killed. Errors are only logged."""
    try:
        for directory, prefix in ((places.registry_dir, driver), (places.plugin_dir(driver), "dra")):
            if directory.is_dir():
                ours = [
                    n
                    for n in os.listdir(directory)
                    if n.startswith((prefix, f".{prefix}")) and n.endswith(".sock")
                ]
                for name in remove_dead(directory, ours):
                    _log.info("removed a dead socket", extra={"path": str(directory / name)})
    except OSError as error:
        _log.warning("can't look for dead sockets: %s", error, extra={"driver": driver})
