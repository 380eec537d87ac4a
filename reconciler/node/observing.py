"""Looking at the GPUs of a machine again and again, and only where something was heard of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from reconciler.node.discovery import is_gpu, is_in_vf_range, pci_addresses, physical_function
from reconciler.node.gpu_reading import GpuReader
from reconciler.node.health import Wedges
from reconciler.node.health import unreadable as unreadable_sickness
from reconciler.node.memory import MemoryReader
from reconciler.node.roots import Roots
from reconciler.node.tables import Tables
from state.ids import DeviceName, PciAddress, parse_device_name
from state.observed import PfSeen, SriovSeen, Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class GpusSeen:
    """All GPUs of the machine as last seen, by name in order of address; and what could not be read."""

    gpus: Mapping[DeviceName, PfSeen]
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What one PCI address was found to hold."""

    gpu: PfSeen | None
    unreadable: tuple[Unreadable, ...]


class Observer:
    """Remembers each GPU as last seen. ``look`` belongs to one thread; ``note_wedged`` may come from any.

    A GPU that was there and is gone is no longer in the answer. One that is there but no longer readable stays
    as it was, with its driver ``Unreadable`` and sick for that reason.
    """

    def __init__(self, roots: Roots, tables: Tables) -> None:
        self._roots = roots
        self._tables = tables
        self._memory = MemoryReader(roots.devfs)
        self._wedges = Wedges(roots.sysfs)
        self._places: dict[PciAddress, _Place] = {}
        self._bus_unreadable: tuple[Unreadable, ...] = ()
        self._leave: frozenset[DeviceName] = frozenset()

    def note_wedged(self, address: PciAddress, message: str) -> None:
        """The GPU at ``address`` announced to be wedged. Holds until it is bound anew or gone.

        Only a physical function makes its GPU sick; what is noted of a VF has no effect.
        """
        self._wedges.note(address, message)

    def last_seen(self, name: DeviceName) -> PfSeen | None:
        """The GPU of this name as the last look found it."""
        for place in self._places.values():
            if place.gpu is not None and place.gpu.name == name:
                return place.gpu
        return None

    def look(
        self, dirty: frozenset[PciAddress] | None = None, *, leave: frozenset[DeviceName] = frozenset()
    ) -> GpusSeen:
        """Read the GPUs at, or connected with, the addresses in ``dirty``; None = look everywhere.

        A VF's address stands for its GPU, and any address for the GPUs that share an IOMMU group with it.
        Those in ``leave`` are being changed and not read: that would block until the change is over.
        """
        self._leave = leave
        reader = GpuReader(self._roots, self._tables, self._memory)
        if dirty is None:
            self._look_everywhere(reader)
        else:
            for address in sorted(self._owners(dirty)):
                self._look_at(address, reader)
        return self._seen()

    def _look_everywhere(self, reader: GpuReader) -> None:
        addresses = pci_addresses(self._roots.sysfs)
        if isinstance(addresses, Unreadable):
            self._bus_unreadable = (addresses,)
            return
        self._bus_unreadable = ()
        for gone in self._places.keys() - set(addresses):
            self._drop(gone)
        vfs: set[PciAddress] = set()
        for address in addresses:
            if address not in vfs:
                vfs.update(self._look_at(address, reader))

    def _look_at(self, address: PciAddress, reader: GpuReader) -> tuple[PciAddress, ...]:
        """Read what is at ``address``. Returns the addresses of its VFs, which need no look of their own."""
        place = self._places.get(address)
        if place is not None and place.gpu is not None and place.gpu.name in self._leave:
            return _vf_addresses(place.gpu)
        found = self._read(address, reader)
        unreadable = tuple(reader.unreadable)
        reader.unreadable.clear()
        if isinstance(found, Unreadable):
            unreadable += (found,)
            found = self._as_last_seen(address, found)
        if found is None and not unreadable:
            self._drop(address)
            return ()
        self._places[address] = _Place(gpu=found, unreadable=unreadable)
        return () if found is None else _vf_addresses(found)

    def _read(self, address: PciAddress, reader: GpuReader) -> PfSeen | Unreadable | None:
        there = is_gpu(self._roots.sysfs, address)
        if isinstance(there, Unreadable):
            return there
        if not there or self._physical_function(address) is not None:
            return None
        return reader.read(address)

    def _as_last_seen(self, address: PciAddress, problem: Unreadable) -> PfSeen | None:
        place = self._places.get(address)
        if place is None or place.gpu is None:
            return None
        last = place.gpu
        return replace(
            last,
            function=replace(last.function, driver=problem),
            sickness=unreadable_sickness((problem,)),
        )

    def _drop(self, address: PciAddress) -> None:
        place = self._places.pop(address, None)
        if place is not None and place.gpu is not None:
            self._memory.forget(place.gpu.name)

    def _owners(self, dirty: Iterable[PciAddress]) -> set[PciAddress]:
        """The GPUs to look at for addresses that something was heard of."""
        related: dict[PciAddress, set[PciAddress]] = {}
        for address, place in self._places.items():
            for other in () if place.gpu is None else _related(place.gpu):
                related.setdefault(other, set()).add(address)
        owners: set[PciAddress] = set()
        for address in dirty:
            physical = self._physical_function(address)
            owners |= related.get(address, set()) | {address if physical is None else physical}
        return owners

    def _physical_function(self, address: PciAddress) -> PciAddress | None:
        """The GPU whose VF is at ``address``, by its link, or by its place if it has none yet or any more."""
        return physical_function(self._roots.sysfs, address) or self._by_place(address)

    def _by_place(self, address: PciAddress) -> PciAddress | None:
        for physical, place in self._places.items():
            total = 0 if place.gpu is None else place.gpu.total_vfs
            if is_in_vf_range(address, physical, total):
                return physical
        return None

    def _seen(self) -> GpusSeen:
        gpus = {}
        unreadable = list(self._bus_unreadable)
        for address in sorted(self._places, key=lambda place: (len(place), place)):
            place = self._places[address]
            unreadable += place.unreadable
            if place.gpu is not None:
                gpus[place.gpu.name] = self._with_wedge(place.gpu)
        return GpusSeen(gpus=gpus, unreadable=tuple(unreadable))

    def _with_wedge(self, gpu: PfSeen) -> PfSeen:
        wedged = self._wedges.sickness(gpu.function.address)
        return gpu if wedged is None else replace(gpu, sickness=(*gpu.sickness, wedged))


def _vf_addresses(gpu: PfSeen) -> tuple[PciAddress, ...]:
    return tuple(vf.function.address for vf in gpu.sriov.vfs) if isinstance(gpu.sriov, SriovSeen) else ()


def _related(gpu: PfSeen) -> set[PciAddress]:
    """Addresses whose changes show in this GPU: its VFs, and all that share a group with any of them."""
    functions = [gpu.function]
    if isinstance(gpu.sriov, SriovSeen):
        functions += [vf.function for vf in gpu.sriov.vfs]
    return {function.address for function in functions} | {
        mate for function in functions for mate, _ in function.iommu_mates
    }
