"""Whether the devices of an allocation are there, judged by what is seen alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from state.desired import Gpus, WantedDevice
from state.ids import DeviceName, Use
from state.layouts import function_of, has_layout
from state.observed import DRM_DRIVERS, Changing, DeviceNode, FunctionSeen, PfSeen, SriovSeen
from state.records import OwnedLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """One device of an allocation: the nodes its user gets, or what is missing, in words."""

    nodes: tuple[DeviceNode, ...] = ()
    missing: str | None = None


@dataclass(slots=True, kw_only=True)
class Readiness:
    """Judges devices against one observation. Layout checks are made once a GPU, not once a VF."""

    gpus: Gpus
    layouts: Mapping[str, OwnedLayout]
    boot_id: str
    _checked: dict[tuple[DeviceName, str], bool] = field(default_factory=dict)

    def of(self, device: WantedDevice) -> DeviceState:
        """How ``device`` stands now."""
        pf = device.logical.pf
        gpu = self.gpus.get(pf)
        if gpu is None:
            return DeviceState(missing=f"{pf} is not there")
        if isinstance(gpu, Changing):
            if not device.slot.is_vf or self._vf_is_missing(gpu.last, device):
                return DeviceState(missing=f"{pf}: {gpu.doing}")
            gpu = gpu.last
        if device.logical.use is Use.MONITOR:
            return _monitor(gpu)
        if device.slot.is_vf:
            return self._vf(gpu, device)
        return _whole(gpu, device)

    def _vf_is_missing(self, gpu: PfSeen, device: WantedDevice) -> bool:
        return self._vf(gpu, device).missing is not None

    def _vf(self, gpu: PfSeen, device: WantedDevice) -> DeviceState:
        profile, slot = device.profile, device.slot
        if profile is None:
            return DeviceState(missing=f"{slot} has no layout")
        check = (gpu.name, profile.name)
        if check not in self._checked:
            self._checked[check] = has_layout(gpu, profile)
        function = function_of(gpu, slot.vf)
        if function is None or not self._checked[check]:
            return DeviceState(missing=f"{gpu.name} has no {profile.name} VFs yet")
        owned = self.layouts.get(gpu.name)
        if owned is None or owned.boot_id != self.boot_id:
            return DeviceState(missing=f"the VFs of {gpu.name} were made by somebody else")
        return _function(function, device)


def _whole(gpu: PfSeen, device: WantedDevice) -> DeviceState:
    if isinstance(gpu.sriov, SriovSeen) and gpu.sriov.enabled and not device.admin_access:
        return DeviceState(missing=f"{gpu.name} still has {gpu.sriov.enabled} VFs")
    state = _function(gpu.function, device)
    if state.missing is None and device.admin_access:
        return DeviceState(nodes=(*state.nodes, *gpu.mei))
    return state


def _monitor(gpu: PfSeen) -> DeviceState:
    nodes = (*gpu.function.drm, *gpu.function.by_path, *gpu.mei)
    if not nodes:
        return DeviceState(missing=f"{gpu.name} has neither DRM nor MEI device nodes")
    return _present(nodes)


def _function(function: FunctionSeen, device: WantedDevice) -> DeviceState:
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
