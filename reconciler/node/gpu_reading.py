"""Reading one physical GPU, with its VFs, into what plans look at."""

from __future__ import annotations

import re
from typing import TypeVar

from reconciler.node import health, sysfs
from reconciler.node.device_nodes import mei_nodes
from reconciler.node.discovery import function_directory
from reconciler.node.functions import FunctionReader
from reconciler.node.memory import MemoryReader
from reconciler.node.roots import Roots
from reconciler.node.sriov import read_sriov, vf_links
from reconciler.node.tables import Tables
from reconciler.node.topology import IommuGroups, device_path, link_in_words
from state.ids import DeviceName, PciAddress, device_name
from state.models import Model
from state.observed import (
    FunctionSeen,
    MemorySeen,
    PfSeen,
    Provisioner,
    SriovSeen,
    Unreadable,
)
from state.profiles import guess_ecc

_T = TypeVar("_T")

_TILE = re.compile(r"tile[0-9]+")
_INTEGRATED_PLACE = re.compile(r"[0-9a-f]+:00:02\.[0-7]")


class GpuReader:
    """Reads GPUs during one look at the machine; make a new one for the next.

    ``unreadable`` collects what could not be read or made sense of. Where a GPU can't be used without it, the
    GPU says so in its ``sickness`` too.
    """

    def __init__(self, roots: Roots, tables: Tables, memory: MemoryReader) -> None:
        self.unreadable: list[Unreadable] = []
        self._roots = roots
        self._tables = tables
        self._memory = memory
        self._functions = FunctionReader(roots, IommuGroups(roots.sysfs))

    def read(self, address: PciAddress) -> PfSeen | Unreadable | None:
        """The GPU at ``address``; None if it has just gone, Unreadable if not even its device id can be read."""
        directory = function_directory(self._roots.sysfs, address)
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
        essential: list[Unreadable] = []
        function = self._functions.read(address, essential)
        sriov = self._sriov(address, directory, entries, function)
        if isinstance(sriov, Unreadable):
            essential.append(sriov)
        mei = mei_nodes(self._roots.devfs, directory, entries, essential)
        model = self._tables.models.of(device)
        integrated = _is_integrated(model, address)
        name = device_name(address, device)
        memory = None if integrated else self._local_memory(name, directory, function, integrated)
        path = self._kept(device_path(self._roots.sysfs, address)) or ()
        survivability = health.survivability(directory) if "survivability_mode" in entries else ()
        self.unreadable += essential
        return PfSeen(
            name=name,
            device_id=device,
            model=model,
            function=function,
            sriov=sriov,
            memory=memory,
            ecc=guess_ecc(self._tables.profiles.of(device), memory.total if memory and memory.exact else None),
            tiles=_tiles(entries, sriov, model),
            subsystem_vendor=self._number(directory, "subsystem_vendor", 16),
            subsystem_device=self._number(directory, "subsystem_device", 16),
            revision=self._number(directory, "revision", 16),
            pci_class=self._number(directory, "class", 16) or 0,
            numa_node=_not_negative(self._number(directory, "numa_node", 10)),
            pcie_root=path[0] if path else None,
            link=self._kept(link_in_words(self._roots.sysfs, path)) if path and not integrated else None,
            integrated=integrated,
            mei=mei,
            sickness=(*survivability, *health.unreadable(essential)),
        )

    def _sriov(
        self, address: PciAddress, directory: str, entries: frozenset[str], function: FunctionSeen
    ) -> SriovSeen | Unreadable | None:
        if "sriov_totalvfs" not in entries:
            return None
        links = vf_links(directory, entries)
        if isinstance(links, Unreadable):
            return links
        driver = function.driver if isinstance(function.driver, str) else None
        return read_sriov(self._roots.sysfs, directory, address, driver, links, self._read_vf)

    def _read_vf(self, address: PciAddress) -> FunctionSeen | None:
        return self._functions.read_linked(address, self.unreadable)

    def _local_memory(
        self, name: DeviceName, directory: str, function: FunctionSeen, integrated: bool | None
    ) -> MemorySeen | None:
        driver = function.driver if isinstance(function.driver, str) else None
        memory = self._memory.read(name, directory, driver, function.drm, self.unreadable)
        # The same BAR of an integrated GPU is a window on ordinary memory.
        if memory is not None and not memory.exact and integrated is None:
            return None
        return memory

    def _number(self, directory: str, attribute: str, base: int) -> int | None:
        return self._kept(sysfs.read_int(f"{directory}/{attribute}", base))

    def _kept(self, value: _T | Unreadable | None) -> _T | None:
        if isinstance(value, Unreadable):
            self.unreadable.append(value)
            return None
        return value


def _is_integrated(model: Model, address: PciAddress) -> bool | None:
    """By model; an unknown one is a card unless it sits where Intel's integrated graphics always do."""
    if model.integrated is not None:
        return model.integrated
    return None if _INTEGRATED_PLACE.fullmatch(address) else False


def _tiles(entries: frozenset[str], sriov: SriovSeen | Unreadable | None, model: Model) -> int:
    tiles = sum(1 for entry in entries if _TILE.fullmatch(entry))
    if tiles:
        return tiles
    provisioning = sriov.provisioning if isinstance(sriov, SriovSeen) else None
    if provisioning is not None and provisioning.provisioner is Provisioner.I915_IOV:
        return provisioning.tiles
    return model.tiles or 1


def _not_negative(number: int | None) -> int | None:
    return number if number is not None and number >= 0 else None
