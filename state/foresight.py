"""What a machine would look like after a plan, if everything went well: for showing all of it beforehand.

A plan holds only the next wave. Here waves are played through on paper until nothing is left to do. Card
numbers and the like, which only the kernel hands out, are stand-ins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from state.actions import (
    Action,
    BindDriver,
    RemoveCdiSpec,
    ResetProvisioning,
    SetNumVfs,
    SetVfProfile,
    WriteCdiSpec,
)
from state.ids import PciAddress
from state.observed import (
    DRM_DRIVERS,
    CdiFileSeen,
    DeviceNode,
    FunctionSeen,
    Observed,
    PfSeen,
    SriovSeen,
    Unreadable,
    VfSeen,
    with_origins,
)
from state.planning import Plan
from state.profiles import EMPTY_TILE_QUOTA

MOST_WAVES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """The actions of all waves in order, and the last plan: what would be left waiting, and every outcome."""

    actions: tuple[Action, ...]
    last: Plan


def foresee(observed: Observed, plan: Callable[[Observed], Plan]) -> Foreseen:
    """Play ``plan`` through from ``observed`` until it is empty."""
    actions: list[Action] = []
    todo = plan(observed)
    for _ in range(MOST_WAVES):
        if not todo.actions:
            break
        actions += todo.actions
        observed = after(observed, todo)
        todo = plan(observed)
    return Foreseen(actions=tuple(actions), last=todo)


def after(observed: Observed, todo: Plan) -> Observed:
    """``observed`` after the records and actions of one wave."""
    if todo.ownership is not None:
        observed = replace(observed, ownership=todo.ownership)
    if todo.held is not None:
        observed = replace(observed, held=todo.held)
    for action in todo.actions:
        match action:
            case WriteCdiSpec():
                file = CdiFileSeen(name=action.file, content=action.content)
                observed = _with_files(observed, action.file, file)
            case RemoveCdiSpec():
                observed = _with_files(observed, action.file, None)
            case SetNumVfs() | SetVfProfile() | ResetProvisioning() | BindDriver():
                observed = _with_gpu(observed, action)
            case _:
                assert_never(action)
    return with_origins(observed)


def _with_files(observed: Observed, name: str, file: CdiFileSeen | None) -> Observed:
    if isinstance(observed.cdi, Unreadable):
        return observed
    others = [seen for seen in observed.cdi if seen.name != name]
    files = others if file is None else [*others, file]
    return replace(observed, cdi=tuple(sorted(files, key=lambda seen: seen.name)))


def _with_gpu(observed: Observed, action: SetNumVfs | SetVfProfile | ResetProvisioning | BindDriver) -> Observed:
    gpu = observed.gpus.get(action.pf)
    if not isinstance(gpu, PfSeen):
        return observed
    if isinstance(action, BindDriver):
        changed = _bound(gpu, action)
    elif isinstance(gpu.sriov, SriovSeen):
        changed = replace(gpu, sriov=_split(gpu, gpu.sriov, action))
    else:
        changed = gpu
    gpus = {name: changed if name == action.pf else seen for name, seen in observed.gpus.items()}
    return replace(observed, gpus=gpus)


def _split(gpu: PfSeen, sriov: SriovSeen, action: SetNumVfs | SetVfProfile | ResetProvisioning) -> SriovSeen:
    provisioning = sriov.provisioning
    match action:
        case SetNumVfs():
            driver = gpu.drm_driver if sriov.autoprobe else None
            vfs = tuple(_new_vf(gpu, index, driver) for index in range(action.count))
            return replace(sriov, enabled=action.count, vfs=vfs)
        case SetVfProfile() if provisioning is not None:
            quota = (action.quota,) * provisioning.tiles
            empty = (EMPTY_TILE_QUOTA,) * provisioning.tiles
            quotas = (quota,) * action.count + (empty,) * (sriov.total - action.count)
            automatic = None if provisioning.automatic is None else False
            return replace(sriov, provisioning=replace(provisioning, automatic=automatic, quotas=quotas))
        case ResetProvisioning() if provisioning is not None:
            automatic = None if provisioning.automatic is None else True
            return replace(sriov, provisioning=replace(provisioning, automatic=automatic, quotas=()))
        case _:
            return sriov


def _new_vf(gpu: PfSeen, index: int, driver: str | None) -> VfSeen:
    # Each VF of an Intel GPU gets an IOMMU group of its own; the number is a stand-in.
    function = FunctionSeen(address=vf_address(gpu.function.address, index), driver=None, iommu_group=index)
    return VfSeen(index=index, function=_with_driver(function, driver))


def vf_address(physical: PciAddress, index: int) -> PciAddress:
    """Where VF ``index`` appears: routing id of the GPU + 1 + index (offset and stride 1 on Intel GPUs)."""
    domain, bus, rest = physical.split(":")
    slot, function = rest.split(".")
    number = (int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)) + 1 + index
    return PciAddress(f"{domain}:{number >> 8:02x}:{number >> 3 & 0x1F:02x}.{number & 7}")


def _bound(gpu: PfSeen, action: BindDriver) -> PfSeen:
    if not action.slot.is_vf:
        return replace(gpu, function=_with_driver(gpu.function, action.driver))
    if not isinstance(gpu.sriov, SriovSeen):
        return gpu
    vfs = tuple(_rebound(vf, action) for vf in gpu.sriov.vfs)
    return replace(gpu, sriov=replace(gpu.sriov, vfs=vfs))


def _rebound(vf: VfSeen, action: BindDriver) -> VfSeen:
    if vf.index != action.slot.vf:
        return vf
    return replace(vf, function=_with_driver(vf.function, action.driver))


def _with_driver(function: FunctionSeen, driver: str | None) -> FunctionSeen:
    drm = _nodes("dri/card?", "dri/renderD?") if driver in DRM_DRIVERS else ()
    vfio = _nodes("vfio/?", "vfio/vfio") if driver not in (None, *DRM_DRIVERS) else ()
    return replace(function, driver=driver, drm=drm, by_path=(), vfio=vfio)


def _nodes(*paths: str) -> tuple[DeviceNode, ...]:
    return tuple(DeviceNode(path=path, major=0, minor=0) for path in paths)
