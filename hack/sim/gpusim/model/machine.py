"""The machine: its PCI functions after boot, and what can happen to them."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping

from gpusim.model.address import PciAddress
from gpusim.model.bus import PciBus
from gpusim.model.delays import INSTANT, Delays
from gpusim.model.drivers import register_all
from gpusim.model.faults import FaultRule, Faults
from gpusim.model.gpu import GpuBinding
from gpusim.model.kernel import Kernel
from gpusim.model.nodes import DeviceNodes
from gpusim.model.pci import Bar, Identity, Link, PciFunction
from gpusim.model.quotas import MIB
from gpusim.model.sriov import Sriov
from gpusim.model.tree import Attribute, Tree, constant
from gpusim.model.uevent import Listener
from gpusim.spec import GpuSpec, MachineSpec, OtherSpec

_REGISTERS = 16 * MIB
_BRIDGE_LINK = Link("16.0 GT/s PCIe", 8)
_BRIDGE = Identity(vendor=0x8086, device=0x4FA4, pci_class=0x060400)


class Machine:
    """A simulated machine, booted. All methods may be called from several threads.

    `sleep` is called for delays; `seed` makes faults with a probability and boot ids repeatable.
    """

    def __init__(
        self,
        spec: MachineSpec,
        *,
        delays: Delays = INSTANT,
        seed: int = 0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._spec = spec
        self._known = {gpu.address: gpu for gpu in spec.gpus}
        self._plugged = dict(self._known)
        self._random = random.Random(seed)
        self._faults = Faults(seed=seed, sleep=sleep, run=self._run_command)
        self._kernel = Kernel(delays=delays, faults=self._faults, sleep=sleep)
        self._reboot_listeners: list[Callable[[], None]] = []
        self._commands: Callable[[str], None] | None = None
        self._lock = threading.RLock()
        self._boot()

    # What can be seen

    @property
    def spec(self) -> MachineSpec:
        return self._spec

    @property
    def sysfs(self) -> Tree:
        """The direct face: read, write, listdir, readlink, exists below the sysfs root."""
        return self._kernel.tree

    @property
    def nodes(self) -> DeviceNodes:
        """Device nodes and links below the devfs root."""
        return self._kernel.nodes

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call with every uevent from now on, in the kernel's order; it must neither block nor cause events.

        Returns the function that ends it.
        """
        return self._kernel.listen(listener)

    def on_reboot(self, listener: Callable[[], None]) -> None:
        """Call after every reboot, when the new boot id is set."""
        self._reboot_listeners.append(listener)

    # What can happen

    def add_faults(self, *rules: FaultRule) -> None:
        """Put fault rules into force, after those that are."""
        self._faults.add(*rules)

    def clear_faults(self) -> None:
        """Drop all fault rules."""
        self._faults.clear()

    def serve_commands(self, run: Callable[[str], None]) -> None:
        """What runs the `then` commands of fault rules."""
        self._commands = run

    def unplug(self, address: str) -> None:
        """A GPU or other function is gone, with its VFs. Waits for a store that holds its lock. KeyError."""
        self._bus.remove(self._function(address))
        self._plugged.pop(address, None)

    def plug(self, gpu: str | GpuSpec) -> None:
        """A GPU is back (by address), or a new one arrives; it is bound as after boot.

        Raises KeyError for an address that never was a GPU's, ValueError if something is there.
        """
        with self._lock:
            spec = self._known.get(gpu) if isinstance(gpu, str) else gpu
            if spec is None:
                raise KeyError(f"this machine has no GPU {gpu}")
            if self._bus.function(spec.address) is not None:
                raise ValueError(f"{spec.address} is plugged in")
            self._known[spec.address] = self._plugged[spec.address] = spec
            self._add_gpu(spec)

    def vanish(self, address: str, vf: int) -> None:
        """One virtual function (from 0) falls off the bus; sriov_numvfs and its virtfn link stay. KeyError."""
        sriov = self._function(address).sriov
        functions = sriov.functions if sriov is not None else ()
        if vf >= len(functions):
            raise KeyError(f"{address} has no virtual function {vf}")
        self._bus.remove(functions[vf])

    def wedge(self, address: str, methods: str | None = None) -> None:
        """The driver gives a GPU up: WEDGED=<methods>. Enabling VFs fails until it is bound anew. KeyError."""
        binding = self._gpu_binding(address)
        binding.wedged = True
        default = "rebind,bus-reset" if self._function(address).driver == "xe" else "rebind"
        self.report(address, {"WEDGED": methods or default})

    def report(self, address: str, variables: Mapping[str, str]) -> None:
        """The driver says something: a `change` event of the card with these variables. KeyError."""
        drm = self._gpu_binding(address).drm
        if drm is None:
            raise KeyError(f"{address} has no DRM device")
        drm.report(variables)

    def foreign_numvfs(self, address: str, count: int) -> None:
        """Somebody else writes sriov_numvfs, through 0 if need be. Raises OSError as the store does."""
        path = f"{self._function(address).path}/sriov_numvfs"
        if count and int(self.sysfs.read(path)):
            self.sysfs.write(path, "0")
        self.sysfs.write(path, str(count))

    def set_attribute(self, path: str, text: str) -> None:
        """Make an attribute read as this from now on (a sensor, a counter), adding it if it is not there."""
        real = self.sysfs.realpath(path) if self.sysfs.exists(path) else path.strip("/")
        before = self.sysfs.find(real)
        if isinstance(before, Attribute):
            content = f"{text}\n".encode()
            self.sysfs.add(real, Attribute(mode=before.mode, show=lambda: content, store=before.store))
        else:
            self.sysfs.add(real, constant(text))

    def reboot(self) -> None:
        """Boot anew with what is plugged in: VFs and quotas are gone, numbers are given out again.

        Waits for stores in flight. Listeners hear the events of the boot; fault rules stay in force.
        """
        with self._lock:
            for function in self._bus.functions:
                with function.lock:
                    function.present = False
            self.sysfs.clear()
            for path in self.nodes.snapshot():
                self.nodes.remove(path)
            self._kernel.numbers.reset()
            self._boot()
        for listener in self._reboot_listeners:
            listener()

    # Boot

    def _boot(self) -> None:
        self.boot_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        self._bus = PciBus(self._kernel, with_iommu=self._spec.iommu)
        for directory in ("class/drm", "class/mei", "class/vfio", "class/hwmon", "dev/char", "kernel"):
            self.sysfs.add_directory(directory)
        self.sysfs.add("class/drm/version", constant("drm 1.1.0 20060810"))
        register_all(self._kernel, self._bus)
        for other in self._spec.others:
            self._add_other(other)
        gpus = sorted(self._plugged.values(), key=lambda gpu: PciAddress.parse(gpu.address))
        for gpu in gpus:
            self._add_gpu(gpu)
        for gpu in gpus:
            if gpu.vfs_at_boot:
                self.foreign_numvfs(gpu.address, gpu.vfs_at_boot)

    def _add_gpu(self, spec: GpuSpec) -> None:
        function = PciFunction(
            self._kernel,
            address=PciAddress.parse(spec.address),
            parent=self._add_bridges(spec.address, spec.bridges),
            identity=Identity(
                vendor=0x8086,
                device=spec.device,
                pci_class=spec.pci_class,
                subsystem_vendor=spec.subsystem_vendor,
                subsystem_device=spec.subsystem_device,
                revision=spec.revision,
            ),
            gpu=spec,
            numa_node=spec.numa_node,
            bars=_bars(spec),
            link=Link(spec.link_speed, spec.link_width),
        )
        self._bus.add(function, group=spec.iommu_group)
        if spec.sriov is not None:
            function.sriov = Sriov(self._bus, function, spec, spec.sriov)
        if spec.boot_driver is not None and self._bus.autoprobe:
            # As in the kernel, a probe that fails leaves the function without a driver.
            with contextlib.suppress(OSError):
                self._bus.attach(spec.boot_driver, function)

    def _add_other(self, spec: OtherSpec) -> None:
        identity = Identity(vendor=spec.vendor, device=spec.device, pci_class=spec.pci_class)
        function = PciFunction(
            self._kernel,
            address=PciAddress.parse(spec.address),
            parent=self._add_bridges(spec.address, spec.bridges),
            identity=identity,
        )
        self._bus.add(function, group=None)

    def _add_bridges(self, address: str, bridges: tuple[str, ...]) -> str:
        """Make the bridges that are not there; returns the directory of the last."""
        first = PciAddress.parse(bridges[0] if bridges else address)
        path = f"devices/pci{first.domain:04x}:{first.bus:02x}"
        for bridge in bridges:
            if self._bus.function(bridge) is None:
                function = PciFunction(
                    self._kernel,
                    address=PciAddress.parse(bridge),
                    parent=path,
                    identity=_BRIDGE,
                    link=_BRIDGE_LINK,
                )
                self._bus.add(function, group=None)
            path = f"{path}/{bridge}"
        return path

    def _function(self, address: str) -> PciFunction:
        function = self._bus.function(address)
        if function is None:
            raise KeyError(f"no PCI function {address}")
        return function

    def _gpu_binding(self, address: str) -> GpuBinding:
        binding = self._function(address).binding
        if not isinstance(binding, GpuBinding):
            raise KeyError(f"{address} is not bound to a graphics driver")
        return binding

    def _run_command(self, command: str) -> None:
        if self._commands is None:
            raise RuntimeError(f"nothing serves the command {command!r}")
        self._commands(command)


def _bars(spec: GpuSpec) -> tuple[Bar, ...]:
    """Registers, and a memory window as large as the next power of two unless the spec says otherwise."""
    registers = Bar(0, _REGISTERS)
    if not spec.vram_mib:
        return registers, Bar(2, 256 * MIB)
    window = spec.bar2_mib or 1 << (spec.vram_mib - 1).bit_length()
    return registers, Bar(2, window * MIB)
