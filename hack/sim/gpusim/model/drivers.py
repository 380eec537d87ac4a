"""The drivers of the simulated kernel: i915, xe, vfio-pci, xe-vfio-pci."""

from __future__ import annotations

import errno

from gpusim.model import kstrto
from gpusim.model.bus import Driver, PciBus
from gpusim.model.drm import DrmDevice
from gpusim.model.gpu import GpuBinding, Provisioning
from gpusim.model.i915 import I915Provisioning
from gpusim.model.kernel import Kernel
from gpusim.model.pci import Binding, PciFunction
from gpusim.model.vfio import CONTROL, VfioBinding, VfioGroups
from gpusim.model.xe import XeProvisioning
from gpusim.spec import GpuDriverName, GpuSpec


def register_all(kernel: Kernel, bus: PciBus) -> None:
    """Load all four drivers, and make /dev/vfio/vfio."""
    for name in ("i915", "xe"):
        bus.register(_gpu_driver(kernel, name))
    groups = VfioGroups(kernel)
    kernel.nodes.add("vfio/vfio", CONTROL)
    for vfio in ("vfio-pci", "xe-vfio-pci"):
        bus.register(
            Driver(
                name=vfio,
                matches=lambda function: False,
                bind=lambda function: VfioBinding(kernel, function, groups),
            )
        )


def _gpu_driver(kernel: Kernel, name: GpuDriverName) -> Driver:
    def bind(function: PciFunction) -> Binding:
        if function.gpu is None or function.gpu.driver != name:
            kstrto.fail(errno.ENODEV, str(function))
        return GpuBinding(kernel, function, function.gpu, lambda drm, pf, gpu: _provisioning(kernel, drm, pf, gpu))

    def matches(function: PciFunction) -> bool:
        return function.gpu is not None and function.gpu.driver == name

    return Driver(name=name, matches=matches, bind=bind)


def _provisioning(kernel: Kernel, drm: DrmDevice, physical: PciFunction, gpu: GpuSpec) -> Provisioning | None:
    """None where the driver has no PF mode for this GPU: no capability, mainline i915, or native."""
    if gpu.sriov is None or not gpu.sriov.total:
        return None
    if gpu.driver == "xe":
        return XeProvisioning(kernel, physical, gpu)
    return I915Provisioning(kernel, drm, physical, gpu) if gpu.sriov.iov is not None else None
