"""Which VF of a layout each claim gets. The scheduler only counts them; numbering them is ours.

A number once given stays while its claim lives. It comes from the entry in the spec; where that was lost, from
what the node says it has given out; else it is the lowest that nobody has in either; else the lowest that nobody
has in the spec: then the node makes the newcomer wait until whoever left has really gone. A claim that names its
VF takes it from those to come, never from one that has it: then too it is the newcomer that waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from state.dra.node_object import Entry, EntryDevice, NodeObject, SeenFunction
from state.dra.projection import ProjectedDevice, Projection
from state.ids import Use, parse_logical_device
from state.profiles import Profile


class Numbered(NamedTuple):
    """A VF: GPU, mode (two layouts of a GPU never stand together), index."""

    gpu: str
    mode: str
    number: int


class _Place(NamedTuple):
    """What in an allocation a VF is for; with the claim's UID and the pool, the key of a number given."""

    request: str
    device: str
    share_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    uid: str
    position: int
    projected: ProjectedDevice
    layout: Profile
    in_spec: int | None
    on_node: int | None

    @property
    def rank(self) -> tuple[int, str, int]:
        """Who keeps a number that two have (a slip of somebody's editor): whoever the node has given it to."""
        if self.in_spec is not None:
            return (0 if self.in_spec == self.on_node else 1), self.uid, self.position
        return (3 if self.on_node is None else 2), self.uid, self.position


class NoIndexLeft(Exception):
    """All VFs of a layout are taken by other entries. ``uid`` is the claim that finds none, on
    this ``gpu`` in this ``mode``.
    """

    def __init__(self, search: _Search) -> None:
        device = search.projected.device
        self.uid = search.uid
        self.gpu = device.physical_function
        self.mode = search.projected.mode
        self.path = search.projected.path
        self.reason = f"all {search.layout.count} VFs of {device.device} have been given to other claims already"
        super().__init__(f"{self.path}: {self.reason}")


Indexes = Mapping[tuple[str, int], int]
"""The index of each device that needs one, by claim UID and the device's place in its projection."""


def choose_indexes(
    node: NodeObject, projections: Sequence[Projection], kept: Iterable[Entry]
) -> tuple[Indexes, Mapping[str, NoIndexLeft]]:
    """Indexes for all projected devices, and the claims for which there is none.

    ``kept`` are entries that stay as they are whatever happens, because nothing sure is known of their claims.
    """
    taken = {number for entry in kept for device in entry.devices if (number := _number(device))}
    named = {number for one in projections for each in one.devices if (number := _number(each.device))}
    lingering = set(_on_node(node)) | set(_given_by_people(node))
    chosen: dict[tuple[str, int], int] = {}
    without: dict[str, NoIndexLeft] = {}
    for search in sorted(_searches(node, projections), key=lambda search: search.rank):
        index = _find(search, taken, named, lingering)
        if index is None:
            without.setdefault(search.uid, NoIndexLeft(search))
            continue
        chosen[search.uid, search.position] = index
        taken.add(_numbered(search, index))
    return chosen, without


def _find(search: _Search, taken: set[Numbered], named: set[Numbered], lingering: set[Numbered]) -> int | None:
    free = {index for index in range(search.layout.count) if _numbered(search, index) not in taken}
    for known in (search.in_spec, search.on_node):
        if known in free:
            return known
    new = sorted(index for index in free if _numbered(search, index) not in named)
    return next((index for index in new if _numbered(search, index) not in lingering), next(iter(new), None))


def _numbered(search: _Search, index: int) -> Numbered:
    return Numbered(search.projected.device.physical_function, search.projected.mode, index)


def _searches(node: NodeObject, projections: Sequence[Projection]) -> Iterable[_Search]:
    in_spec = {entry.name: _places_in(entry) for entry, _ in node.entries}
    on_node = {claim.name: claim.devices for claim in node.allocations}
    for projection in projections:
        for position, projected in enumerate(projection.devices):
            if projected.layout is None:
                continue
            device = projected.device
            place = _Place(device.request, device.device, device.share_id)
            given = None
            for applied in on_node.get(projection.uid, ()):
                number = _parse(applied.device)
                here = (applied.request, applied.share_id) == (device.request, device.share_id)
                if here and number and number[:2] == (device.physical_function, projected.mode):
                    given = number.number
            yield _Search(
                uid=projection.uid,
                position=position,
                projected=projected,
                layout=projected.layout,
                in_spec=in_spec.get(projection.uid, {}).get(place),
                on_node=given,
            )


def _places_in(entry: Entry) -> Mapping[_Place, int]:
    return {
        _Place(device.request, device.device, device.share_id): device.virtual_function.index
        for device in entry.devices
        if device.virtual_function is not None
    }


def _number(device: EntryDevice) -> Numbered | None:
    """The VF that a device of an entry takes away from others; admin access takes nothing."""
    function = device.virtual_function
    if function is None or device.admin_access:
        return None
    return Numbered(device.physical_function, function.profile.rsplit("_", 1)[-1], function.index)


def _on_node(node: NodeObject) -> Iterable[Numbered]:
    for allocation in node.allocations:
        for applied in allocation.devices:
            number = None if applied.admin_access else _parse(applied.device)
            if number is not None:
                yield number


def _given_by_people(node: NodeObject) -> Iterable[Numbered]:
    return (number for name in node.manual if (number := _parse(name)))


def _parse(name: str) -> Numbered | None:
    try:
        logical = parse_logical_device(name)
    except ValueError:
        return None  # a device of people's making, or of a newer release: it has no VF that we number
    if logical.use is not Use.VF or logical.index is None:
        return None
    return Numbered(logical.pf, logical.mode, logical.index)


def with_indexes(projection: Projection, indexes: Indexes) -> tuple[EntryDevice, ...]:
    """The projected devices with their indexes filled in."""
    devices = []
    for position, projected in enumerate(projection.devices):
        device = projected.device
        if projected.layout is not None:
            function = SeenFunction(profile=projected.layout.name, index=indexes[projection.uid, position])
            device = replace(device, virtual_function=function)
        devices.append(device)
    return tuple(devices)
