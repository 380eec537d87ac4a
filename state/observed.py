"""What is seen on a machine. Uncertainty is a value here, never an exception.

``Unreadable`` stands where something could not be read, ``Changing`` where a worker is at a GPU right now,
and None where a machine legitimately has no such thing. Plans never touch what is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from state.actions import GpuAction
from state.ids import DeviceName, PciAddress, Slot
from state.models import Model
from state.profiles import Ecc, TileQuota
from state.records import Held, Mark, Ownership


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Something that is there but could not be read or made sense of: where, and why in words."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device node that a container needs. ``path`` is relative to /dev, such as ``dri/card0``.

    ``present`` says whether the node exists in devfs already; it appears after the driver's own announcement.
    """

    path: str
    major: int
    minor: int
    present: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSeen:
    """One PCI function, physical or virtual: its driver and the device nodes that driver made.

    ``driver_override`` is None when unset. ``iommu_mates`` are the other functions of its IOMMU group that a
    VFIO user would have to own as well (bridges left out), each with the driver it is bound to.
    """

    address: PciAddress
    driver: str | Unreadable | None
    driver_override: str | None = None
    drm: tuple[DeviceNode, ...] = ()
    by_path: tuple[DeviceNode, ...] = ()
    vfio: tuple[DeviceNode, ...] = ()
    iommu_group: int | None = None
    iommu_mates: tuple[tuple[PciAddress, str | None], ...] = ()


class Provisioner(Enum):
    """Which kernel interface sets what a VF gets."""

    I915_IOV = "i915 iov"
    XE_SYSFS = "xe sriov_admin"
    XE_DEBUGFS = "xe debugfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningSeen:
    """How VFs are provisioned, and what is set now.

    ``quotas`` holds, for each VF from index 0 to at most ``sriov_totalvfs``, one entry a tile. The first VF
    is read whole, the others only in the field that tells profiles apart, to keep a pass cheap.
    ``automatic`` is the driver's own switch, None where it has none.
    """

    provisioner: Provisioner
    tiles: int
    quotas_writable: bool
    automatic: bool | None = None
    quotas: tuple[tuple[TileQuota, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VfSeen:
    """A virtual function that exists now; ``index`` from 0 as in ``virtfn<index>``."""

    index: int
    function: FunctionSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class SriovSeen:
    """A GPU's SR-IOV: ``total`` VFs possible, ``enabled`` now, ``vfs`` those whose links are there."""

    total: int
    enabled: int
    autoprobe: bool = True
    vfs: tuple[VfSeen, ...] = ()
    provisioning: ProvisioningSeen | None = None


class MemorySource(Enum):
    """Where the size of local memory comes from, best first. A BAR is only a lower bound."""

    SYSFS = "sysfs"
    IOCTL = "ioctl"
    BAR = "bar"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySeen:
    """Local memory in bytes; ``exact`` is False for a lower bound."""

    total: int
    source: MemorySource

    @property
    def exact(self) -> bool:
        """Whether it is the size itself, and no lower bound."""
        return self.source is not MemorySource.BAR


class HealthCause(Enum):
    """Why a GPU is sick. Values become part of taint keys, so they are fixed."""

    DEVICE_ABSENT = "DeviceAbsent"
    SURVIVABILITY = "Survivability"
    WEDGED = "Wedged"
    UNREADABLE = "Unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sickness:
    """One reason why a GPU is not healthy."""

    cause: HealthCause
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PfSeen:
    """A physical GPU as seen now.

    ``sriov`` is None without the capability. ``memory`` is None when unknown, and 0 bytes are never reported.
    ``numa_node`` is None where the kernel says -1. ``link`` is PCIe speed and width of the slot in words.
    ``taken_from`` is the driver to give the GPU back to, while we have it bound to another.
    """

    name: DeviceName
    device_id: int
    model: Model
    function: FunctionSeen
    sriov: SriovSeen | Unreadable | None = None
    memory: MemorySeen | None = None
    ecc: Ecc = Ecc.UNKNOWN
    tiles: int = 1
    subsystem_vendor: int | None = None
    subsystem_device: int | None = None
    revision: int | None = None
    pci_class: int = 0x030000
    numa_node: int | None = None
    pcie_root: str | None = None
    link: str | None = None
    integrated: bool | None = None
    mei: tuple[DeviceNode, ...] = ()
    sickness: tuple[Sickness, ...] = ()
    taken_from: str | None = None

    @property
    def drm_driver(self) -> str | None:
        """The DRM driver this GPU belongs to: the bound one, the one we took it from, or its model's default."""
        for driver in (self.function.driver, self.taken_from):
            if isinstance(driver, str) and driver in DRM_DRIVERS:
                return driver
        return self.model.drm_driver

    @property
    def total_vfs(self) -> int:
        """How many VFs it can have; 0 also where that can't be read."""
        return self.sriov.total if isinstance(self.sriov, SriovSeen) else 0


DRM_DRIVERS = ("i915", "xe")
VFIO_DRIVERS = ("vfio-pci", "xe-vfio-pci")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changing:
    """A GPU that is being changed: as last seen, what is being done, and since when.

    ``actions`` are those of our worker; none when it is another process that is at the GPU.
    """

    last: PfSeen
    doing: str
    since: datetime
    actions: tuple[GpuAction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenNode:
    """A process that has a device node open."""

    pid: int
    command: str
    path: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersSeen:
    """Who has the nodes of one GPU and its VFs open. ``hidden`` says why processes can't be seen, if so."""

    by_slot: Mapping[Slot, tuple[OpenNode, ...]] = field(default_factory=dict)
    hidden: str | None = None


def why_unseen(gpu: PfSeen) -> str | None:
    """Why nobody can tell who has a GPU's VFs open although processes can be seen: which nodes are theirs?"""
    return f"its VFs can't be read: {gpu.sriov}" if isinstance(gpu.sriov, Unreadable) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CdiFileSeen:
    """A CDI spec file of ours: its bytes, or why they can't be read."""

    name: str
    content: bytes | Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything a plan looks at besides what is wanted.

    ``users`` has an entry only for GPUs where it was asked for: it is looked up right before something would
    be disturbed. ``kernel_drivers`` are the PCI drivers loaded now. ``marks`` are the kubelet plugin's;
    ``registered`` says whether the kubelet knows the plugin, and is looked up only where marks depend on it.
    """

    boot_id: str
    gpus: Mapping[DeviceName, PfSeen | Changing]
    kernel_drivers: frozenset[str] = frozenset()
    cdi: tuple[CdiFileSeen, ...] | Unreadable = ()
    ownership: Ownership | Unreadable = field(default_factory=Ownership)
    held: Held | Unreadable | None = None
    marks: Mapping[str, Mark] | Unreadable = field(default_factory=dict)
    registered: bool = False
    users: Mapping[DeviceName, UsersSeen] = field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = ()


def with_origins(observed: Observed) -> Observed:
    """``observed``, each GPU knowing which driver we took it from in this boot, if we did."""
    ownership = observed.ownership
    if isinstance(ownership, Unreadable) or not ownership.bindings:
        return observed
    gpus = dict(observed.gpus)
    for pf, binding in ownership.bindings.items():
        seen = gpus.get(DeviceName(pf))
        if seen is None or binding.boot_id != observed.boot_id:
            continue
        if isinstance(seen, Changing):
            seen = replace(seen, last=replace(seen.last, taken_from=binding.original))
        else:
            seen = replace(seen, taken_from=binding.original)
        gpus[DeviceName(pf)] = seen
    return replace(observed, gpus=gpus)
