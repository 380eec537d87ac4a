"""Finding Intel GPUs among the PCI functions of a machine, and reading one of them whole.

GPUs are found by vendor and class, whatever driver they have or lack. Virtual functions belong to their GPU; one
whose GPU is not here (it was passed into this virtual machine) is a GPU of its own.
"""

from __future__ import annotations

import re

from reconciler.node import health, sysfs
from reconciler.node.device_nodes import mei_nodes
from reconciler.node.functions import FunctionReader
from reconciler.node.memory import MemoryReader
from reconciler.node.roots import Roots
from reconciler.node.sriov import read_sriov, vf_links
from reconciler.node.tables import Tables
from reconciler.node.topology import IommuGroups, device_path, link_in_words
from state.ids import PciAddress, device_name, parse_pci_address
from state.models import Model
from state.observed import (
    DRM_DRIVERS,
    VFIO_DRIVERS,
    FunctionSeen,
    MemorySeen,
    PfSeen,
    Provisioner,
    SriovSeen,
    Unreadable,
)
from state.profiles import Ecc, guess_ecc

_INTEL = 0x8086
_GPU_CLASSES = frozenset((0x0300, 0x0380, 0x1200))
"""VGA controller, display controller, processing accelerator: class and subclass of the PCI code."""

_TILE = re.compile(r"tile[0-9]+")
_INTEGRATED_PLACE = re.compile(r"[0-9a-f]+:00:02\.[0-7]")


def pci_addresses(sysfs_root: str) -> tuple[PciAddress, ...] | Unreadable:
    """All PCI functions, in the order of their addresses: a GPU before its VFs."""
    path = f"{sysfs_root}/bus/pci/devices"
    names = sysfs.list_directory(path)
    if names is None:
        return Unreadable(path=path, why="no such directory")
    if isinstance(names, Unreadable):
        return names
    addresses = []
    for name in names:
        try:
            addresses.append(parse_pci_address(name))
        except ValueError:
            continue  # such as a virtual machine's own bridges: 10000:e0:06.0 is an address, "pci0" is not
    return tuple(sorted(addresses, key=lambda address: (len(address), address)))


def kernel_drivers(sysfs_root: str) -> frozenset[str]:
    """Those of the drivers we know that are loaded."""
    names = sysfs.list_directory(f"{sysfs_root}/bus/pci/drivers")
    return frozenset((*DRM_DRIVERS, *VFIO_DRIVERS)).intersection(names if isinstance(names, tuple) else ())


def boot_id(procfs: str) -> str | Unreadable:
    """What tells this boot of the machine from all others."""
    path = f"{procfs}/sys/kernel/random/boot_id"
    text = sysfs.read(path)
    if text is None:
        return Unreadable(path=path, why="no such file")
    return text if isinstance(text, Unreadable) or text else sysfs.malformed(path, "a boot id", text)


class Look:
    """One look at the machine. Reads each GPU at most once; make a new one for the next look.

    ``unreadable`` is what could not be read of any GPU, or of a function that may be one.
    """

    def __init__(self, roots: Roots, tables: Tables, memory: MemoryReader) -> None:
        self.unreadable: list[Unreadable] = []
        self._roots = roots
        self._tables = tables
        self._memory = memory
        self._functions = FunctionReader(roots, IommuGroups(roots.sysfs))

    def is_gpu(self, address: PciAddress) -> bool | Unreadable:
        """Whether an Intel GPU is at ``address``; a VF counts too."""
        directory = self._functions.directory(address)
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

    def physical_function(self, address: PciAddress) -> PciAddress | None:
        """The GPU that the VF at ``address`` belongs to; None for a function of its own."""
        name = sysfs.link_name(f"{self._functions.directory(address)}/physfn")
        if not isinstance(name, str):
            return None
        try:
            physical = parse_pci_address(name)
        except ValueError:
            return None
        here = sysfs.read_link(self._functions.directory(physical))
        return physical if isinstance(here, str) else None

    def read(self, address: PciAddress) -> PfSeen | Unreadable | None:
        """The whole GPU at ``address``; None if it has just gone, Unreadable if even its id can't be read."""
        directory = self._functions.directory(address)
        device = sysfs.read_int(f"{directory}/device", 16)
        entries = sysfs.list_directory(directory)
        for value in (device, entries):
            if isinstance(value, Unreadable):
                return value
        if not isinstance(device, int) or not isinstance(entries, tuple):
            return None
        if not 0 < device <= 0xFFFF:
            return sysfs.malformed(f"{directory}/device", "a PCI device id", f"{device:#x}")
        return self._read(address, directory, device, frozenset(entries))

    def _read(self, address: PciAddress, directory: str, device: int, entries: frozenset[str]) -> PfSeen:
        problems: list[Unreadable] = []
        function = self._functions.read(address, problems)
        if isinstance(function.driver, Unreadable):
            problems.append(function.driver)
        sriov = self._sriov(address, directory, entries, function, problems)
        model = self._tables.models.of(device)
        integrated = _is_integrated(model, address)
        name = device_name(address, device)
        memory = self._memory_of(directory, integrated, function, name_of=(address, device))
        place = self._kept(device_path(self._roots.sysfs, address))
        numa = self._number(f"{directory}/numa_node")
        sick = health.survivability(directory) if "survivability_mode" in entries else None
        seen = PfSeen(
            name=name,
            device_id=device,
            model=model,
            function=function,
            sriov=sriov,
            memory=memory,
            ecc=self._ecc(device, memory),
            tiles=_tiles(entries, sriov, model),
            subsystem_vendor=self._number(f"{directory}/subsystem_vendor", 16),
            subsystem_device=self._number(f"{directory}/subsystem_device", 16),
            revision=self._number(f"{directory}/revision", 16),
            pci_class=self._number(f"{directory}/class", 16) or 0,
            numa_node=numa if numa is not None and numa >= 0 else None,
            pcie_root=place[0] if place else None,
            link=self._kept(link_in_words(self._roots.sysfs, place)) if place and not integrated else None,
            integrated=integrated,
            mei=mei_nodes(self._roots.devfs, directory, entries, problems),
            sickness=(*(() if sick is None else (sick,)), *health.unreadable(problems)),
        )
        self.unreadable += problems
        return seen
