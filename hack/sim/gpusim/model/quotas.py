"""Resources of a GPU that its driver divides among virtual functions, one pool per tile or GT."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from gpusim.model import kstrto

MIB = 1 << 20
GGTT_BYTES = (4 << 30) - 32 * MIB
"""The global graphics translation table covers 4 GiB, less what the microcontroller's memory takes."""
LMEM_SPARE = 128 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What there is of one thing, how it is rounded up, and which errnos refuse too much of it."""

    name: str
    bits: int
    total: int
    granule: int = 1
    spare: int = 0
    """Kept for the physical function."""
    above_total: int
    above_limit: int
    """Asked for more than all that virtual functions may have together."""
    above_free: int
    """Asked for more than the others leave."""


def i915_resources(lmem_bytes: int) -> tuple[Resource, ...]:
    """One tile's resources under i915. No `lmem` without local memory."""
    ggtt = _resource("ggtt", 64, GGTT_BYTES, (errno.E2BIG, errno.EDQUOT, errno.EDQUOT), 4096, 64 * MIB)
    contexts = _resource("contexts", 16, 65536, (errno.EDQUOT, errno.EDQUOT, errno.ENOSPC), 128, 256)
    doorbells = _resource("doorbells", 16, 256, (errno.EDQUOT, errno.EDQUOT, errno.ENOSPC), 1, 16)
    if not lmem_bytes:
        return ggtt, contexts, doorbells
    refusals = (errno.EDQUOT, errno.EDQUOT, errno.EDQUOT)
    return ggtt, contexts, doorbells, _resource("lmem", 64, lmem_bytes, refusals, 2 * MIB, LMEM_SPARE)


def xe_resources(vram_bytes: int) -> tuple[Resource, ...]:
    """One tile's resources under xe. No `vram` without local memory."""
    full = (errno.ENOSPC, errno.ENOSPC, errno.ENOSPC)
    ggtt = _resource("ggtt", 64, GGTT_BYTES, full, 4096, 64 * MIB)
    contexts = _resource("contexts", 32, 65535, full, 1, 256)
    doorbells = _resource("doorbells", 32, 256, full, 1, 0)
    if not vram_bytes:
        return ggtt, contexts, doorbells
    return ggtt, contexts, doorbells, _resource("vram", 64, vram_bytes, full, 2 * MIB, LMEM_SPARE)


def _resource(
    name: str, bits: int, total: int, refusals: tuple[int, int, int], granule: int, spare: int
) -> Resource:
    above_total, above_limit, above_free = refusals
    return Resource(
        name=name,
        bits=bits,
        total=total,
        granule=granule,
        spare=spare,
        above_total=above_total,
        above_limit=above_limit,
        above_free=above_free,
    )


class Pool:
    """One resource of one tile and who has how much of it. Callers do the locking."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.spare = resource.spare
        self._given: dict[int, int] = {}

    def given(self, vf: int) -> int:
        return self._given.get(vf, 0)

    @property
    def limit(self) -> int:
        """All that virtual functions may have together."""
        return max(self.resource.total - self.spare, 0)

    @property
    def free(self) -> int:
        return max(self.limit - sum(self._given.values()), 0)

    def give(self, vf: int, amount: int) -> None:
        """Set a quota, rounded up; 0 takes it back. Raises OSError if there is not as much."""
        resource = self.resource
        rounded = -(-amount // resource.granule) * resource.granule
        if rounded > resource.total:
            kstrto.fail(resource.above_total)
        if rounded > self.limit:
            kstrto.fail(resource.above_limit)
        if rounded > self.free + self.given(vf):
            kstrto.fail(resource.above_free)
        if rounded:
            self._given[vf] = rounded
        else:
            self._given.pop(vf, None)

    def share(self, count: int) -> int:
        """An equal share of what is free, rounded down."""
        granule = self.resource.granule
        return self.free // count // granule * granule
