"""xe's SR-IOV files: sriov_admin below the PCI function, and the same state below debugfs."""

from __future__ import annotations

from collections.abc import Callable

from gpusim.model import kstrto
from gpusim.model.kernel import Kernel
from gpusim.model.pci import PciFunction
from gpusim.model.tree import Attribute, shown, stored, write_only
from gpusim.model.xe_debugfs import XeDebugfs
from gpusim.model.xe_state import PRIORITIES, SCHEDULING, XeState
from gpusim.spec import GpuSpec


class XeProvisioning:
    """Profiles and quotas of one GPU."""

    def __init__(self, kernel: Kernel, physical: PciFunction, gpu: GpuSpec) -> None:
        if gpu.sriov is None:
            raise ValueError(f"{gpu.address}: no SR-IOV capability")
        self._kernel = kernel
        self._spec = gpu.sriov
        self._state = XeState(gpu, gpu.sriov.total)
        self._physical = physical
        self._root = f"{physical.path}/sriov_admin"
        self._has_vram = gpu.vram_mib > 0 and gpu.sriov.vram_quota
        if gpu.sriov.admin:
            self._build()
        self._debugfs = XeDebugfs(kernel, physical, self._state) if gpu.sriov.debugfs else None

    def provision(self, count: int) -> None:
        self._state.provision(count)

    def link(self, vfs: tuple[PciFunction, ...]) -> None:
        if self._spec.admin:
            for number, function in enumerate(vfs, start=1):
                self._kernel.tree.add_link(f"{self._root}/vf{number}/device", function.path)

    def unlink(self) -> None:
        for number in range(1, self._state.enabled + 1):
            self._kernel.tree.remove(f"{self._root}/vf{number}/device")

    def release(self) -> None:
        self._state.release()

    def remove(self) -> None:
        self._kernel.tree.remove(self._root)
        if self._debugfs is not None:
            self._debugfs.remove()

    def memory(self, vf: int) -> int:
        return self._state.vram(vf)

    # Files

    def _build(self) -> None:
        tree, root, total = self._kernel.tree, self._root, self._spec.total
        everyone, vfs = range(total + 1), range(1, total + 1)
        for name in SCHEDULING:
            tree.add(f"{root}/.bulk_profile/{name}", write_only(self._scheduling_store(name, everyone)))
        tree.add(f"{root}/.bulk_profile/sched_priority", write_only(self._store_bulk_priority))
        if self._has_vram:
            tree.add(f"{root}/.bulk_profile/vram_quota", write_only(self._vram_store(vfs)))
        tree.add_link(f"{root}/pf/device", self._physical.path)
        self._build_profile(f"{root}/pf/profile", 0)
        for vf in vfs:
            self._build_profile(f"{root}/vf{vf}/profile", vf)
            tree.add(f"{root}/vf{vf}/stop", write_only(_check_switch))

    def _build_profile(self, path: str, function: int) -> None:
        tree, state = self._kernel.tree, self._state
        only = range(function, function + 1)
        for name in SCHEDULING:
            tree.add(f"{path}/{name}", self._scheduling_attribute(name, function))
        if function == 0:
            priority = stored(lambda: state.priority(0), self._store_priority)
        else:
            priority = shown(lambda: state.priority(function))
        tree.add(f"{path}/sched_priority", priority)
        if function and self._has_vram:
            tree.add(f"{path}/vram_quota", stored(lambda: state.vram(function), self._vram_store(only)))

    def _scheduling_attribute(self, name: str, function: int) -> Attribute:
        only = range(function, function + 1)
        return stored(lambda: self._state.scheduling_of_all(name, function), self._scheduling_store(name, only))

    def _scheduling_store(self, name: str, functions: range) -> Callable[[bytes], None]:
        return lambda data: self._state.set_scheduling_of_all(name, functions, kstrto.unsigned(data, 32))

    def _vram_store(self, functions: range) -> Callable[[bytes], None]:
        return lambda data: self._state.set_vram(functions, kstrto.unsigned(data, 64))

    def _store_priority(self, data: bytes) -> None:
        self._state.set_priority(range(1), kstrto.choice(data, PRIORITIES))

    def _store_bulk_priority(self, data: bytes) -> None:
        word = kstrto.choice(data, PRIORITIES[:2])
        self._state.set_priority(range(self._spec.total + 1), word)


def _check_switch(data: bytes) -> None:
    kstrto.switch(data)
