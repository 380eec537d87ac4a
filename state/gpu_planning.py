"""The next steps for one GPU: from what is seen to what is demanded of it.

A GPU is rebuilt in waves, one a pass, each judged by looking again: CDI specs of what goes away are removed,
VFs turned off, quotas set, VFs turned on, drivers bound. Nothing that is in use is ever disturbed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from state.actions import BindDriver, GpuAction, ResetProvisioning, SetNumVfs, SetVfProfile, touches
from state.arbitration import Demand
from state.ids import PciAddress, Slot
from state.layouts import has_layout, has_quotas, is_provisioned
from state.observed import (
    DRM_DRIVERS,
    VFIO_DRIVERS,
    FunctionSeen,
    PfSeen,
    SriovSeen,
    Unreadable,
)
from state.profiles import Profile, tile_quota
from state.records import OwnedBinding, OwnedLayout
from state.usage import LookFirst, Usage, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The last failures of one unit of work. ``undo_failed``: nothing more is tried before ``retry_at``."""

    attempts: int
    message: str
    retry_at: datetime
    undo_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuContext:
    """What the steps of one GPU depend on besides the GPU itself.

    ``layout`` and ``binding`` are its ownership records of this boot. ``stale_cdi`` are our spec files that
    name a device of this GPU and are being removed, ``standing_cdi`` others that name a VF; ``cdi_blocked``
    says why nobody knows of any. ``idle_since`` is when its VFs were last wanted; None: just now.
    """

    boot_id: str
    now: datetime
    usage: Usage
    kernel_drivers: frozenset[str]
    failures: Mapping[str, Failure]
    layout: OwnedLayout | None
    binding: OwnedBinding | None
    stale_cdi: tuple[str, ...] = ()
    standing_cdi: tuple[str, ...] = ()
    cdi_blocked: str | None = None
    idle_since: datetime | None = None
    linger: timedelta = timedelta()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """The next wave for one GPU.

    ``blocked`` says why what is demanded can't be done now; ``look`` that somebody has to see who uses the GPU
    before that can be said. ``layout`` and ``binding`` are the ownership records as they must stand before the
    actions. ``remove`` are CDI specs that go first. ``idle``: there are VFs of ours that nobody wants.
    ``wake_at``: when to look again.
    """

    actions: tuple[GpuAction, ...] = ()
    blocked: str | None = None
    slot_blocked: Mapping[Slot, str] = field(default_factory=dict)
    look: bool = False
    layout: OwnedLayout | None = None
    binding: OwnedBinding | None = None
    idle: bool = False
    wake_at: datetime | None = None
    remove: tuple[str, ...] = ()

    def touches(self, slot: Slot, *, monitor: bool) -> bool:
        """Whether the actions change something under a user of ``slot``; a monitor minds only the GPU's driver."""
        if self.remove and slot.is_vf:
            return True
        return touches(self.actions, slot, looks_on=monitor)


def plan_gpu(gpu: PfSeen, demand: Demand | None, context: GpuContext) -> GpuPlan:
    """The next wave that brings ``gpu`` nearer to ``demand`` (None: nobody wants it)."""
    layout, binding = context.layout, context.binding
    return _Planner(gpu=gpu, demand=demand, context=context, layout=layout, binding=binding).plan()


class _Block(Exception):
    """Ends planning of a GPU or VF with a reason; with none, because something has to be done or seen first."""

    def __init__(self, why: str | None = None, *, look: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.look = look


def _check(verdict: Verdict) -> None:
    if isinstance(verdict, LookFirst):
        raise _Block(look=True)
    if verdict is not None:
        raise _Block(verdict)


@dataclass(slots=True, kw_only=True)
class _Planner:
    gpu: PfSeen
    demand: Demand | None
    context: GpuContext
    layout: OwnedLayout | None
    binding: OwnedBinding | None
    slot_blocked: dict[Slot, str] = field(default_factory=dict)
    look: bool = False
    idle: bool = False
    wake_at: datetime | None = None
    remove: tuple[str, ...] = ()

    def plan(self) -> GpuPlan:
        """The next wave for this GPU, or what keeps it."""
        actions: tuple[GpuAction, ...] = ()
        blocked = None
        try:
            self._check_readable()
            actions = self._layout_wave() or self._pf_driver_wave() or self._vf_driver_wave()
        except _Block as block:
            blocked, self.look = block.why, self.look or block.look
        return GpuPlan(
            actions=actions,
            blocked=blocked,
            slot_blocked=self.slot_blocked,
            look=self.look,
            layout=self.layout,
            binding=self.binding,
            idle=self.idle,
            wake_at=self.wake_at,
            remove=self.remove,
        )

    def _check_readable(self) -> None:
        """Nothing is done to a GPU that is not known; nobody hears of it unless something would be done."""
        why = None
        if isinstance(self.gpu.function.driver, Unreadable):
            why = f"its driver can't be read: {self.gpu.function.driver}"
        elif isinstance(self.gpu.sriov, Unreadable):
            why = f"its SR-IOV state can't be read: {self.gpu.sriov}"
        if why is not None:
            concerns = self.demand is not None or self.layout is not None or self.binding is not None
            raise _Block(why if concerns else None)

    def _failure(self, unit: str) -> Failure | None:
        """The failure that this unit of work is backing off from now, if any."""
        failure = self.context.failures.get(unit)
        if failure is None or failure.retry_at <= self.context.now:
            return None
        self._wake(failure.retry_at)
        return failure

    def _wake(self, at: datetime) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)

    def _check_cdi(self) -> None:
        """Raise _Block unless all spec files of ours that name what is about to change are gone."""
        if self.context.cdi_blocked is not None:
            raise _Block(self.context.cdi_blocked)
        for file in self.context.stale_cdi:
            failure = self._failure(f"cdi/{file}")
            if failure is not None:
                raise _Block(failure.message)
        if self.context.stale_cdi:
            raise _Block

    # -- VF layout ---------------------------------------------------------------------------------------

    def _layout_wave(self) -> tuple[GpuAction, ...]:
        """Actions towards the wanted number and kind of VFs; none when these are right."""
        sriov = self.gpu.sriov
        if not isinstance(sriov, SriovSeen):
            return ()
        wanted = None if self.demand is None else self.demand.profile
        if wanted is not None and self._has(wanted) and self._has_driver_for_vfs():
            return ()
        failure = self._failure(self.gpu.name)
        if failure is not None:
            return self._undo_layout(sriov, failure)
        if sriov.enabled:
            return self._turn_off(sriov, at_once=self.demand is not None)
        if wanted is not None:
            return self._turn_on(sriov, wanted)
        return self._leave_plain(sriov)

    def _has(self, wanted: Profile) -> bool:
        """Whether the wanted VFs are there; they may only be used if they are ours."""
        if not has_layout(self.gpu, wanted):
            return False
        if self.layout is None:
            raise _Block(self._foreign(wanted.count))
        return self.layout.profile == wanted.name

    def _has_driver_for_vfs(self) -> bool:
        """Whether the VFs were made by the driver demanded. Before they go, it must be free to be bound."""
        wanted, function = self._driver_for_vfs(), self.gpu.function
        if function.driver == wanted or function.driver not in DRM_DRIVERS:
            return True
        self._check_driver(Slot(pf=self.gpu.name), function, wanted)
        return False

    def _driver_for_vfs(self) -> str | None:
        """The DRM driver that is to make the GPU's VFs."""
        demanded = None if self.demand is None else self.demand.driver
        return demanded or self.gpu.drm_driver

    def _undo_layout(self, sriov: SriovSeen, failure: Failure) -> tuple[GpuAction, ...]:
        """Steps back to no VFs, the driver's own provisioning and the original driver, while backing off."""
        if failure.undo_failed:
            raise _Block(failure.message)
        actions = self._turn_off(sriov, at_once=True) if sriov.enabled else self._leave_plain(sriov)
        if actions or self.demand is None or self.demand.profile is None:
            return actions
        if self.binding is not None:
            actions = self._bind_pf(self.binding.original)
        if not actions:
            raise _Block(failure.message)
        return actions

    def _foreign(self, count: int) -> str:
        return (
            f"{count} VFs of {self.gpu.name} were made by somebody else; "
            "an override with mode Fixed that names their layout takes them over"
        )

    def _turn_off(self, sriov: SriovSeen, *, at_once: bool) -> tuple[GpuAction, ...]:
        """Turn all VFs off, unless somebody uses one or they are not ours."""
        if self.layout is None:
            if self.demand is None:
                return ()
            raise _Block(self._foreign(sriov.enabled))
        if not at_once and self._lingers():
            return ()
        for vf in sriov.vfs:
            if isinstance(vf.function.driver, Unreadable):
                raise _Block(f"the driver of VF {vf.index} can't be read: {vf.function.driver}")
        _check(self.context.usage.of_vfs(self.gpu.name, [vf.index for vf in sriov.vfs]))
        self._check_cdi()
        if self.context.standing_cdi:
            self.remove = self.context.standing_cdi
            raise _Block
        address, profile = self.gpu.function.address, self.layout.profile
        seen = self.gpu.sriov.enabled if isinstance(self.gpu.sriov, SriovSeen) else None
        return (SetNumVfs(pf=self.gpu.name, address=address, count=0, profile=profile, seen=seen),)

    def _lingers(self) -> bool:
        """Whether unwanted VFs stay a little longer, for the next one who wants the same."""
        self.idle = True
        until = (self.context.idle_since or self.context.now) + self.context.linger
        if until <= self.context.now:
            return False
        self._wake(until)
        return True

    def _leave_plain(self, sriov: SriovSeen) -> tuple[GpuAction, ...]:
        """No VFs are there and none are wanted: give provisioning back, then forget the layout."""
        if self.layout is None:
            return ()
        provisioning = sriov.provisioning
        if provisioning is not None and (provisioning.automatic is False or has_quotas(provisioning)):
            return (ResetProvisioning(pf=self.gpu.name, address=self.gpu.function.address),)
        self.layout = None
        return ()

    def _turn_on(self, sriov: SriovSeen, wanted: Profile) -> tuple[GpuAction, ...]:
        """Set quotas, then enable all VFs of the layout; the record is written before either."""
        driver = self._driver_for_vfs()
        if driver is None:
            raise _Block(f"no DRM driver is known for {self.gpu.name}, and only that can make VFs")
        if self.gpu.function.driver != driver:
            return self._pf_driver_wave()
        _check(self.context.usage.of_enabling(self.gpu.name))
        self._check_cdi()
        action = self._provision(sriov, wanted)
        self.layout = OwnedLayout(profile=wanted.name, count=wanted.count, boot_id=self.context.boot_id)
        return (action,)

    def _provision(self, sriov: SriovSeen, wanted: Profile) -> GpuAction:
        pf, address = self.gpu.name, self.gpu.function.address
        if is_provisioned(self.gpu, wanted):
            return SetNumVfs(pf=pf, address=address, count=wanted.count, profile=wanted.name)
        if wanted.quota is None:
            return ResetProvisioning(pf=pf, address=address)
        if sriov.provisioning is None:
            raise _Block(f"the driver of {pf} can't set the quotas of {wanted.name}")
        quota = tile_quota(wanted.quota, tiles=sriov.provisioning.tiles, ecc=self.gpu.ecc)
        return SetVfProfile(pf=pf, address=address, profile=wanted.name, count=wanted.count, quota=quota)

    # -- kernel drivers ----------------------------------------------------------------------------------

    def _pf_driver_wave(self) -> tuple[GpuAction, ...]:
        """Bind the GPU itself to the driver demanded, or back to its own when nobody demands one."""
        if self.demand is not None and (self.demand.driver is not None or self.demand.profile is not None):
            wanted = self._driver_for_vfs()
        elif self.binding is not None:
            wanted = self.binding.original
        else:
            return ()
        failure = self._failure(f"{self.gpu.name}/driver")
        if failure is None:
            return self._bind_pf(wanted)
        if failure.undo_failed or self.binding is None:
            raise _Block(failure.message)
        actions = self._bind_pf(self.binding.original)
        if not actions:
            raise _Block(failure.message)
        return actions

    def _bind_pf(self, wanted: str | None) -> tuple[GpuAction, ...]:
        function, slot = self.gpu.function, Slot(pf=self.gpu.name)
        current = function.driver
        if isinstance(current, Unreadable):
            return ()
        if current == wanted:
            return self._settle_binding(wanted)
        self._check_binding_is_ours(current)
        if isinstance(self.gpu.sriov, SriovSeen) and self.gpu.sriov.enabled:
            raise _Block(f"{self.gpu.name} has VFs, which would go with its driver")
        self._check_driver(slot, function, wanted)
        self._check_cdi()
        # Somebody's passthrough driver, or none at all, is not what to give back one day: the GPU's own driver is.
        own = self.gpu.drm_driver
        first = own if current in VFIO_DRIVERS or (current is None and wanted == own) else current
        original = first if self.binding is None else self.binding.original
        if wanted != original:
            self.binding = OwnedBinding(driver=wanted or "", original=original, boot_id=self.context.boot_id)
        return (BindDriver(pf=self.gpu.name, slot=slot, address=function.address, driver=wanted),)

    def _settle_binding(self, wanted: str | None) -> tuple[GpuAction, ...]:
        """The GPU has the driver that it had before us: forget that we ever bound it.

        One that was never taken from it, because we were killed before, may still have the ``driver_override``
        that says where it was to go. Clearing that changes nothing for users, but waits for them all the same.
        """
        if self.binding is None or self.binding.original != wanted:
            return ()
        if self.gpu.function.driver_override is None or wanted in VFIO_DRIVERS:
            self.binding = None
            return ()
        slot = Slot(pf=self.gpu.name)
        verdict = self.context.usage.of_unbinding(slot)
        if isinstance(verdict, LookFirst):
            raise _Block(look=True)
        has_vfs = isinstance(self.gpu.sriov, SriovSeen) and self.gpu.sriov.enabled
        if verdict is not None or has_vfs:
            return ()
        return (BindDriver(pf=self.gpu.name, slot=slot, address=self.gpu.function.address, driver=wanted),)

    def _check_binding_is_ours(self, current: str | None) -> None:
        if current is None or current in DRM_DRIVERS:
            return
        if self.binding is not None and current in (self.binding.driver, self.binding.original):
            return
        if self.demand is not None and self.demand.adopt_binding:
            return
        raise _Block(
            f"{self.gpu.name} was bound to {current} by somebody else; an override with kernelDriver takes it over"
        )

    def _vf_driver_wave(self) -> tuple[GpuAction, ...]:
        """Bind used VFs to the drivers their users want. VFs nobody uses keep what they have."""
        if self.demand is None or not isinstance(self.gpu.sriov, SriovSeen):
            return ()
        actions: list[GpuAction] = []
        for vf in self.gpu.sriov.vfs:
            slot = Slot(pf=self.gpu.name, vf=vf.index)
            wanted = self._wanted_vf_driver(slot)
            if wanted is None or vf.function.driver == wanted:
                continue
            try:
                self._check_driver(slot, vf.function, wanted)
                self._check_cdi()
            except _Block as block:
                self.look = self.look or block.look
                if block.why is not None:
                    self.slot_blocked[slot] = block.why
                continue
            address = vf.function.address
            actions.append(BindDriver(pf=self.gpu.name, slot=slot, address=address, driver=wanted))
        return tuple(actions)

    def _wanted_vf_driver(self, slot: Slot) -> str | None:
        """The driver to bind this VF to: its user's, or while that fails the GPU's own."""
        wanted = None if self.demand is None else self.demand.vf_drivers.get(slot.vf)
        failure = self._failure(f"{slot.pf}/vf{slot.vf}")
        if wanted is None or failure is None:
            return wanted
        self.slot_blocked[slot] = failure.message
        return None if failure.undo_failed else self.gpu.drm_driver

    def _check_driver(self, slot: Slot, function: FunctionSeen, wanted: str | None) -> None:
        """Raise _Block unless the function may be taken from its driver and given to ``wanted``."""
        if isinstance(function.driver, Unreadable):
            raise _Block(f"the driver of {slot} can't be read: {function.driver}")
        if wanted is not None and wanted not in self.context.kernel_drivers:
            raise _Block(f"the kernel driver {wanted} is not loaded (modprobe {wanted})")
        if wanted in VFIO_DRIVERS:
            if function.iommu_group is None:
                raise _Block(f"{slot} has no IOMMU group: passthrough needs the IOMMU switched on")
            _check(_busy_mate(function.iommu_group, function.iommu_mates))
        if function.driver is not None:
            _check(self.context.usage.of_unbinding(slot))


def _busy_mate(group: int, mates: Iterable[tuple[PciAddress, str | None]]) -> str | None:
    for address, driver in mates:
        if driver is not None and driver not in VFIO_DRIVERS:
            return f"IOMMU group {group} also holds {address}, bound to {driver}"
    return None
