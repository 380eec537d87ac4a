"""SR-IOV of a physical function as drivers/pci/iov.c does it."""

from __future__ import annotations

import errno

from gpusim.model import kstrto
from gpusim.model.bus import PciBus
from gpusim.model.faults import Operation
from gpusim.model.pci import UNKNOWN_LINK, Bar, Binding, PciFunction
from gpusim.model.tree import constant, stored
from gpusim.spec import GpuSpec, SriovSpec

_VF_REGISTERS = 16 << 20
OFFSET = 1
STRIDE = 1


class Sriov:
    """The capability of one physical function, and its virtual functions."""

    def __init__(self, bus: PciBus, physical: PciFunction, gpu: GpuSpec, spec: SriovSpec) -> None:
        self._bus = bus
        self._kernel = bus.kernel
        self._physical = physical
        self._gpu = gpu
        self._total = spec.total
        self._autoprobe = True
        self._current = 0
        self._functions: tuple[PciFunction, ...] = ()
        tree, path = self._kernel.tree, physical.path
        tree.add(f"{path}/sriov_totalvfs", constant(spec.total))
        tree.add(f"{path}/sriov_offset", constant(OFFSET))
        tree.add(f"{path}/sriov_stride", constant(STRIDE))
        tree.add(f"{path}/sriov_vf_device", constant(f"{gpu.device:x}"))
        tree.add(f"{path}/sriov_vf_total_msix", constant(spec.total))
        tree.add(f"{path}/sriov_drivers_autoprobe", stored(lambda: int(self._autoprobe), self._store_autoprobe))
        tree.add(f"{path}/sriov_numvfs", stored(self._show, self._store, lock=physical.lock))

    @property
    def functions(self) -> tuple[PciFunction, ...]:
        """See VirtualFunctions."""
        return self._functions

    def _show(self) -> int:
        with self._physical.lock:
            return self._current

    def _store_autoprobe(self, data: bytes) -> None:
        self._autoprobe = kstrto.switch(data)

    def _store(self, data: bytes) -> None:
        try:
            count = kstrto.unsigned(data, 16)
        except OSError:
            kstrto.fail(errno.EINVAL)
        if count > self._total:
            kstrto.fail(errno.ERANGE)
        with self._physical.lock:
            if not self._physical.present:
                kstrto.fail(errno.ENODEV)
            if count == self._current:
                return
            binding = self._physical.binding
            if binding is None or not binding.supports_sriov:
                kstrto.fail(errno.ENOENT)
            if count and self._current:
                kstrto.fail(errno.EBUSY)
            if count:
                self._enable(binding, count)
            else:
                self.disable()

    def _enable(self, binding: Binding, count: int) -> None:
        kernel, physical = self._kernel, self._physical
        rule = kernel.faults.match(Operation.ENABLE, physical.path)
        try:
            if rule is not None:
                kernel.faults.strike(rule, str(physical))
                count = min(count, count if rule.vfs is None else rule.vfs)
            if not count:
                return
            binding.provision(count)
            kernel.wait(kernel.delays.enable)
            for index in range(count):
                self._add(index)
            physical.emit("change")
            binding.vfs_enabled(self._functions)
            self._current = count
        finally:
            if rule is not None:
                kernel.faults.finish(rule)

    def _add(self, index: int) -> None:
        physical, tree = self._physical, self._kernel.tree
        function = PciFunction(
            self._kernel,
            address=physical.address.plus(OFFSET + index * STRIDE),
            parent=physical.parent,
            identity=physical.identity,
            gpu=self._gpu,
            numa_node=physical.numa_node,
            bars=self._bars(),
            link=UNKNOWN_LINK,
            physical=physical,
            vf=index,
        )
        self._bus.add(function, group=None)
        self._functions += (function,)
        tree.add_link(f"{physical.path}/virtfn{index}", function.path)
        tree.add_link(f"{function.path}/physfn", physical.path)
        function.emit("change")
        if self._autoprobe and self._bus.autoprobe:
            self._bus.probe(function)

    def _bars(self) -> tuple[Bar, ...]:
        registers = Bar(0, _VF_REGISTERS)
        if not self._gpu.vram_mib:
            return (registers,)
        share = (self._gpu.vram_mib << 20) // max(self._total, 1)
        return registers, Bar(2, 1 << share.bit_length() - 1)

    def disable(self) -> None:
        """Remove all virtual functions, as a store of 0 or the driver's removal does. No-op if there are none."""
        with self._physical.lock:
            binding, count = self._physical.binding, self._current
            if not count or binding is None:
                return
            binding.vfs_disabling()
            for function in self._functions:
                self._kernel.tree.remove(f"{self._physical.path}/virtfn{function.vf}")
                self._kernel.tree.remove(f"{function.path}/physfn")
                self._bus.remove(function)
            self._functions = ()
            self._kernel.wait(self._kernel.delays.disable)
            self._kernel.wait(self._kernel.delays.reset * count)
            binding.vfs_disabled()
            self._current = 0
