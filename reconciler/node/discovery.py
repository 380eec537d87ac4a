"""Finding Intel GPUs among the PCI functions of a machine.

GPUs are found by vendor and class, whatever driver they have or lack. Virtual functions belong to their GPU; one
whose GPU is not here (it was passed into this virtual machine) is a GPU of its own.
"""

from __future__ import annotations

from reconciler.node import sysfs
from state.ids import PciAddress, parse_pci_address
from state.observed import DRM_DRIVERS, VFIO_DRIVERS, Unreadable

_INTEL = 0x8086
_GPU_CLASSES = frozenset((0x0300, 0x0380, 0x1200))
"""VGA controller, display controller, processing accelerator: class and subclass of the PCI class code."""


def pci_addresses(sysfs_root: str) -> tuple[PciAddress, ...] | Unreadable:
    """All PCI functions in the order of their addresses, which puts a GPU before its VFs."""
    path = f"{sysfs_root}/bus/pci/devices"
    names = sysfs.list_directory(path)
    if names is None:
        return Unreadable(path=path, why="no such directory")
    if isinstance(names, Unreadable):
        return names
    try:
        addresses = [parse_pci_address(name) for name in names]
    except ValueError as error:
        return Unreadable(path=path, why=str(error))
    return tuple(sorted(addresses, key=lambda address: (len(address), address)))


def is_gpu(sysfs_root: str, address: PciAddress) -> bool | Unreadable:
    """Whether an Intel GPU is at ``address``; a VF of one counts too."""
    directory = function_directory(sysfs_root, address)
    vendor = sysfs.read_int(f"{directory}/vendor", 16)
    if isinstance(vendor, int) and vendor != _INTEL:
        return False
    pci_class = sysfs.read_int(f"{directory}/class", 16)
    if isinstance(pci_class, int) and pci_class >> 8 not in _GPU_CLASSES:
        return False
    for value in (vendor, pci_class):
        if isinstance(value, Unreadable):
            return value
    return vendor is not None and pci_class is not None


def physical_function(sysfs_root: str, address: PciAddress) -> PciAddress | None:
    """The GPU that the VF at ``address`` belongs to; None for a function that stands for itself."""
    name = sysfs.link_name(f"{function_directory(sysfs_root, address)}/physfn")
    if not isinstance(name, str):
        return None
    try:
        physical = parse_pci_address(name)
    except ValueError:
        return None
    here = sysfs.read_link(function_directory(sysfs_root, physical))
    return physical if isinstance(here, str) else None


def is_in_vf_range(address: PciAddress, physical: PciAddress, total: int) -> bool:
    """Whether ``address`` is one that a VF of ``physical``, which can have ``total`` VFs, would get.

    Intel GPUs number their VFs right after themselves (``sriov_offset`` and ``sriov_stride`` are 1), and nothing
    else can be there. This tells a VF apart when it comes or goes, while it has no ``physfn`` link.
    """
    domain, number = _routing_id(address)
    own_domain, own_number = _routing_id(physical)
    return domain == own_domain and 0 < number - own_number <= total


def _routing_id(address: PciAddress) -> tuple[str, int]:
    """PCI domain, and bus, device and function as one number."""
    domain, bus, rest = address.split(":")
    device, function = rest.split(".")
    return domain, int(bus, 16) << 8 | int(device, 16) << 3 | int(function)


def function_directory(sysfs_root: str, address: PciAddress) -> str:
    """A PCI function's directory in sysfs."""
    return f"{sysfs_root}/bus/pci/devices/{address}"


def kernel_drivers(sysfs_root: str) -> frozenset[str]:
    """Those of the drivers we deal with that are loaded now."""
    names = sysfs.list_directory(f"{sysfs_root}/bus/pci/drivers")
    return frozenset((*DRM_DRIVERS, *VFIO_DRIVERS)).intersection(names if isinstance(names, tuple) else ())


def boot_id(procfs: str) -> str | Unreadable:
    """What tells this boot of the machine from all others."""
    path = f"{procfs}/sys/kernel/random/boot_id"
    text = sysfs.read(path)
    if text is None:
        return Unreadable(path=path, why="no such file")
    return sysfs.malformed(path, "a boot id", text) if text == "" else text
