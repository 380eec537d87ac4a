"""What xe knows of each function of a GPU: quotas per tile, scheduling per GT. No files here."""

from __future__ import annotations

import errno
import threading

from gpusim.model import kstrto
from gpusim.model.quotas import MIB, Pool, xe_resources
from gpusim.spec import GpuSpec

PRIORITIES = ("low", "normal", "high")
SCHEDULING = ("exec_quantum_ms", "preempt_timeout_us")


class XeState:
    """Function 0 is the physical one, virtual ones follow from 1. Callable from several threads."""

    def __init__(self, gpu: GpuSpec, total: int) -> None:
        self.total = total
        self.locked_down = False
        self.enabled = 0
        self.gts = tuple((tile, gt) for tile in range(gpu.tiles) for gt in range(gpu.gts_per_tile))
        vram = (gpu.vram_mib * MIB) // gpu.tiles
        self.tiles = tuple(
            {resource.name: Pool(resource) for resource in xe_resources(vram)} for _ in range(gpu.tiles)
        )
        self._address = gpu.address
        self._scheduling: dict[tuple[str, int, int, int], int] = {}
        self._priority: dict[int, int] = {}
        self._lock = threading.RLock()

    def provision(self, count: int) -> None:
        """Share out what nobody set. EUCLEAN if a quota is set for some of these VFs only; EPERM when locked."""
        with self._lock:
            if self.locked_down:
                kstrto.fail(errno.EPERM, self._address)
            vfs = range(1, count + 1)
            for tile in self.tiles:
                for pool in tile.values():
                    given = [vf for vf in vfs if pool.given(vf)]
                    if given and len(given) < count:
                        kstrto.fail(errno.EUCLEAN, self._address)
            for tile in self.tiles:
                for pool in tile.values():
                    if not pool.given(1):
                        amount = pool.share(count)
                        for vf in vfs:
                            pool.give(vf, amount)
            self.enabled = count

    def release(self) -> None:
        """Everything about virtual functions is forgotten when they are disabled."""
        with self._lock:
            self.enabled = 0
            for tile in self.tiles:
                for pool in tile.values():
                    for vf in range(1, self.total + 1):
                        pool.give(vf, 0)
            self._scheduling = {key: value for key, value in self._scheduling.items() if key[1] == 0}

    def restore_automatic(self) -> None:
        """Drop all quotas set by hand. EBUSY while virtual functions are enabled."""
        with self._lock:
            if self.enabled:
                kstrto.fail(errno.EBUSY, self._address)
            self.release()

    # Scheduling: per GT, read together they must agree

    def scheduling(self, name: str, function: int, tile: int, gt: int) -> int:
        return self._scheduling.get((name, function, tile, gt), 0)

    def set_scheduling(self, name: str, function: int, tile: int, gt: int, value: int) -> None:
        with self._lock:
            self._scheduling[name, function, tile, gt] = value

    def scheduling_of_all(self, name: str, function: int) -> int:
        """EUCLEAN if the GTs differ."""
        values = {self.scheduling(name, function, tile, gt) for tile, gt in self.gts}
        if len(values) > 1:
            kstrto.fail(errno.EUCLEAN, self._address)
        return values.pop()

    def set_scheduling_of_all(self, name: str, functions: range, value: int) -> None:
        with self._lock:
            for function in functions:
                for tile, gt in self.gts:
                    self._scheduling[name, function, tile, gt] = value

    def priority(self, function: int) -> str:
        """All choices, the one in force in brackets; virtual functions have no `high`."""
        chosen = self._priority.get(function, 0)
        names = PRIORITIES if function == 0 else PRIORITIES[:2]
        return " ".join(f"[{name}]" if index == chosen else name for index, name in enumerate(names))

    def set_priority(self, functions: range, name: str) -> None:
        with self._lock:
            for function in functions:
                self._priority[function] = PRIORITIES.index(name)

    # Quotas

    def vram(self, function: int) -> int:
        """Bytes of local memory of a virtual function, over all tiles."""
        return sum(tile["vram"].given(function) for tile in self.tiles if "vram" in tile)

    def set_vram(self, functions: range, amount: int) -> None:
        """The same quota for each of these, divided over the tiles. All or nothing."""
        with self._lock:
            before = {function: self.vram(function) for function in functions}
            try:
                for function in functions:
                    self._set_vram(function, amount)
            except OSError:
                for function in functions:
                    self._set_vram(function, 0)
                for function, old in before.items():
                    self._set_vram(function, old)
                raise

    def _set_vram(self, function: int, amount: int) -> None:
        for tile in self.tiles:
            self.set_quota(tile["vram"], function, -(-amount // len(self.tiles)))

    def set_quota(self, pool: Pool, function: int, amount: int) -> None:
        """EBUSY for a virtual function that is enabled; ENOSPC if there is not as much."""
        with self._lock:
            if 0 < function <= self.enabled:
                kstrto.fail(errno.EBUSY, self._address)
            pool.give(function, amount)
