"""Whether the devices of an allocation are there, judged by what is seen alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from state.actions import touches
from state.ids import DeviceName, Use
from state.layouts import function_of, is_enabled_as
from state.observed import DRM_DRIVERS, Changing, DeviceNode, FunctionSeen, PfSeen, SriovSeen, Unreadable
from state.records import OwnedLayout
from state.wanted import Gpus, WantedDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """One device of an allocation: the nodes its user gets, or what is missing, in words.

    ``unsure`` says why this can't be told for certain now: a worker is at the GPU, or it can't be read.
    """

    nodes: tuple[DeviceNode, ...] = ()
    missing: str | None = None
    unsure: str | None = None


@dataclass(slots=True, kw_only=True)
class Readiness:
    """Judges devices against one observation. Layout checks are made once a GPU, not once a VF.

    ``layouts`` are the VF layouts of ours in this boot; None when the record can't be read.
    """

    gpus: Gpus
    layouts: Mapping[str, OwnedLayout] | None
    _checked: dict[tuple[DeviceName, str], str | None] = field(default_factory=dict)

    def of(self, device: WantedDevice) -> DeviceState:
        """How ``device`` stands now."""
        pf = device.logical.pf
        gpu = self.gpus.get(pf)
        if gpu is None:
            return DeviceState(missing=f"{pf} is not there")
        if not isinstance(gpu, Changing):
            return self._of(gpu, device)
        doing = f"{pf}: {gpu.doing}"
        if touches(gpu.actions, device.slot, looks_on=device.monitors):
            return DeviceState(missing=doing, unsure=doing)
        state = self._of(gpu.last, device)
        return replace(state, missing=None if state.missing is None else doing, unsure=doing)

    def _of(self, gpu: PfSeen, device: WantedDevice) -> DeviceState:
        if device.logical.use is Use.MONITOR:
            return _monitor(gpu)
        if isinstance(gpu.sriov, Unreadable) and (device.slot.is_vf or not device.monitors):
            return _unreadable(f"SR-IOV state of {gpu.name}", gpu.sriov)
        if device.slot.is_vf:
            return self._vf(gpu, device)
        return _whole(gpu, device)

    def _vf(self, gpu: PfSeen, device: WantedDevice) -> DeviceState:
        profile, slot = device.profile, device.slot
        if profile is None:
            return DeviceState(missing=f"{slot} has no layout")
        check = (gpu.name, profile.name)
        if check not in self._checked:
            lacks = None if is_enabled_as(gpu, profile) else f"{gpu.name} has no {profile.name} VFs yet"
            self._checked[check] = lacks or self._foreign(gpu.name, profile.name)
        lacks = self._checked[check]
        function = function_of(gpu, slot.vf)
        if lacks is not None or function is None:
            return DeviceState(missing=lacks or f"{slot} is not there yet")
        return _function(function, device)

    def _foreign(self, pf: DeviceName, profile: str) -> str | None:
        if self.layouts is None:
            return None
        owned = self.layouts.get(pf)
        if owned is None:
            return f"the VFs of {pf} were made by somebody else"
        return None if owned.profile == profile else f"{pf} has {owned.profile} VFs"


def _whole(gpu: PfSeen, device: WantedDevice) -> DeviceState:
    if isinstance(gpu.sriov, SriovSeen) and gpu.sriov.enabled and not device.record.admin_access:
        return DeviceState(missing=f"{gpu.name} still has {gpu.sriov.enabled} VFs")
    state = _function(gpu.function, device)
    if state.missing is None and device.record.admin_access:
        return _present((*state.nodes, *gpu.mei))
    return state


def _monitor(gpu: PfSeen) -> DeviceState:
    if isinstance(gpu.function.driver, Unreadable):
        return _unreadable(f"the driver of {gpu.name}", gpu.function.driver)
    nodes = (*gpu.function.drm, *gpu.function.by_path, *gpu.mei)
    if not nodes:
        return DeviceState(missing=f"{gpu.name} has neither DRM nor MEI device nodes")
    return _present(nodes)


def _function(function: FunctionSeen, device: WantedDevice) -> DeviceState:
    if isinstance(function.driver, Unreadable):
        return _unreadable(f"the driver of {device.slot}", function.driver)
    if function.driver != device.driver:
        bound = f"is bound to {function.driver}" if function.driver else "has no kernel driver"
        return DeviceState(missing=f"{device.slot} {bound}, not to {device.driver}")
    if device.driver in DRM_DRIVERS:
        if not function.drm:
            return DeviceState(missing=f"{device.slot} has no DRM device nodes yet")
        return _present((*function.drm, *function.by_path))
    if not function.vfio:
        return DeviceState(missing=f"{device.slot} has no VFIO device nodes yet")
    return _present(function.vfio)


def _present(nodes: tuple[DeviceNode, ...]) -> DeviceState:
    absent = [node.path for node in nodes if not node.present]
    if absent:
        return DeviceState(missing=f"waits for /dev/{absent[0]}")
    return DeviceState(nodes=nodes)


def _unreadable(what: str, unreadable: Unreadable) -> DeviceState:
    why = f"{what} can't be read: {unreadable}"
    return DeviceState(missing=why, unsure=why)
