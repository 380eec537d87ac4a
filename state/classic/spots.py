"""Where on one GPU a claim's devices could be had, beside those who have something of it; or why nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, NamedTuple

from state.classic.room import UNSET_MILLICORES, WHOLE_GPU, GpuRoom, Tenancy, VfLayout
from state.classic.wishes import Wish
from state.ids import Use
from state.profiles import MIB


class PreferredAllocation(Enum):
    """Which GPUs are taken first, of those that are otherwise equally good.

    None in particular; the one with the least left that is enough; the one with the most left.
    """

    NONE = "none"
    PACKED = "packed"
    BALANCED = "balanced"


class PolicyResource(Enum):
    """What it is of which the least or most is left."""

    MEMORY = "memory"
    MILLICORES = "millicores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How GPUs are chosen among."""

    preferred: PreferredAllocation = PreferredAllocation.NONE
    resource: PolicyResource = PolicyResource.MEMORY

    def order(self, gpu: GpuRoom, tenancy: Tenancy) -> int:
        """Small for GPUs to be taken first."""
        if self.preferred is PreferredAllocation.NONE:
            return 0
        if self.resource is PolicyResource.MEMORY:
            left = (gpu.memory or 0) - tenancy.memory
        else:
            left = WHOLE_GPU - tenancy.millicores
        return left if self.preferred is PreferredAllocation.PACKED else -left


Rank = tuple[bool, bool, int, int, int, int, str]
"""Small for what is to be taken first: what nobody is still leaving; VFs; the least work; the least waste (memory,
millicores); what the policy prefers; the first by name.
"""


class Work(IntEnum):
    """What is to be done to a GPU for a new user, the least first."""

    NONE = 0
    KEEP_VFS = 1
    START_AFRESH = 2
    REMOVE_VFS = 3


class Spot(NamedTuple):
    """Devices of one GPU that would do for a claim: VFs of a layout (``indexes``), or one device."""

    rank: Rank
    gpu: GpuRoom
    use: Use
    layout: VfLayout | None = None
    indexes: Sequence[int] = ()

    @property
    def devices(self) -> int:
        """How many there are."""
        return len(self.indexes) if self.use is Use.VF else 1

    @property
    def mode(self) -> str:
        """The short name of the VF layout, empty for the GPU itself."""
        return "" if self.layout is None else self.layout.mode

    def goes_with(self, other: Spot) -> bool:
        """Whether one claim can have both: they are on two GPUs, or VFs of one layout."""
        if self.gpu.name != other.gpu.name:
            return True
        return self.layout is not None and self.layout is other.layout


_OTHER_USE: Final = {
    Use.WHOLE: "is in use as a whole",
    Use.SHARED: "is in use by claims that share it",
}


def spots_of(gpu: GpuRoom, tenancy: Tenancy, wish: Wish, policy: Policy) -> tuple[tuple[Spot, ...], str]:
    """Where the wish's devices could be had on this GPU; and if there are none, why."""
    spots: list[Spot] = []
    objections: list[str] = []
    for use in wish.uses:
        objection = _objection(gpu, tenancy, wish, use)
        if objection:
            objections.append(objection)
        elif use is Use.VF:
            spots += _vf_spots(gpu, tenancy, wish, policy)
        else:
            spots.append(_spot(gpu, tenancy, use, policy))
    return tuple(spots), "" if spots else ", ".join(dict.fromkeys(objections))


def _objection(gpu: GpuRoom, tenancy: Tenancy, wish: Wish, use: Use) -> str:
    """Why a GPU can't be used so, or empty."""
    if not wish.selects(gpu.labels, use):
        return "is not of the kinds that the class is for"
    if use in gpu.barred:
        return gpu.barred[use]
    if use is Use.VF:
        return _no_vf(gpu, tenancy, wish)
    if tenancy.use is Use.VF:
        return f"is split into {tenancy.profile} for other claims"
    if tenancy.use is not None and not use is tenancy.use is Use.SHARED:
        return _OTHER_USE[tenancy.use]
    return _too_little(gpu, tenancy, wish, use)


def _too_little(gpu: GpuRoom, tenancy: Tenancy, wish: Wish, use: Use) -> str:
    """Why the GPU itself, or a share of it, would not be enough, or empty."""
    if wish.claim.memory:
        if gpu.memory is None:
            return "has memory of unknown size"
        if wish.claim.memory > gpu.memory - tenancy.memory:
            return f"has {_size(gpu.memory - tenancy.memory)} left"
    if use is Use.SHARED and _share_millicores(wish) > WHOLE_GPU - tenancy.millicores:
        return f"has {WHOLE_GPU - tenancy.millicores} millicores left"
    return ""


def _share_millicores(wish: Wish) -> int:
    return wish.claim.millicores or UNSET_MILLICORES


def _no_vf(gpu: GpuRoom, tenancy: Tenancy, wish: Wish) -> str:
    """Why there is no VF to be had, or empty."""
    if tenancy.use in _OTHER_USE:
        return _OTHER_USE[tenancy.use]
    if tenancy.use is None:
        if any(_suffices(layout, wish) for layout in gpu.layouts):
            return ""
        return f"can have VFs of {_offer(gpu.layouts)} only"
    layout = _layout(gpu, tenancy)
    if layout is None:
        return f"is split into {tenancy.profile}, of which no more VFs are given"
    if not _suffices(layout, wish):
        return f"is split into {tenancy.profile} for other claims: VFs of {_offer((layout,))}"
    if len(tenancy.indexes) >= layout.count:
        return f"is split into {tenancy.profile}: all {layout.count} VFs are taken"
    return ""


def _suffices(layout: VfLayout, wish: Wish) -> bool:
    memory, millicores = wish.claim.memory, wish.claim.millicores
    enough = not memory or (layout.memory is not None and layout.memory >= memory)
    return enough and layout.millicores >= (millicores or 0)


def _layout(gpu: GpuRoom, tenancy: Tenancy) -> VfLayout | None:
    return next((layout for layout in gpu.layouts if layout.profile == tenancy.profile), None)


def _spot(gpu: GpuRoom, tenancy: Tenancy, use: Use, policy: Policy) -> Spot:
    """The GPU itself, for one claim or for several."""
    shared_already = tenancy.use is Use.SHARED
    work = Work.REMOVE_VFS if gpu.vfs_stand else Work.START_AFRESH
    if shared_already and policy.preferred is not PreferredAllocation.BALANCED:
        work = Work.NONE
    leaving = any(not use is device.use is Use.SHARED for device in gpu.leaving)
    rank: Rank = (leaving, True, work, 0, 0, policy.order(gpu, tenancy), gpu.name)
    return Spot(rank, gpu, use)


def _vf_spots(gpu: GpuRoom, tenancy: Tenancy, wish: Wish, policy: Policy) -> Iterable[Spot]:
    """VFs of the layout that it has, or of any that it could have."""
    present = _layout(gpu, tenancy)
    order = policy.order(gpu, tenancy)
    for layout in gpu.layouts if present is None else (present,):
        if not _suffices(layout, wish):
            continue
        costs = _work(gpu, tenancy, layout), layout.memory or 0, layout.millicores, order, gpu.name
        if not tenancy.indexes and not gpu.leaving:
            yield Spot((False, False, *costs), gpu, Use.VF, layout, range(layout.count))
            continue
        elsewhere = any(device.mode != layout.mode for device in gpu.leaving)
        being_left = {device.index for device in gpu.leaving if device.mode == layout.mode}
        free = [index for index in range(layout.count) if index not in tenancy.indexes]
        fresh = [index for index in free if index not in being_left]
        left = [index for index in free if index in being_left]
        for indexes, leaving in ((fresh, elsewhere), (left, True)):
            if indexes:
                yield Spot((leaving, False, *costs), gpu, Use.VF, layout, indexes)


def _work(gpu: GpuRoom, tenancy: Tenancy, layout: VfLayout) -> Work:
    """A GPU that is split for others, or by a person for good, is filled before another is split."""
    if tenancy.use is Use.VF or gpu.fixed:
        return Work.NONE
    if gpu.vfs_stand:
        return Work.KEEP_VFS if gpu.standing == layout.profile else Work.REMOVE_VFS
    return Work.START_AFRESH


def tenancy_after(tenancy: Tenancy, spot: Spot, indexes: Sequence[int], wish: Wish) -> Tenancy:
    """The tenancy with this wish's devices in it."""
    memory, millicores = charge_of(spot, wish)
    return Tenancy(
        use=spot.use,
        profile="" if spot.layout is None else spot.layout.profile,
        indexes=tenancy.indexes.union(indexes),
        memory=tenancy.memory + (memory or 0) * max(1, len(indexes)),
        millicores=tenancy.millicores + (millicores or UNSET_MILLICORES) * max(1, len(indexes)),
    )


def charge_of(spot: Spot, wish: Wish) -> tuple[int | None, int | None]:
    """Memory (bytes) and millicores of one device: a VF's are its layout's, a share's those asked for."""
    if spot.layout is not None:
        return spot.layout.memory, spot.layout.millicores
    return wish.claim.memory, _share_millicores(wish) if spot.use is Use.SHARED else None


def _offer(layouts: Sequence[VfLayout]) -> str:
    """How much VFs have at most, in words: enough memory does not mean enough millicores, and the other way."""
    biggest = max(layouts, key=lambda layout: (layout.memory or 0, layout.millicores))
    memory = "memory of unknown size" if biggest.memory is None else _size(biggest.memory)
    return f"{memory} and {biggest.millicores} millicores"


def _size(amount: int) -> str:
    return f"{max(0, amount) // MIB} MiB"
