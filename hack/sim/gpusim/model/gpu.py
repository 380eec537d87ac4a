"""A function bound to a graphics driver: DRM minors, MEI, sensors, and, on a physical function, provisioning."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from gpusim.model import kstrto
from gpusim.model.drm import DrmDevice
from gpusim.model.extras import Hwmon, Mei
from gpusim.model.kernel import Kernel
from gpusim.model.pci import PciFunction
from gpusim.model.quotas import LMEM_SPARE, MIB
from gpusim.model.tree import constant, shown
from gpusim.spec import GpuDriverName, GpuSpec

_WEDGED_ERRNO = {"i915": errno.EIO, "xe": errno.ECANCELED}


class Provisioning(Protocol):
    """How a driver divides a GPU among its virtual functions, numbered from 1."""

    def provision(self, count: int) -> None:
        """See Binding.provision."""

    def link(self, vfs: tuple[PciFunction, ...]) -> None:
        """Show which functions are there."""

    def unlink(self) -> None:
        """Show that they are going."""

    def release(self) -> None:
        """They are gone: take back what ends with them."""

    def remove(self) -> None:
        """Remove all files that are not below the card's directory."""

    def memory(self, vf: int) -> int:
        """Bytes of local memory that a virtual function has."""


ProvisioningFactory = Callable[[DrmDevice, PciFunction, GpuSpec], Provisioning | None]


class GpuBinding:
    """What i915 or xe made of a function. `provisioning` is None on virtual functions and without PF mode."""

    def __init__(
        self, kernel: Kernel, function: PciFunction, gpu: GpuSpec, make_provisioning: ProvisioningFactory
    ) -> None:
        self._kernel = kernel
        self._driver: GpuDriverName = gpu.driver
        self._gpu = gpu
        self._function = function
        self.wedged = False
        self._mei: Mei | None = None
        self._hwmon: Hwmon | None = None
        self._drm: DrmDevice | None = None
        self.provisioning: Provisioning | None = None
        self.supports_sriov = gpu.driver == "xe" or (gpu.sriov is not None and gpu.sriov.iov is not None)
        physical = function.physical is None
        if gpu.survivability and physical:
            self._add_survivability()
            return
        self._drm = DrmDevice(kernel, function)
        self._add_card_files(self._drm)
        if physical:
            self.provisioning = make_provisioning(self._drm, function, gpu)
            self._mei = Mei(kernel, function, gpu.driver) if gpu.mei else None
            self._hwmon = Hwmon(kernel, function, gpu.driver) if gpu.hwmon else None
        self._drm.register()

    @property
    def drm(self) -> DrmDevice | None:
        """None in survivability mode."""
        return self._drm

    def remove(self) -> None:
        if self._hwmon is not None:
            self._hwmon.unregister()
        if self._mei is not None:
            self._mei.unregister()
        if self.provisioning is not None:
            self.provisioning.remove()
        if self._drm is not None:
            self._drm.unregister()
        for name in self._own_entries():
            self._kernel.tree.remove(f"{self._function.path}/{name}")

    def provision(self, count: int) -> None:
        if self.wedged:
            kstrto.fail(_WEDGED_ERRNO[self._driver], str(self._function))
        if self.provisioning is None:
            kstrto.fail(errno.ENODEV, str(self._function))
        self.provisioning.provision(count)

    def vfs_enabled(self, vfs: tuple[PciFunction, ...]) -> None:
        if self.provisioning is not None:
            self.provisioning.link(vfs)

    def vfs_disabling(self) -> None:
        if self.provisioning is not None:
            self.provisioning.unlink()

    def vfs_disabled(self) -> None:
        if self.provisioning is not None:
            self.provisioning.release()

    def _memory(self) -> int:
        """Local memory of this function in bytes."""
        physical, vf = self._function.physical, self._function.vf
        if physical is None or vf is None:
            return self._gpu.vram_mib * MIB
        binding = physical.binding
        if isinstance(binding, GpuBinding) and binding.provisioning is not None:
            return binding.provisioning.memory(vf + 1)
        return 0

    def _add_card_files(self, drm: DrmDevice) -> None:
        tree, card, path = self._kernel.tree, drm.card.path, self._function.path
        if self._driver == "xe":
            for tile in range(self._gpu.tiles):
                for gt in range(self._gpu.gts_per_tile):
                    directory = f"{path}/tile{tile}/gt{gt + tile * self._gpu.gts_per_tile}/freq0"
                    for name, value in (("act_freq", 0), ("cur_freq", 400), ("min_freq", 400), ("max_freq", 2400)):
                        tree.add(f"{directory}/{name}", constant(value))
            return
        for gt in range(self._gpu.tiles):
            tree.add(f"{card}/gt/gt{gt}/id", constant(gt))
            if self._gpu.lmem_files:
                for name in ("correctable_guc", "fatal_guc", "engine_reset"):
                    tree.add(f"{card}/gt/gt{gt}/error_counter/{name}", constant(0))
        if self._gpu.lmem_files and self._gpu.vram_mib:
            tree.add(f"{card}/lmem_total_bytes", shown(self._memory))
            tree.add(f"{card}/lmem_avail_bytes", shown(lambda: max(self._memory() - LMEM_SPARE, 0)))

    def _add_survivability(self) -> None:
        tree, path = self._kernel.tree, self._function.path
        tree.add(f"{path}/survivability_mode", constant("Boot"))
        tree.add(f"{path}/survivability_info/capability_info", constant("0x1"))
        tree.add(f"{path}/survivability_info/postcode_trace", constant("0x0"))

    def _own_entries(self) -> tuple[str, ...]:
        tiles = tuple(f"tile{tile}" for tile in range(self._gpu.tiles))
        return ("survivability_mode", "survivability_info", *tiles)
