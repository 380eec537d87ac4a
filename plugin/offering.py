"""Which drivers are offered to the kubelet: as server.json says, once the node agent is heard of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from plugin.agent_status import AgentStatus
from plugin.driver import Driver
from plugin.server_file import ServerFile
from plugin.services import Offer, Service, chosen
from state.server_info import ServerInfo
from state.server_rows import EVERY_DRIVER

_log = logging.getLogger(__name__)

MakeDriver = Callable[[str, tuple[Service, ...]], Driver]


class Offering:
    """Keeps drivers served and registered. For one thread, but for ``ready``."""

    def __init__(
        self,
        offer: Offer,
        status: AgentStatus,
        server: ServerFile,
        make_driver: MakeDriver,
        clear: Callable[[str], None],
        *,
        grace: float,
    ) -> None:
        self._offer = offer
        self._status = status
        self._server = server
        self._make_driver = make_driver
        self._clear = clear
        self._grace = grace
        self._info: ServerInfo | None = None
        self._drivers: tuple[Driver, ...] = ()
        self._complaints: dict[str, str] = {}

    @property
    def ready(self) -> bool:
        """The kubelet has every driver registered, and there is one."""
        drivers = self._drivers
        return bool(drivers) and all(driver.registered for driver in drivers)

    def step(self) -> bool:
        """Do what is to be done now. False if something failed and should be tried again soon."""
        info = self._server.read()
        well = True
        if info is not None and self._status.seen is not None and info != self._info:
            well = self._try("", partial(self._change, info))
        for driver in self._drivers:
            well &= self._try(driver.name, partial(driver.ensure, self._offer, self._grace))
        return well

    def stop(self) -> None:
        """Withdraw all drivers, and wait for calls under way."""
        drivers, self._drivers = self._drivers, ()
        for driver in drivers:
            driver.withdraw()
        self._offer.health.stop()
        for driver in drivers:
            driver.stop(self._grace)

    def _try(self, driver: str, do: Callable[[], None]) -> bool:
        """Do something for one driver, whose failure is nothing to the others. What went wrong is said once."""
        try:
            do()
        except OSError as error:
            if self._complaints.get(driver) != str(error):
                self._complaints[driver] = str(error)
                _log.error("can't serve the kubelet: %s", error)
            return False
        self._complaints.pop(driver, None)
        return True

    def _change(self, info: ServerInfo) -> None:
        """Offer other drivers, or other services. What stays the same is left alone."""
        wanted = {name: chosen(info.grpc_services[name]) for name in info.driver_names}
        kept = tuple(driver for driver in self._drivers if wanted.get(driver.name) == driver.services)
        for driver in self._drivers:
            if driver not in kept:
                driver.stop(self._grace)
        known = {driver.name for driver in kept}
        self._drivers = kept
        # Also those of other rows: a cluster may have been upgraded since a plugin was killed.
        for name in {*EVERY_DRIVER, *wanted} - known:
            self._clear(name)
        for name, services in wanted.items():
            if name in known:
                continue
            if not services:
                asked = ", ".join(info.grpc_services[name])
                _log.error("none of the services asked for can be served: %s", asked, extra={"driver": name})
                continue
            self._drivers += (self._make_driver(name, services),)
            _log.info("serving %s", ", ".join(one.name for one in services), extra={"driver": name})
        self._info = info
