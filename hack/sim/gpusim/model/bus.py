"""The PCI bus: which functions and drivers there are, and who is bound to whom (drivers/base/bus.c)."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass

from gpusim.model import iommu, kstrto
from gpusim.model.faults import Operation
from gpusim.model.kernel import Kernel
from gpusim.model.pci import Binding, PciFunction
from gpusim.model.tree import stored, write_only


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A PCI driver."""

    name: str
    matches: Callable[[PciFunction], bool]
    """Whether the id table has this function."""
    bind: Callable[[PciFunction], Binding]
    """The probe function. Raises OSError to refuse."""


class PciBus:
    """bus/pci with its devices and drivers."""

    def __init__(self, kernel: Kernel, *, with_iommu: bool) -> None:
        self.kernel = kernel
        self._iommu = with_iommu
        self._functions: dict[str, PciFunction] = {}
        self._drivers: dict[str, Driver] = {}
        self._autoprobe = True
        self._lock = threading.Lock()
        tree = kernel.tree
        tree.add_directory("bus/pci/devices")
        tree.add_directory("bus/pci/drivers")
        tree.add("bus/pci/drivers_probe", write_only(self._store_probe))
        tree.add("bus/pci/drivers_autoprobe", stored(lambda: int(self._autoprobe), self._store_autoprobe))

    def function(self, address: str) -> PciFunction | None:
        with self._lock:
            return self._functions.get(address)

    @property
    def functions(self) -> tuple[PciFunction, ...]:
        with self._lock:
            return tuple(self._functions.values())

    def register(self, driver: Driver) -> None:
        """Load a driver: its directory with bind and unbind."""
        self._drivers[driver.name] = driver
        directory = f"bus/pci/drivers/{driver.name}"
        self.kernel.tree.add(f"{directory}/bind", write_only(lambda data: self._store_bind(driver, data)))
        self.kernel.tree.add(f"{directory}/unbind", write_only(lambda data: self._store_unbind(driver, data)))

    def add(self, function: PciFunction, *, group: int | None) -> None:
        """A function appears. It is not probed yet."""
        with self._lock:
            self._functions[str(function)] = function
        function.add()
        if self._iommu:
            iommu.join(self.kernel, function, group)

    def remove(self, function: PciFunction) -> None:
        """A function goes: unbound, then removed. No-op if it is gone already."""
        with function.lock:
            if not function.present:
                return
            self.release(function)
            iommu.leave(self.kernel, function)
            with self._lock:
                del self._functions[str(function)]
            function.remove()

    def probe(self, function: PciFunction) -> None:
        """Let the bus find a driver. A probe that fails leaves the function without one, as in the kernel."""
        with function.lock:
            if function.driver is not None:
                return
            for driver in self._drivers.values():
                if not self._fits(driver, function):
                    continue
                try:
                    self.attach(driver.name, function)
                except OSError:
                    continue
                return

    def attach(self, name: str, function: PciFunction) -> None:
        """Bind to this driver, whatever its id table says. Raises what its probe raises; EBUSY if bound."""
        with function.lock:
            if not function.present:
                kstrto.fail(errno.ENODEV)
            if function.driver is not None:
                kstrto.fail(errno.EBUSY)
            self._probe_faults(function)
            driver, tree = self._drivers[name], self.kernel.tree
            if function.physical is not None:
                self.kernel.wait(self.kernel.delays.probe)
            tree.add_link(f"{function.path}/driver", f"bus/pci/drivers/{name}")
            tree.add_link(f"bus/pci/drivers/{name}/{function}", function.path)
            try:
                function.binding = driver.bind(function)
            except OSError:
                self._unlink(name, function)
                raise
            function.driver = name
            function.emit("bind")

    def release(self, function: PciFunction) -> None:
        """Unbind from whatever driver it has; no-op without one."""
        with function.lock:
            if function.binding is None or function.driver is None:
                return
            self._unlink(function.driver, function)
            if function.sriov is not None:
                function.sriov.disable()
            function.binding.remove()
            function.binding = None
            function.driver = None
            function.emit("unbind")

    def _unlink(self, driver: str, function: PciFunction) -> None:
        self.kernel.tree.remove(f"{function.path}/driver")
        self.kernel.tree.remove(f"bus/pci/drivers/{driver}/{function}")

    def _probe_faults(self, function: PciFunction) -> None:
        concerned = function.physical or function
        rule = self.kernel.faults.match(Operation.PROBE, concerned.path, function.vf)
        if rule is None:
            return
        try:
            self.kernel.faults.strike(rule, str(function))
        finally:
            self.kernel.faults.finish(rule)

    def _fits(self, driver: Driver, function: PciFunction) -> bool:
        if function.override is not None:
            return function.override == driver.name
        return driver.matches(function)

    def _named(self, data: bytes) -> PciFunction:
        function = self.function(data.removesuffix(b"\n").decode("ascii", "replace"))
        if function is None:
            kstrto.fail(errno.ENODEV)
        return function

    def _store_bind(self, driver: Driver, data: bytes) -> None:
        function = self._named(data)
        if not self._fits(driver, function):
            kstrto.fail(errno.ENODEV)
        self.attach(driver.name, function)

    def _store_unbind(self, driver: Driver, data: bytes) -> None:
        function = self._named(data)
        with function.lock:
            if function.driver != driver.name:
                kstrto.fail(errno.ENODEV)
            self.release(function)

    def _store_probe(self, data: bytes) -> None:
        self.probe(self._named(data))

    def _store_autoprobe(self, data: bytes) -> None:
        self._autoprobe = kstrto.switch(data)

    @property
    def autoprobe(self) -> bool:
        """Whether functions that appear later are probed (drivers_autoprobe)."""
        return self._autoprobe
