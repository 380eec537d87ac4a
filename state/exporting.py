"""What is there now, as a manifest that wants just that."""

from __future__ import annotations

from state.cdi import file_name
from state.ids import LogicalDevice, Use
from state.layouts import layout_of
from state.manifest import (
    API_VERSION,
    KIND,
    KernelDriver,
    ManualAllocation,
    ManualDevice,
    Metadata,
    NodeState,
    Override,
    OverrideDriver,
    OverrideMode,
    Spec,
    VirtualFunctions,
)
from state.observed import VFIO_DRIVERS, Changing, Observed, PfSeen, SriovSeen, Unreadable
from state.profiles import ProfileTable
from state.records import AppliedDevice, Ownership

_OVERRIDE_DRIVERS = {
    "i915": OverrideDriver.I915,
    "xe": OverrideDriver.XE,
    "vfio-pci": OverrideDriver.VFIO,
    "xe-vfio-pci": OverrideDriver.XE_VFIO,
}


def export(observed: Observed, table: ProfileTable, name: str | None) -> NodeState:
    """The machine as a manifest: applying it changes nothing.

    Allocations of people come from the record of what was given to them, as far as it is still in place. VFs
    in a known layout become Fixed overrides, GPUs in any other unusual state are to be left alone (Ignore).
    """
    ownership = Ownership() if isinstance(observed.ownership, Unreadable) else observed.ownership
    allocations = tuple(
        ManualAllocation(name=key.removeprefix("alloc-"), devices=tuple(_device(device) for device in record))
        for key, record in sorted(ownership.applied.items())
        if key.startswith("alloc-") and _has_file(observed, key)
    )
    devices = [device for allocation in allocations for device in allocation.devices]
    passed = {_pf_of(device.device) for device in devices if _passed(device)}
    overrides = tuple(
        override
        for pf in sorted(observed.gpus)
        if (override := _override(observed.gpus[pf], table, passed_through=pf in passed)) is not None
    )
    return NodeState(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name=name),
        spec=Spec(overrides=overrides, manual_allocations=allocations),
    )


def _has_file(observed: Observed, key: str) -> bool:
    return not isinstance(observed.cdi, Unreadable) and any(seen.name == file_name(key) for seen in observed.cdi)


def _device(record: AppliedDevice) -> ManualDevice:
    return ManualDevice(
        device=record.device,
        memory=record.memory,
        kernel_driver=KernelDriver(record.kernel_driver),
        admin_access=record.admin_access,
    )


def _passed(device: ManualDevice) -> bool:
    return device.kernel_driver is not KernelDriver.DRM


def _pf_of(device: str) -> str:
    return "-".join(device.split("-")[:5])


def _override(seen: PfSeen | Changing, table: ProfileTable, *, passed_through: bool) -> Override | None:
    gpu = seen.last if isinstance(seen, Changing) else seen
    device = str(LogicalDevice(pf=gpu.name, use=Use.WHOLE))
    driver = gpu.function.driver
    if isinstance(gpu.sriov, Unreadable) or isinstance(driver, Unreadable):
        return Override(device=device, mode=OverrideMode.IGNORE, reason="can't be read now")
    if isinstance(gpu.sriov, SriovSeen) and gpu.sriov.enabled:
        layout = layout_of(gpu, table)
        if layout is None:
            reason = f"{gpu.sriov.enabled} VFs that follow no profile"
            return Override(device=device, mode=OverrideMode.IGNORE, reason=reason)
        return Override(
            device=device,
            mode=OverrideMode.FIXED,
            virtual_functions=VirtualFunctions(profile=layout.name),
        )
    if passed_through or driver == gpu.model.drm_driver or driver is None:
        return None
    known = _OVERRIDE_DRIVERS.get(driver)
    if known is None or (gpu.model.drm_driver is None and driver not in VFIO_DRIVERS):
        return Override(device=device, mode=OverrideMode.IGNORE, reason=f"bound to {driver}")
    return Override(device=device, mode=OverrideMode.FIXED, kernel_driver=known)
