"""Judges names of devices, profiles and drivers against the machine: what they mean, or why they can't be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from state.ids import DeviceName, LogicalDevice, Use, parse_device_name
from state.manifest import (
    AllocatedDevice,
    ClaimAllocation,
    KernelDriver,
    ManualAllocation,
    Override,
    OverrideDriver,
)
from state.observed import DRM_DRIVERS, Changing, PfSeen, SriovSeen, Unreadable
from state.profiles import Profile, ProfileTable
from state.records import AppliedDevice
from state.usage import logical_of, slot_of
from state.wanted import Gpus, RefusedError, WantedDevice, WantedOverride

_MOST_VFS = 0xFFFF
"""As many VFs as SR-IOV's TotalVFs field can name: assumed while the real number can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """All methods raise RefusedError, with the field's path and the allowed values.

    What can't be read now is given the benefit of the doubt: refused is only what no waiting can mend.
    ``kept_at`` has the DRM drivers that overrides name: what the driver bound until then can't do says nothing.
    """

    gpus: Gpus
    table: ProfileTable
    kept_at: Mapping[str, str] = field(default_factory=dict)
    _profiles: dict[tuple[DeviceName, str], Profile] = field(default_factory=dict)

    def manual(self, manual: ManualAllocation, path: str) -> tuple[WantedDevice, ...]:
        """The devices of a manual allocation."""
        if manual.name.startswith(("claim-", "alloc-")):
            why = f"{manual.name!r}: names beginning with 'claim-' or 'alloc-' are CDI device names of ours"
            raise RefusedError(f"{path}.name", why)
        asked = (
            AppliedDevice(
                device=wanted.device,
                kernel_driver=wanted.kernel_driver.value,
                memory=wanted.memory,
                admin_access=wanted.admin_access,
            )
            for wanted in manual.devices
        )
        return self._together(asked, path)

    def claim(self, claim: ClaimAllocation, path: str) -> tuple[WantedDevice, ...]:
        """The devices of a claim, unless the controller refuses it."""
        if claim.refused is not None:
            raise RefusedError(claim.refused.path, claim.refused.reason)
        asked = (
            AppliedDevice(
                device=_device_name(allocated),
                kernel_driver=allocated.kernel_driver.value,
                memory=allocated.memory,
                admin_access=allocated.admin_access,
                request=allocated.request,
                share_id=allocated.share_id,
            )
            for allocated in claim.devices
        )
        return self._together(asked, path)

    def recorded(self, record: AppliedDevice) -> WantedDevice:
        """A device that was given out, as a wanted one again: judged only as far as it must be to keep it."""
        path = f"record of {record.device}"
        logical = _parse(record, path, self.gpus)
        gpu = self._gpu(logical.pf, path)
        profile = None
        if record.profile:
            profile = self.table.find(gpu.device_id, record.profile, total_vfs=_MOST_VFS)
            if profile is None:
                raise RefusedError(path, f"{gpu.name} has no VF profile {record.profile!r}")
        driver = self._driver(gpu, logical, KernelDriver(record.kernel_driver), path)
        return WantedDevice(logical=logical, slot=slot_of(logical), driver=driver, profile=profile, record=record)

    def override(self, override: Override, path: str) -> WantedOverride:
        """What an override asks for."""
        gpu = self._gpu(self.overridden(override, path), f"{path}.device")
        profile = None
        if override.virtual_functions is not None:
            field_path = f"{path}.virtualFunctions.profile"
            profile = self._profile(gpu, override.virtual_functions.profile, field_path)
        driver = None
        if override.kernel_driver is not None:
            driver = self._override_driver(gpu, override.kernel_driver, f"{path}.kernelDriver")
        return WantedOverride(
            mode=override.mode, path=path, profile=profile, driver=driver, reason=override.reason
        )

    def overridden(self, override: Override, path: str) -> DeviceName:
        """The GPU an override is about."""
        try:
            parse_device_name(override.device)
        except ValueError as error:
            raise RefusedError(f"{path}.device", str(error), tuple(sorted(self.gpus))) from None
        return self._gpu(DeviceName(override.device), f"{path}.device").name

    def _gpu(self, name: DeviceName, path: str) -> PfSeen:
        seen = self.gpus.get(name)
        if seen is None:
            known = tuple(sorted(self.gpus)) or ("none: no Intel GPU",)
            raise RefusedError(path, f"there is no GPU {name!r} on this machine", known, name)
        return seen.last if isinstance(seen, Changing) else seen

    def _together(self, asked: Iterable[AppliedDevice], path: str) -> tuple[WantedDevice, ...]:
        devices = tuple(self._device(device, f"{path}.devices[{index}]") for index, device in enumerate(asked))
        _check_compatible(devices, path)
        return devices

    def _device(self, asked: AppliedDevice, path: str) -> WantedDevice:
        """The device asked for, told in the words of its record, which lacks only the profile."""
        logical = _parse(asked, f"{path}.device", self.gpus)
        gpu = self._gpu(logical.pf, f"{path}.device")
        profile = None
        if logical.use is Use.VF:
            profile = self._profile(gpu, logical.mode, f"{path}.device")
            _check_index(logical, profile, f"{path}.device")
        if logical.use is Use.MONITOR and not asked.admin_access:
            raise RefusedError(f"{path}.adminAccess", "a monitor device needs admin access", ("true",))
        _check_memory(gpu, logical, profile, asked.memory, f"{path}.memory")
        kernel_driver = KernelDriver(asked.kernel_driver)
        return WantedDevice(
            logical=logical,
            slot=slot_of(logical),
            driver=self._driver(gpu, logical, kernel_driver, f"{path}.kernelDriver"),
            profile=profile,
            record=asked if profile is None else replace(asked, profile=profile.name),
        )

    def _profile(self, gpu: PfSeen, name: str, path: str) -> Profile:
        """Looked for once for a GPU and layout, not once for each VF of it."""
        found = self._profiles.get((gpu.name, name))
        if found is None:
            found = self._profiles[gpu.name, name] = self._find_profile(gpu, name, path)
        return found

    def _find_profile(self, gpu: PfSeen, name: str, path: str) -> Profile:
        total = _MOST_VFS if isinstance(gpu.sriov, Unreadable) else gpu.total_vfs
        names = self.table.names(gpu.device_id, total_vfs=total)
        if not names:
            raise RefusedError(path, f"{gpu.name} ({gpu.model.name}) has no SR-IOV virtual functions")
        profile = self.table.find(gpu.device_id, name, total_vfs=total)
        if profile is None:
            raise RefusedError(path, f"{gpu.name} ({gpu.model.name}) has no VF profile {name!r}", names)
        if profile.quota is not None and not self._can_set_quotas(gpu):
            shares = tuple(known for known in names if known.startswith("fs"))
            raise RefusedError(path, f"the driver of {gpu.name} can't set the quotas of {name!r}", shares)
        return profile

    def _can_set_quotas(self, gpu: PfSeen) -> bool:
        """Whether table profiles are possible; assumed where the DRM driver to do it is not bound yet."""
        bound = gpu.function.driver
        if bound not in DRM_DRIVERS or self.kept_at.get(gpu.name, bound) != bound:
            return True
        if not isinstance(gpu.sriov, SriovSeen):
            return True
        return gpu.sriov.provisioning is not None and gpu.sriov.provisioning.quotas_writable

    def _driver(self, gpu: PfSeen, logical: LogicalDevice, wanted: KernelDriver, path: str) -> str:
        if wanted is KernelDriver.DRM:
            driver = gpu.drm_driver or self.kept_at.get(gpu.name)
            if driver is None:
                why = f"no DRM driver is known for {gpu.name} ({gpu.model.name})"
                raise RefusedError(path, why, ("vfio",))
            return driver
        if logical.use in (Use.SHARED, Use.MONITOR):
            raise RefusedError(path, f"a {logical.use.value} device can't be passed through", ("drm",))
        if wanted is KernelDriver.XE_VFIO and gpu.drm_driver != "xe":
            why = f"xe-vfio is for GPUs of the xe driver; {gpu.name} is not"
            raise RefusedError(path, why, ("drm", "vfio"))
        return "vfio-pci" if wanted is KernelDriver.VFIO else "xe-vfio-pci"

    def _override_driver(self, gpu: PfSeen, wanted: OverrideDriver, path: str) -> str:
        if wanted.value in DRM_DRIVERS:
            return wanted.value
        whole = LogicalDevice(pf=gpu.name, use=Use.WHOLE)
        return self._driver(gpu, whole, KernelDriver(wanted.value), path)


def _parse(device: AppliedDevice, path: str, gpus: Gpus) -> LogicalDevice:
    try:
        return logical_of(device)
    except ValueError as error:
        raise RefusedError(path, str(error), tuple(sorted(gpus))) from None


def _check_index(logical: LogicalDevice, profile: Profile, path: str) -> None:
    last = profile.count - 1
    allowed = (f"{logical.pf}-{logical.mode}-vf0" + (f" .. -vf{last}" if last else ""),)
    if logical.index is None:
        raise RefusedError(path, f"{str(logical)!r} does not say which VF", allowed)
    if logical.index > last:
        why = f"VF {logical.index} is out of range: {profile.name} has {profile.count}"
        raise RefusedError(path, why, allowed)


def _check_memory(
    gpu: PfSeen, logical: LogicalDevice, profile: Profile | None, memory: int | None, path: str
) -> None:
    if memory is None or gpu.memory is None or not (gpu.memory.exact or profile):
        return
    limit: int | None = gpu.memory.total
    if profile is not None:
        measured = gpu.memory.total if gpu.memory.exact else None
        limit = profile.vf_memory(tiles=gpu.tiles, ecc=gpu.ecc, measured=measured)
    if limit is not None and memory > limit:
        raise RefusedError(path, f"{memory} bytes are more than {logical} has", (f"up to {limit}",))


def _check_compatible(devices: tuple[WantedDevice, ...], path: str) -> None:
    """Devices of one allocation that can't be had together are refused."""
    first: dict[DeviceName, WantedDevice] = {}
    taken: set[LogicalDevice] = set()
    for index, device in enumerate(devices):
        if device.monitors:
            continue
        other = first.setdefault(device.logical.pf, device)
        same_mode = device.logical.use is other.logical.use and device.profile == other.profile
        twice = device.logical in taken and device.logical.use is not Use.SHARED
        if twice or not same_mode:
            beside = "twice" if twice else f"beside {other.logical}"
            raise RefusedError(f"{path}.devices[{index}].device", f"{device.logical} can't be had {beside}")
        taken.add(device.logical)


def _device_name(allocated: AllocatedDevice) -> str:
    """The device's name with its VF index, which stands beside the name that the scheduler knows."""
    if allocated.virtual_function is None:
        return allocated.device
    wanted = allocated.virtual_function
    return f"{allocated.physical_function}-{wanted.profile.rsplit('_', 1)[-1]}-vf{wanted.index}"
