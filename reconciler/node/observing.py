"""Looking at the GPUs of a machine again and again, and only where something was heard of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from reconciler.node.discovery import function_directory, is_gpu, is_in_vf_range, pci_addresses, physical_function
from reconciler.node.gpu_reading import GpuReader
from reconciler.node.health import Wedges
from reconciler.node.health import unreadable as unreadable_sickness
from reconciler.node.memory import MemoryReader
from reconciler.node.patient_reads import Overdue, PatientReads
from reconciler.node.roots import Roots
from reconciler.node.tables import Tables
from state.ids import DeviceName, PciAddress, parse_device_name
from state.observed import PfSeen, SriovSeen, Unreadable

FIRST_LOOK_SECONDS = 5.0
"""Patience with a GPU of which nothing is known yet: to take it for absent would be worse than to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpusSeen:
    """All GPUs of the machine as last seen, by name in order of address; and what could not be read."""

    gpus: Mapping[DeviceName, PfSeen]
    unreadable: tuple[Unreadable, ...] = ()
    overdue: frozenset[DeviceName] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What one PCI address was found to hold."""

    gpu: PfSeen | None
    unreadable: tuple[Unreadable, ...]


_Reading: TypeAlias = tuple[PfSeen | Unreadable | None, tuple[Unreadable, ...]]
"""A GPU as read, and what of it could not be."""


class Observer:
    """Remembers each GPU as last seen. ``look`` belongs to one thread; ``note_wedged`` may come from any.

    A GPU that can't be read within ``patience`` seconds, because another process is changing it, stays as last
    seen and is named in ``overdue``; ``late`` is called once it can be read.

    A GPU that was there and is gone is no longer in the answer. One that is there but no longer readable stays
    as it was, with its driver ``Unreadable`` and sick for that reason.
    """

    def __init__(
        self,
        roots: Roots,
        tables: Tables,
        *,
        patience: float = 0.25,
        late: Callable[[PciAddress], None] = lambda _: None,
    ) -> None:
        self._roots = roots
        self._tables = tables
        self._memory = MemoryReader(roots.devfs)
        self._wedges = Wedges(roots.sysfs)
        self._places: dict[PciAddress, _Place] = {}
        self._bus_unreadable: tuple[Unreadable, ...] = ()
        self._overdue: set[PciAddress] = set()
        self._reads: PatientReads[PciAddress, _Reading] = PatientReads(patience, late)

    def note_wedged(self, address: PciAddress, message: str) -> None:
        """The GPU at ``address`` announced to be wedged. Holds until it is bound anew or gone.

        Only a physical function makes its GPU sick; what is noted of a VF has no effect.
        """
        self._wedges.note(address, message)

    def last_seen(self, name: DeviceName) -> PfSeen | None:
        """A GPU as the last look left it, without looking; None if it was not there."""
        address, _ = parse_device_name(name)
        place = self._places.get(address)
        if place is None or place.gpu is None or place.gpu.name != name:
            return None
        return self._with_wedge(place.gpu)

    def look(
        self, dirty: frozenset[PciAddress] | None = None, *, leave: frozenset[DeviceName] = frozenset()
    ) -> GpusSeen:
        """Read the GPUs at, or connected with, the addresses in ``dirty``; None = look everywhere.

        A VF's address stands for its GPU, and any address for the GPUs that share an IOMMU group with it. GPUs in
        ``leave`` are not looked at and stay as last seen: while the kernel changes one, its readers block.
        """
        left = frozenset(parse_device_name(name)[0] for name in leave)
        if dirty is None:
            self._look_everywhere(left)
        else:
            for address in sorted(self._owners(dirty) - left):
                self._look_at(address)
        return self._seen()

    def _look_everywhere(self, left: frozenset[PciAddress]) -> None:
        addresses = pci_addresses(self._roots.sysfs)
        if isinstance(addresses, Unreadable):
            self._bus_unreadable = (addresses,)
            return
        self._bus_unreadable = ()
        for gone in self._places.keys() - left - set(addresses):
            self._drop(gone)
        done = set(left)
        for address in addresses:
            if address not in done and self._by_place(address) not in left:
                done.update(self._look_at(address))

    def _look_at(self, address: PciAddress) -> tuple[PciAddress, ...]:
        """Read what is at ``address``. Returns the addresses of its VFs, which need no look of their own."""
        found, unreadable = self._read(address)
        if isinstance(found, Overdue):
            return self._stays_as_it_was(address)
        self._overdue.discard(address)
        if isinstance(found, Unreadable):
            unreadable += (found,)
            found = self._as_last_seen(address, found)
        if found is None and not unreadable:
            self._drop(address)
            return ()
        self._places[address] = _Place(gpu=found, unreadable=unreadable)
        return () if found is None else _vf_addresses(found)

    def _stays_as_it_was(self, address: PciAddress) -> tuple[PciAddress, ...]:
        """What to take a GPU for that can't be read yet. Returns the addresses of its VFs."""
        self._overdue.add(address)
        place = self._places.get(address)
        if place is None:
            path = function_directory(self._roots.sysfs, address)
            problem = Unreadable(path=path, why="another process keeps the kernel from answering")
            self._places[address] = _Place(gpu=None, unreadable=(problem,))
        return () if place is None or place.gpu is None else _vf_addresses(place.gpu)

    def _read(self, address: PciAddress) -> tuple[PfSeen | Unreadable | Overdue | None, tuple[Unreadable, ...]]:
        there = is_gpu(self._roots.sysfs, address)
        if isinstance(there, Unreadable):
            return there, ()
        if not there or self._physical_function(address) is not None:
            return None, ()
        patience = 0.0 if address in self._places else FIRST_LOOK_SECONDS
        read = self._reads.read(address, lambda: self._read_gpu(address), patience=patience)
        return (read, ()) if isinstance(read, Overdue) else read

    def _read_gpu(self, address: PciAddress) -> _Reading:
        reader = GpuReader(self._roots, self._tables, self._memory)
        return reader.read(address), tuple(reader.unreadable)

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
        self._overdue.discard(address)
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
        overdue = {gpu.name for gpu in gpus.values() if gpu.function.address in self._overdue}
        return GpusSeen(gpus=gpus, unreadable=tuple(unreadable), overdue=frozenset(overdue))

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
