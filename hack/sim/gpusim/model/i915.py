"""i915's SR-IOV provisioning: the prelim_iov (or iov) directory below a card (out-of-tree drivers)."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from gpusim.model import kstrto
from gpusim.model.drm import DrmDevice
from gpusim.model.kernel import Kernel
from gpusim.model.pci import PciFunction
from gpusim.model.quotas import LMEM_SPARE, MIB, Pool, i915_resources
from gpusim.model.tree import Attribute, constant, shown, stored, write_only
from gpusim.spec import GpuSpec

_THRESHOLDS = (
    "cat_error_count",
    "engine_reset_count",
    "page_fault_count",
    "h2g_time_us",
    "irq_time_us",
    "doorbell_time_us",
)
_SCHEDULING = ("exec_quantum_ms", "preempt_timeout_us")
_CONTROLS = ("stop", "pause", "resume", "clear")
_NEEDED = ("ggtt", "contexts", "lmem")
"""Without any of these a VF cannot work: enabling is refused with ENOKEY."""


class I915Provisioning:
    """Quotas per VF and tile, manual or automatic. Virtual functions are numbered from 1."""

    def __init__(self, kernel: Kernel, drm: DrmDevice, physical: PciFunction, gpu: GpuSpec) -> None:
        if gpu.sriov is None or gpu.sriov.iov is None:
            raise ValueError(f"{gpu.address}: not a physical function of i915")
        self._kernel = kernel
        self._physical = physical
        self._total = gpu.sriov.total
        self._numbered_gt = gpu.sriov.numbered_gt
        self._root = f"{drm.card.path}/{gpu.sriov.iov}"
        self._lock = threading.RLock()
        self._automatic = True
        self._released_at_disable = False
        self._enabled = 0
        lmem = (gpu.vram_mib * MIB) // gpu.tiles
        self._tiles = tuple(
            {resource.name: Pool(resource) for resource in i915_resources(lmem)} for _ in range(gpu.tiles)
        )
        self._numbers: dict[str, int] = {}
        """Everything that is neither a quota nor automatic, by path below the root."""
        self._build()
        if gpu.lmem_files and gpu.sriov.iov == "prelim_iov":
            kernel.tree.add_link(f"{drm.card.path}/iov", self._root)  # the backports know it by both names

    # Provisioning

    def provision(self, count: int) -> None:
        """Check a manual configuration or make an automatic one. ENOKEY if a manual one is incomplete."""
        with self._lock:
            if not self._automatic:
                for vf in range(1, count + 1):
                    if not all(tile[name].given(vf) for tile in self._tiles for name in _NEEDED if name in tile):
                        kstrto.fail(errno.ENOKEY, str(self._physical))
            else:
                self._share(count)
            self._enabled = count

    def link(self, vfs: tuple[PciFunction, ...]) -> None:
        for number, function in enumerate(vfs, start=1):
            self._kernel.tree.add_link(f"{self._root}/vf{number}/device", function.path)

    def unlink(self) -> None:
        for number in range(1, self._enabled + 1):
            self._kernel.tree.remove(f"{self._root}/vf{number}/device")

    def release(self) -> None:
        """A manual configuration stays, an automatic one goes."""
        with self._lock:
            if self._released_at_disable:
                self._clear()
            self._enabled = 0

    def remove(self) -> None:
        """All files are below the card, which removes them."""

    def memory(self, vf: int) -> int:
        with self._lock:
            return sum(tile["lmem"].given(vf) for tile in self._tiles if "lmem" in tile)

    def _share(self, count: int) -> None:
        shares = [{name: pool.share(count) for name, pool in tile.items()} for tile in self._tiles]
        if not all(share[name] for share in shares for name in share):
            kstrto.fail(errno.ENOSPC, str(self._physical))
        for tile, share in zip(self._tiles, shares, strict=True):
            for name, amount in share.items():
                for vf in range(1, count + 1):
                    tile[name].give(vf, amount)
        self._released_at_disable = True

    def _clear(self) -> None:
        for tile in self._tiles:
            for pool in tile.values():
                for vf in range(1, self._total + 1):
                    pool.give(vf, 0)
        self._released_at_disable = False

    def _configured(self) -> bool:
        quotas = (pool.given(vf) for tile in self._tiles for pool in tile.values() for vf in self._vfs)
        scheduling = (
            value for path, value in self._numbers.items() if path.startswith("vf") and path.endswith(_SCHEDULING)
        )
        return any(quotas) or any(scheduling)

    @property
    def _vfs(self) -> range:
        return range(1, self._total + 1)

    # Stores

    def _store_automatic(self, data: bytes) -> None:
        wanted = kstrto.switch(data)
        with self._lock:
            if wanted and not self._automatic and self._configured():
                kstrto.fail(errno.ESTALE)
            self._automatic = wanted

    def _go_manual(self) -> None:
        self._automatic = False
        self._released_at_disable = False

    def _store_quota(self, pool: Pool, vf: int, data: bytes) -> None:
        amount = kstrto.unsigned(data, pool.resource.bits)
        with self._lock:
            if vf <= self._enabled:
                kstrto.fail(errno.EBUSY)
            pool.give(vf, amount)
            self._go_manual()

    def _store_spare(self, pool: Pool, data: bytes) -> None:
        amount = kstrto.unsigned(data, pool.resource.bits)
        if pool.resource.name == "lmem" and 0 < amount < LMEM_SPARE:
            kstrto.fail(errno.EINVAL)
        with self._lock:
            pool.spare = amount

    # Files

    def _build(self) -> None:
        tree, root = self._kernel.tree, self._root
        tree.add(f"{root}/mode", constant("SR-IOV PF"))
        tree.add(f"{root}/pf/auto_provisioning", stored(lambda: int(self._automatic), self._store_automatic))
        tree.add_link(f"{root}/pf/device", self._physical.path)
        for index, tile in enumerate(self._tiles):
            self._build_physical(f"pf/{self._gt_name(index)}", tile)
        for vf in self._vfs:
            tree.add(f"{root}/vf{vf}/id", constant(vf))
            tree.add(f"{root}/vf{vf}/control", write_only(self._store_control))
            if "lmem" in self._tiles[0]:
                tree.add(f"{root}/vf{vf}/telemetry/lmem_alloc_size", shown(lambda: 0))
            for index, tile in enumerate(self._tiles):
                self._build_virtual(f"vf{vf}/{self._gt_name(index)}", vf, tile)

    def _gt_name(self, index: int) -> str:
        return "gt" if len(self._tiles) == 1 and not self._numbered_gt else f"gt{index}"

    def _build_physical(self, directory: str, tile: dict[str, Pool]) -> None:
        tree = self._kernel.tree
        for name in _SCHEDULING:
            self._add_number(f"{directory}/{name}", 32)
        self._add_number(f"{directory}/sched_priority", 8)
        for name in ("sched_if_idle", "engine_reset"):
            self._add_number(f"{directory}/policies/{name}", 0)
        self._add_number(f"{directory}/policies/sample_period_ms", 32)
        for name, pool in tile.items():
            path = f"{self._root}/{directory}"
            tree.add(f"{path}/{name}_spare", stored(_spare(pool), self._bind_spare(pool)))
            for ending in ("free", "max_quota"):
                tree.add(f"{path}/available/{name}_{ending}", shown(_free(pool)))

    def _build_virtual(self, directory: str, vf: int, tile: dict[str, Pool]) -> None:
        tree, path = self._kernel.tree, f"{self._root}/{directory}"
        for name in _SCHEDULING:
            self._add_number(f"{directory}/{name}", 32, manual=True)
        for name in _THRESHOLDS:
            self._add_number(f"{directory}/threshold/{name}", 32)
        for name, pool in tile.items():
            tree.add(f"{path}/{name}_quota", stored(_given(pool, vf), self._bind_quota(pool, vf)))
        tree.add(f"{path}/state", Attribute(mode=0o600, show=lambda: bytes(4096), store=lambda data: None))

    def _bind_quota(self, pool: Pool, vf: int) -> Callable[[bytes], None]:
        return lambda data: self._store_quota(pool, vf, data)

    def _bind_spare(self, pool: Pool) -> Callable[[bytes], None]:
        return lambda data: self._store_spare(pool, data)

    def _add_number(self, path: str, bits: int, *, manual: bool = False) -> None:
        """A number that is only remembered; bits 0 = a switch; `manual` ends automatic provisioning."""
        self._numbers[path] = 0

        def store(data: bytes) -> None:
            value = kstrto.unsigned(data, bits) if bits else int(kstrto.switch(data))
            with self._lock:
                self._numbers[path] = value
                if manual:
                    self._go_manual()

        self._kernel.tree.add(f"{self._root}/{path}", stored(lambda: self._numbers[path], store))

    def _store_control(self, data: bytes) -> None:
        kstrto.choice(data, _CONTROLS)


def _given(pool: Pool, vf: int) -> Callable[[], int]:
    return lambda: pool.given(vf)


def _spare(pool: Pool) -> Callable[[], int]:
    return lambda: pool.spare


def _free(pool: Pool) -> Callable[[], int]:
    return lambda: pool.free
