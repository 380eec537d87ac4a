"""xe's SR-IOV files below kernel/debug/dri/<address>/sriov (layout since Linux 6.19)."""

from __future__ import annotations

from collections.abc import Callable

from gpusim.model import kstrto
from gpusim.model.kernel import Kernel
from gpusim.model.pci import PciFunction
from gpusim.model.quotas import Pool
from gpusim.model.tree import constant, shown, stored, write_only
from gpusim.model.xe_state import SCHEDULING, XeState

_PER_TILE = ("ggtt", "vram")
_PER_GT = ("contexts", "doorbells")
_CONTROLS = ("pause", "resume", "stop", "reset")
_POLICIES = ("sched_if_idle", "reset_engine")
_THRESHOLDS = (
    "cat_error_count",
    "engine_reset_count",
    "page_fault_count",
    "guc_time_us",
    "irq_time_us",
    "doorbell_time_us",
)


class XeDebugfs:
    """Files over a GPU's state; quotas of contexts and doorbells show under every GT of the tile."""

    def __init__(self, kernel: Kernel, physical: PciFunction, state: XeState) -> None:
        self._kernel = kernel
        self._device = f"kernel/debug/dri/{physical}"
        self._root = f"{self._device}/sriov"
        self._state = state
        self._numbers: dict[str, int] = {}
        tree, root = kernel.tree, self._root
        tree.add(f"{self._device}/name", constant(f"xe dev={physical} unique={physical}"))
        tree.add(f"{root}/restore_auto_provisioning", write_only(self._store_restore))
        tree.add(f"{root}/lockdown_vfs_enabling", stored(lambda: "NY"[state.locked_down], self._store_lockdown))
        tree.add(f"{root}/pf/vfs", shown(lambda: f"total: {state.total}\nenabled: {state.enabled}"))
        tree.add(f"{root}/pf/versions", constant("base: 1.0\nlatest: 1.0"))
        self._build_physical()
        for vf in range(1, state.total + 1):
            self._build_virtual(vf)

    def remove(self) -> None:
        self._kernel.tree.remove(self._device)

    def _build_physical(self) -> None:
        tree, root = self._kernel.tree, f"{self._root}/pf"
        for tile, pools in enumerate(self._state.tiles):
            for name in (name for name in _PER_TILE if name in pools):
                pool = pools[name]
                tree.add(f"{root}/tile{tile}/{name}_spare", stored(_spare(pool), _set_spare(pool)))
                tree.add(f"{root}/tile{tile}/{name}_available", shown(_free(pool)))
                tree.add(f"{root}/tile{tile}/{name}_provisioned", shown(self._provisioned(pool)))
        for tile, gt in self._state.gts:
            directory = f"pf/tile{tile}/gt{gt}"
            for name in _PER_GT:
                pool = self._state.tiles[tile][name]
                tree.add(f"{self._root}/{directory}/{name}_spare", stored(_spare(pool), _set_spare(pool)))
            for name in (*_POLICIES, "sample_period_ms"):
                self._add_number(f"{directory}/{name}")
            tree.add(f"{self._root}/{directory}/adverse_events", shown(lambda: ""))
            self._add_scheduling(directory, 0, tile, gt)

    def _build_virtual(self, vf: int) -> None:
        tree, directory = self._kernel.tree, f"vf{vf}"
        for name in _CONTROLS:
            tree.add(f"{self._root}/{directory}/{name}", write_only(_check_switch))
        for tile, pools in enumerate(self._state.tiles):
            for name in (name for name in _PER_TILE if name in pools):
                self._add_quota(f"{directory}/tile{tile}/{name}_quota", pools[name], vf)
        for tile, gt in self._state.gts:
            below = f"{directory}/tile{tile}/gt{gt}"
            for name in _PER_GT:
                self._add_quota(f"{below}/{name}_quota", self._state.tiles[tile][name], vf)
            for name in _THRESHOLDS:
                self._add_number(f"{below}/threshold_{name}")
            self._add_scheduling(below, vf, tile, gt)

    def _add_quota(self, path: str, pool: Pool, vf: int) -> None:
        def store(data: bytes) -> None:
            self._state.set_quota(pool, vf, kstrto.unsigned(data, pool.resource.bits))

        self._kernel.tree.add(f"{self._root}/{path}", stored(lambda: pool.given(vf), store))

    def _add_scheduling(self, directory: str, function: int, tile: int, gt: int) -> None:
        for name in SCHEDULING:
            show, store = self._scheduling(name, function, tile, gt)
            self._kernel.tree.add(f"{self._root}/{directory}/{name}", stored(show, store))

    def _scheduling(
        self, name: str, function: int, tile: int, gt: int
    ) -> tuple[Callable[[], int], Callable[[bytes], None]]:
        def store(data: bytes) -> None:
            self._state.set_scheduling(name, function, tile, gt, kstrto.unsigned(data, 32))

        return lambda: self._state.scheduling(name, function, tile, gt), store

    def _add_number(self, path: str) -> None:
        self._numbers[path] = 0

        def store(data: bytes) -> None:
            self._numbers[path] = kstrto.unsigned(data, 32)

        self._kernel.tree.add(f"{self._root}/{path}", stored(lambda: self._numbers[path], store))

    def _provisioned(self, pool: Pool) -> Callable[[], str]:
        vfs = range(1, self._state.total + 1)
        return lambda: "\n".join(f"VF{vf}: {pool.given(vf)}" for vf in vfs if pool.given(vf))

    def _store_restore(self, data: bytes) -> None:
        if kstrto.switch(data):
            self._state.restore_automatic()

    def _store_lockdown(self, data: bytes) -> None:
        self._state.locked_down = kstrto.switch(data)


def _check_switch(data: bytes) -> None:
    kstrto.switch(data)


def _spare(pool: Pool) -> Callable[[], int]:
    return lambda: pool.spare


def _free(pool: Pool) -> Callable[[], int]:
    return lambda: pool.free


def _set_spare(pool: Pool) -> Callable[[bytes], None]:
    def store(data: bytes) -> None:
        pool.spare = kstrto.unsigned(data, pool.resource.bits)

    return store
