"""What is wanted of one machine: the manifest judged against the hardware that is there.

``resolve`` turns names into devices and refuses what no waiting can mend. Whether what is left can be had
now, next to everybody else's wishes, is decided in ``arbitration``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from state.ids import DeviceName, LogicalDevice, Slot, Use, parse_device_name, parse_logical_device
from state.manifest import (
    AllocatedDevice,
    ClaimAllocation,
    KernelDriver,
    ManualAllocation,
    Override,
    OverrideDriver,
    OverrideMode,
    Policy,
    Spec,
)
from state.observed import DRM_DRIVERS, Changing, PfSeen, SriovSeen
from state.profiles import Profile, ProfileTable
from state.records import AppliedDevice

Gpus = Mapping[DeviceName, PfSeen | Changing]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Something in the manifest that can't be had: the field's path, why, and what would be allowed."""

    path: str
    why: str
    allowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        allowed = f" (allowed: {', '.join(self.allowed)})" if self.allowed else ""
        return f"{self.path}: {self.why}{allowed}"


class RefusedError(Exception):
    """Carries a refusal out of the function that found it."""

    def __init__(self, path: str, why: str, allowed: tuple[str, ...] = ()) -> None:
        self.refusal = Refusal(path=path, why=why, allowed=allowed)
        super().__init__(str(self.refusal))


class Origin(Enum):
    """Who asked for an allocation."""

    MANUAL = "alloc"
    CLAIM = "claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedDevice:
    """One device of an allocation. ``driver`` is the kernel driver its function must be bound to."""

    logical: LogicalDevice
    driver: str
    kernel_driver: KernelDriver = KernelDriver.DRM
    profile: Profile | None = None
    memory: int | None = None
    admin_access: bool = False
    request: str = ""
    share_id: str = ""

    @property
    def slot(self) -> Slot:
        index = self.logical.index
        return Slot(pf=self.logical.pf, vf=-1 if index is None else index)

    @property
    def monitors(self) -> bool:
        """Whether this use only looks on, and so gets in nobody's way."""
        return self.logical.use is Use.MONITOR or self.admin_access

    def applied(self) -> AppliedDevice:
        """The record kept of this device once it has been given out."""
        return AppliedDevice(
            device=str(self.logical),
            profile=self.profile.name if self.profile else "",
            kernel_driver=self.kernel_driver.value,
            memory=self.memory,
            admin_access=self.admin_access,
            request=self.request,
            share_id=self.share_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An allocation of the manifest. ``refusal`` is set when its devices are the last good ones instead."""

    name: str
    origin: Origin
    path: str
    devices: tuple[WantedDevice, ...]
    claim: str = ""
    refusal: Refusal | None = None

    @property
    def key(self) -> str:
        """Unique among allocations of both origins; names CDI files and records."""
        return f"{self.origin.value}-{self.name}"

    def __str__(self) -> str:
        return f"claim {self.claim}" if self.origin is Origin.CLAIM else f"allocation {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedOverride:
    """An override judged: ``profile`` is a Fixed layout (None: no VFs), ``driver`` the PF's kernel driver."""

    mode: OverrideMode
    path: str
    profile: Profile | None = None
    driver: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedEntry:
    """An allocation without any good devices to fall back on."""

    name: str
    origin: Origin
    claim: str
    refusal: Refusal

    @property
    def key(self) -> str:
        return f"{self.origin.value}-{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What is wanted, as far as it makes sense on this machine; and what does not."""

    entries: tuple[Entry, ...] = ()
    refused: tuple[RefusedEntry, ...] = ()
    overrides: Mapping[DeviceName, WantedOverride] = field(default_factory=dict)
    refused_overrides: tuple[Refusal, ...] = ()
    policy: Policy = field(default_factory=Policy)
    paused: bool = False
    releases: frozenset[str] = frozenset()


def resolve(
    spec: Spec, gpus: Gpus, table: ProfileTable, applied: Mapping[str, tuple[AppliedDevice, ...]]
) -> Desired:
    """Judge a manifest against the machine.

    An allocation that is refused but had devices before keeps them, so that a slip of an editor takes nothing
    away from a user; ``applied`` has those last good devices by entry key.
    """
    judge = _Judge(gpus=gpus, table=table)
    entries: list[Entry] = []
    refused: list[RefusedEntry] = []
    for index, manual in enumerate(spec.manual_allocations):
        path = f"spec.manualAllocations[{index}]"
        _sort_out(judge, _Draft.of_manual(manual, path), applied, entries, refused)
    for claim in spec.allocations:
        path = f"spec.allocations[{claim.name}]"
        _sort_out(judge, _Draft.of_claim(claim, path), applied, entries, refused)
    overrides: dict[DeviceName, WantedOverride] = {}
    refused_overrides: list[Refusal] = []
    for index, override in enumerate(spec.overrides):
        try:
            pf, wanted = judge.override(override, f"spec.overrides[{index}]")
            overrides[pf] = wanted
        except RefusedError as error:
            refused_overrides.append(error.refusal)
    return Desired(
        entries=tuple(entries),
        refused=tuple(refused),
        overrides=overrides,
        refused_overrides=tuple(refused_overrides),
        policy=spec.policy,
        paused=spec.paused,
        releases=frozenset(spec.releases),
    )


def restore(record: tuple[AppliedDevice, ...], gpus: Gpus, table: ProfileTable) -> tuple[WantedDevice, ...]:
    """The devices of a record as wanted devices again. Raises RefusedError when they no longer make sense."""
    judge = _Judge(gpus=gpus, table=table)
    return tuple(judge.recorded(device) for device in record)


def can_set_quotas(gpu: PfSeen) -> bool:
    """Whether table profiles are possible. With no DRM driver bound that can't be seen, and is assumed."""
    if gpu.function.driver not in DRM_DRIVERS or not isinstance(gpu.sriov, SriovSeen):
        return True
    return gpu.sriov.provisioning is not None and gpu.sriov.provisioning.quotas_writable


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """An allocation before judgement: a function for each device."""

    name: str
    origin: Origin
    path: str
    devices: tuple[Callable[[_Judge], WantedDevice], ...]
    claim: str = ""
    refusal: Refusal | None = None

    @classmethod
    def of_manual(cls, manual: ManualAllocation, path: str) -> _Draft:
        def device(index: int) -> Callable[[_Judge], WantedDevice]:
            wanted = manual.devices[index]
            return lambda judge: judge.device(
                wanted.device,
                f"{path}.devices[{index}]",
                memory=wanted.memory,
                kernel_driver=wanted.kernel_driver,
                admin_access=wanted.admin_access,
            )

        refusal = None
        if manual.name.startswith(("claim-", "alloc-")):
            why = f"{manual.name!r}: names beginning with 'claim-' or 'alloc-' are CDI device names of ours"
            refusal = Refusal(path=f"{path}.name", why=why)
        devices = tuple(device(index) for index in range(len(manual.devices)))
        return cls(name=manual.name, origin=Origin.MANUAL, path=path, devices=devices, refusal=refusal)

    @classmethod
    def of_claim(cls, claim: ClaimAllocation, path: str) -> _Draft:
        def device(index: int) -> Callable[[_Judge], WantedDevice]:
            allocated = claim.devices[index]
            return lambda judge: judge.claimed(allocated, f"{path}.devices[{index}]")

        refusal = None
        if claim.refused is not None:
            refusal = Refusal(path=claim.refused.path, why=claim.refused.reason)
        return cls(
            name=claim.name,
            origin=Origin.CLAIM,
            path=path,
            devices=tuple(device(index) for index in range(len(claim.devices))),
            claim=f"{claim.claim_namespace}/{claim.claim_name}",
            refusal=refusal,
        )


def _sort_out(
    judge: _Judge,
    draft: _Draft,
    applied: Mapping[str, tuple[AppliedDevice, ...]],
    entries: list[Entry],
    refused: list[RefusedEntry],
) -> None:
    refusal = draft.refusal
    devices: tuple[WantedDevice, ...] = ()
    key = f"{draft.origin.value}-{draft.name}"
    try:
        if refusal is None:
            devices = tuple(device(judge) for device in draft.devices)
    except RefusedError as error:
        refusal = error.refusal
    if refusal is not None and key in applied:
        try:
            devices = tuple(judge.recorded(device) for device in applied[key])
        except RefusedError:
            devices = ()
    if refusal is not None and not devices:
        refused.append(RefusedEntry(name=draft.name, origin=draft.origin, claim=draft.claim, refusal=refusal))
        return
    entries.append(
        Entry(
            name=draft.name,
            origin=draft.origin,
            path=draft.path,
            devices=devices,
            claim=draft.claim,
            refusal=refusal,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Judges names of devices, profiles and drivers against the machine."""

    gpus: Gpus
    table: ProfileTable

    def gpu(self, name: DeviceName, path: str) -> PfSeen:
        seen = self.gpus.get(name)
        if seen is None:
            known = tuple(sorted(self.gpus))
            raise RefusedError(
                path, f"there is no GPU {name!r} on this machine", known or ("none: no Intel GPU",)
            )
        return seen.last if isinstance(seen, Changing) else seen

    def device(
        self,
        text: str,
        path: str,
        *,
        memory: int | None,
        kernel_driver: KernelDriver,
        admin_access: bool,
        request: str = "",
        share_id: str = "",
    ) -> WantedDevice:
        try:
            logical = parse_logical_device(text)
        except ValueError as error:
            raise RefusedError(f"{path}.device", str(error), tuple(sorted(self.gpus))) from None
        gpu = self.gpu(logical.pf, f"{path}.device")
        profile = None
        if logical.use is Use.VF:
            profile = self.profile(gpu, logical.mode, f"{path}.device")
            self._check_index(logical, profile, text, f"{path}.device")
        if logical.use is Use.MONITOR and not admin_access:
            raise RefusedError(f"{path}.adminAccess", "a monitor device needs admin access", ("true",))
        self._check_memory(gpu, logical, profile, memory, f"{path}.memory")
        return WantedDevice(
            logical=logical,
            profile=profile,
            driver=self.driver(gpu, logical, kernel_driver, f"{path}.kernelDriver"),
            kernel_driver=kernel_driver,
            memory=memory,
            admin_access=admin_access,
            request=request,
            share_id=share_id,
        )

    def claimed(self, allocated: AllocatedDevice, path: str) -> WantedDevice:
        """A device the controller projected: its VF index stands beside the scheduler's device name."""
        text = allocated.device
        if allocated.virtual_function is not None:
            wanted = allocated.virtual_function
            mode = wanted.profile.rsplit("_", 1)[-1]
            text = f"{allocated.physical_function}-{mode}-vf{wanted.index}"
        return self.device(
            text,
            path,
            memory=allocated.memory,
            kernel_driver=allocated.kernel_driver,
            admin_access=allocated.admin_access,
            request=allocated.request,
            share_id=allocated.share_id,
        )

    def recorded(self, record: AppliedDevice) -> WantedDevice:
        return self.device(
            record.device,
            "record",
            memory=record.memory,
            kernel_driver=KernelDriver(record.kernel_driver),
            admin_access=record.admin_access,
            request=record.request,
            share_id=record.share_id,
        )

    def profile(self, gpu: PfSeen, name: str, path: str) -> Profile:
        """The profile called ``name`` on this GPU. Raises RefusedError, with what the GPU can do."""
        names = self.table.names(gpu.device_id, total_vfs=gpu.total_vfs)
        if not names:
            raise RefusedError(path, f"{gpu.name} ({gpu.model.name}) has no SR-IOV virtual functions")
        profile = self.table.find(gpu.device_id, name, total_vfs=gpu.total_vfs)
        if profile is None:
            raise RefusedError(path, f"{gpu.name} ({gpu.model.name}) has no VF profile {name!r}", names)
        if profile.quota is not None and not can_set_quotas(gpu):
            shares = tuple(known for known in names if known.startswith("fs"))
            raise RefusedError(path, f"the driver of {gpu.name} can't set the quotas of {name!r}", shares)
        return profile

    def _check_index(self, logical: LogicalDevice, profile: Profile, text: str, path: str) -> None:
        last = profile.count - 1
        allowed = (f"{logical.pf}-{logical.mode}-vf0" + (f" .. -vf{last}" if last else ""),)
        if logical.index is None:
            raise RefusedError(path, f"{text!r} does not say which VF", allowed)
        if logical.index > last:
            raise RefusedError(
                path, f"VF {logical.index} is out of range: {profile.name} has {profile.count}", allowed
            )

    def _check_memory(
        self, gpu: PfSeen, logical: LogicalDevice, profile: Profile | None, memory: int | None, path: str
    ) -> None:
        if memory is None or gpu.memory is None:
            return
        limit: int | None = gpu.memory.total
        if profile is not None:
            limit = profile.vf_memory(tiles=gpu.tiles, ecc=gpu.ecc, measured=gpu.memory.total)
        elif not gpu.memory.exact:
            return
        if limit is not None and memory > limit:
            raise RefusedError(path, f"{memory} bytes are more than {logical} has", (f"up to {limit}",))

    def driver(self, gpu: PfSeen, logical: LogicalDevice, wanted: KernelDriver, path: str) -> str:
        """The kernel driver's name for this GPU. Raises RefusedError where it can't be."""
        if wanted is KernelDriver.DRM:
            if gpu.drm_driver is None:
                known = ("vfio",)
                raise RefusedError(path, f"no DRM driver is known for {gpu.name} ({gpu.model.name})", known)
            return gpu.drm_driver
        if logical.use in (Use.SHARED, Use.MONITOR):
            raise RefusedError(path, f"a {logical.use.value} device can't be passed through", ("drm",))
        if wanted is KernelDriver.XE_VFIO and gpu.drm_driver != "xe":
            raise RefusedError(
                path, f"xe-vfio is for GPUs of the xe driver; {gpu.name} is not", ("drm", "vfio")
            )
        return "vfio-pci" if wanted is KernelDriver.VFIO else "xe-vfio-pci"

    def override(self, override: Override, path: str) -> tuple[DeviceName, WantedOverride]:
        try:
            parse_device_name(override.device)
        except ValueError as error:
            raise RefusedError(f"{path}.device", str(error), tuple(sorted(self.gpus))) from None
        gpu = self.gpu(DeviceName(override.device), f"{path}.device")
        profile = None
        if override.virtual_functions is not None:
            field_path = f"{path}.virtualFunctions.profile"
            profile = self.profile(gpu, override.virtual_functions.profile, field_path)
        driver = None
        if override.kernel_driver is not None:
            driver = self._override_driver(gpu, override.kernel_driver, f"{path}.kernelDriver")
        wanted = WantedOverride(
            mode=override.mode, path=path, profile=profile, driver=driver, reason=override.reason
        )
        return gpu.name, wanted

    def _override_driver(self, gpu: PfSeen, wanted: OverrideDriver, path: str) -> str:
        if wanted.value in DRM_DRIVERS:
            return wanted.value
        whole = LogicalDevice(pf=gpu.name, use=Use.WHOLE)
        return self.driver(gpu, whole, KernelDriver(wanted.value), path)
