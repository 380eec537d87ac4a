"""From a claim to what it means for one node: GPUs, layouts, drivers. Only VF numbers are left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from state.dra.gpu_config import ConfigRefusedError, config_of
from state.dra.node_object import EntryDevice, SeenConfig, SeenFunction, SeenRefusal
from state.dra.quantities import whole_units
from state.dra.resource_claims import Claim, ClaimRef, Result
from state.ids import LogicalDevice, Use, parse_device_name, parse_logical_device
from state.manifest import ClaimRefusal, KernelDriver
from state.mismatches import shown
from state.profiles import Profile, ProfileTable

_MOST_VFS: Final = 0xFFFF
"""As many VFs as SR-IOV can name: how many a GPU really has, its node judges."""

_MOST: Final = 2**63 - 1
_FORMS: Final = ("<gpu>", "<gpu>-<mode>", "<gpu>-<mode>-vf<index>", "<gpu>-shared", "<gpu>-monitor")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedDevice:
    """A device of an entry, complete but for the VF's index if ``layout`` is set: then one has to be chosen."""

    device: EntryDevice
    layout: Profile | None
    mode: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What a claim wants of one node. A refused claim has no devices."""

    uid: str
    ref: ClaimRef
    devices: tuple[ProjectedDevice, ...]
    config: tuple[tuple[str, SeenConfig], ...]
    refused: SeenRefusal | None = None


def project(claim: Claim, node: str, table: ProfileTable) -> Projection:
    """The claim's devices on ``node``, or why they are refused: the first reason found, in the claim's order."""
    try:
        devices = []
        config: dict[str, SeenConfig] = {}
        for result in claim.on(node):
            configured = config_of(result.request, claim.configs)
            if configured is not None:
                config[result.request] = SeenConfig(kernel_driver=configured.kernel_driver)
            driver = configured.kernel_driver if configured else KernelDriver.DRM
            devices.append(_device(result, driver, table))
        return Projection(
            uid=claim.uid, ref=claim.ref, devices=tuple(devices), config=tuple(sorted(config.items()))
        )
    except (ConfigRefusedError, _RefusedError) as error:
        refused = SeenRefusal(path=error.refusal.path, reason=error.refusal.reason)
        return Projection(uid=claim.uid, ref=claim.ref, devices=(), config=(), refused=refused)


class _RefusedError(Exception):
    def __init__(self, path: str, reason: str, allowed: Sequence[str] = ()) -> None:
        reason += f" (allowed: {', '.join(allowed)})" if allowed else ""
        super().__init__(f"{path}: {reason}")
        self.refusal = ClaimRefusal(path=path, reason=reason)


def _device(result: Result, driver: KernelDriver, table: ProfileTable) -> ProjectedDevice:
    path = f"status.allocation.devices.results[{result.position}]"
    try:
        logical = parse_logical_device(result.device)
    except ValueError as error:
        raise _RefusedError(f"{path}.device", f"{shown(result.device)} is no device of ours", _FORMS) from error
    _check_use(logical, result, driver, path)
    profile = _profile(logical, table, f"{path}.device") if logical.use is Use.VF else None
    pinned = None
    if profile is not None and logical.index is not None:
        pinned = SeenFunction(profile=profile.name, index=logical.index)
    device = EntryDevice(
        request=result.request,
        pool=result.pool,
        device=result.device,
        physical_function=logical.pf,
        share_id=result.share_id,
        virtual_function=pinned,
        memory=_consumed(result, "memory", path),
        millicores=_consumed(result, "millicores", path),
        admin_access=result.admin_access,
        kernel_driver=driver,
    )
    return ProjectedDevice(
        device=device, layout=None if pinned else profile, mode=logical.mode, path=f"{path}.device"
    )


def _check_use(logical: LogicalDevice, result: Result, driver: KernelDriver, path: str) -> None:
    """Raise for combinations that no node can serve."""
    if logical.use is Use.MONITOR and not result.admin_access:
        raise _RefusedError(f"{path}.adminAccess", "a monitor device needs admin access", ("true",))
    if result.admin_access and logical.use is Use.VF and logical.index is None:
        why = f"admin access to {logical} means no certain VF; take {logical.pf}-monitor"
        raise _RefusedError(f"{path}.device", why)
    if driver is KernelDriver.DRM:
        return
    if result.admin_access:
        why = f"admin access changes nothing on a device, so it can't have kernelDriver {driver.value}"
        raise _RefusedError(f"{path}.adminAccess", why, ("false",))
    if logical.use is Use.SHARED:
        why = f"{logical} is shared with others, so it can't have kernelDriver {driver.value}"
        raise _RefusedError(f"{path}.device", why)


def _profile(logical: LogicalDevice, table: ProfileTable, path: str) -> Profile:
    _, device_id = parse_device_name(logical.pf)
    profile = table.find(device_id, logical.mode, total_vfs=_MOST_VFS)
    if profile is None:
        known = (*(one.mode for one in table.of(device_id)), "fs<n>")
        raise _RefusedError(path, f"{logical}: GPUs 0x{device_id:04x} have no VF layout {logical.mode!r}", known)
    if logical.index is not None and logical.index >= profile.count:
        raise _RefusedError(path, f"{logical}: {profile.name} has VFs 0 to {profile.count - 1} only")
    return profile


def _consumed(result: Result, capacity: str, path: str) -> int | None:
    text = dict(result.consumed).get(capacity)
    if text is None:
        return None
    try:
        value = whole_units(text)
    except ValueError as error:
        raise _RefusedError(f"{path}.consumedCapacity.{capacity}", str(error)) from error
    if not 1 <= value <= _MOST:
        raise _RefusedError(f"{path}.consumedCapacity.{capacity}", f"{text} is not a number from 1 to {_MOST}")
    return value
