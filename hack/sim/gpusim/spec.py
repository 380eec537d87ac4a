"""What a simulated machine consists of: plain data, as the machine files give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpusim.model.address import PciAddress

GpuDriverName = Literal["i915", "xe"]
DriverName = Literal["i915", "xe", "vfio-pci", "xe-vfio-pci"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SriovSpec:
    """The SR-IOV capability of a GPU and what its driver makes of it. Raises ValueError on a bad value."""

    total: int
    """sriov_totalvfs. 0 = the driver continues as native: the files are there, no VF can be had."""
    iov: Literal["prelim_iov", "iov"] | None = None
    """i915: name of the provisioning directory below drm/cardN. None for xe."""
    numbered_gt: bool = False
    """i915: a single GT is called gt0 (i915-sriov-dkms), not gt."""
    vram_quota: bool = False
    """xe: sriov_admin has vram_quota files."""
    admin: bool = True
    """xe: there is sriov_admin (kernels since 6.19)."""
    debugfs: bool = False
    """xe: the quotas below kernel/debug/dri/<address>/sriov."""

    def __post_init__(self) -> None:
        if not 0 <= self.total <= 255:
            raise ValueError(f"total: {self.total} is not within 0 … 255")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """One GPU, at boot. Sizes in MiB. Raises ValueError on a bad value."""

    address: str
    device: int
    driver: GpuDriverName
    """The driver whose id table has this device."""
    bound: DriverName | Literal["none"] | None = None
    """What is bound after boot; not given = `driver`."""
    bridges: tuple[str, ...] = ()
    """Upstream bridges from the root port on; their first bus (or the GPU's own) names the root: pci0000:00."""
    pci_class: int = 0x038000
    subsystem_vendor: int = 0x8086
    subsystem_device: int = 0
    revision: int = 0
    numa_node: int = -1
    iommu_group: int | None = None
    """A fixed group, perhaps shared with others; not given = one of its own."""
    vram_mib: int = 0
    """Local memory of the whole card; 0 = none."""
    bar2_mib: int | None = None
    """Size of the memory BAR; not given = large enough for all memory."""
    tiles: int = 1
    gts_per_tile: int = 1
    lmem_files: bool = False
    """i915 backports: lmem_total_bytes and lmem_avail_bytes below drm/cardN."""
    sriov: SriovSpec | None = None
    """None = no capability."""
    mei: bool = False
    hwmon: bool = False
    survivability: bool = False
    """xe came up in survivability mode: bound, but without DRM device."""
    vfs_at_boot: int = 0
    """VFs that somebody else enabled before anything of ours ran."""
    link_speed: str = "16.0 GT/s PCIe"
    link_width: int = 16

    def __post_init__(self) -> None:
        for field, value in (("address", self.address), *(("bridges", bridge) for bridge in self.bridges)):
            try:
                PciAddress.parse(value)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None
        if not 0 < self.device <= 0xFFFF:
            raise ValueError(f"device: {self.device:#x} is not a 16-bit PCI id")
        if self.tiles < 1 or self.gts_per_tile < 1:
            raise ValueError("tiles and gts_per_tile: at least 1")
        if min(self.vram_mib, self.vfs_at_boot, self.revision, self.subsystem_device) < 0:
            raise ValueError("vram_mib, vfs_at_boot, revision and subsystem_device may not be negative")
        if self.vfs_at_boot > (self.sriov.total if self.sriov else 0):
            raise ValueError(f"vfs_at_boot: {self.vfs_at_boot} is more than the GPU has")
        if self.sriov is not None and self.sriov.iov is not None and self.driver != "i915":
            raise ValueError("sriov.iov: only i915 has this directory")

    @property
    def boot_driver(self) -> str | None:
        """The driver bound after boot."""
        return None if self.bound == "none" else self.bound or self.driver


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherSpec:
    """Some other PCI function, without a driver: a network card, another maker's GPU."""

    address: str
    vendor: int
    device: int
    pci_class: int
    bridges: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        PciAddress.parse(self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """A whole machine. Raises ValueError if two functions have one address."""

    description: str
    gpus: tuple[GpuSpec, ...] = ()
    others: tuple[OtherSpec, ...] = ()
    iommu: bool = True

    def __post_init__(self) -> None:
        addresses = [gpu.address for gpu in self.gpus] + [other.address for other in self.others]
        twice = sorted({address for address in addresses if addresses.count(address) > 1})
        if twice:
            raise ValueError(f"two functions at {', '.join(twice)}")
