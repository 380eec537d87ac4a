"""What the slices of a node are decided from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from state.ids import DeviceName, Use, parse_logical_device
from state.manifest import BindingConditions, Layout, Override, OverrideMode, Policy, Spec
from state.profiles import ProfileTable
from state.slices.capabilities import CHEAP_COUNTERS_SINCE, Capabilities
from state.slices.model import Device, LiveSlice
from state.status import DeviceStatus, NodeStatus

DEFAULTS = Policy(
    layout=Layout.AUTO, shared_memory=True, binding_conditions=BindingConditions.NEVER, reorder=False
)
"""What counts where neither a person nor a flag says anything."""


def with_defaults(policy: Policy, defaults: Policy) -> Policy:
    """The policy; what it leaves open comes from ``defaults``, usually the agent's flags."""
    given = {name: value for name in policy.__struct_fields__ if (value := getattr(policy, name)) is not None}
    return replace(defaults, **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that is known about one node.

    ``policy`` has its defaults filled in. ``live`` are the slices of our driver that are there. ``tokens`` are
    withdrawals of ours that have begun, by device. ``failed`` are GPUs whose VFs could not be made. ``order`` has
    GPUs to be offered before the others. ``published`` are devices as we published them last: a kubelet that
    deletes slices takes nothing away from claims.
    """

    node: str
    driver: str
    status: NodeStatus
    spec: Spec
    policy: Policy
    table: ProfileTable
    capabilities: Capabilities
    live: tuple[LiveSlice, ...] = ()
    tokens: Mapping[str, str] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()
    published: tuple[Device, ...] = ()

    @property
    def layout(self) -> Layout:
        """The layout in force: the one wished for, or the best this server can be given instead."""
        can = self.capabilities
        wished = self.policy.layout or Layout.AUTO
        if wished is Layout.PINNED:
            return wished
        if can.dynamic and (wished is Layout.DYNAMIC or (wished is Layout.AUTO and self._counters_are_cheap)):
            return Layout.DYNAMIC
        return Layout.COUNTER_FREE if can.sharing else Layout.PINNED

    @property
    def _counters_are_cheap(self) -> bool:
        return self.capabilities.minor >= CHEAP_COUNTERS_SINCE

    @property
    def waits_for_vfs(self) -> bool:
        """Whether binding conditions are used."""
        return self.capabilities.binding and self.policy.binding_conditions is BindingConditions.ON_RECONFIGURE

    def override_of(self, gpu: str) -> Override | None:
        """The override of a GPU."""
        return next((override for override in self.spec.overrides if override.device == gpu), None)

    def is_wished_by_people(self, gpu: str) -> bool:
        """Whether a person has plans with it that no claim stands in the way of."""
        return gpu in self.status.withdrawn

    def is_confirmed(self, device: str) -> bool:
        """Whether the controller has answered our withdrawal of a device.

        What claims have is in the spec then, and schedulers have given it to nobody since.
        """
        token = self.tokens.get(device)
        return token is not None and self.spec.withdrawals_confirmed.get(withdrawal_key(device)) == token

    def live_devices(self) -> dict[str, Device]:
        """Devices there are or were just now, of the pool's newest generation where two have one name."""
        found = {device.name: device for device in self.published}
        for slice in sorted(self.live, key=lambda each: each.content.pool.generation):
            found |= {device.name: device for device in slice.content.devices}
        return found

    def shared_out(self) -> frozenset[str]:
        """Names of devices of which claims have a share: the scheduler has counted what each of them took."""
        devices = (device for claim in self.spec.allocations for device in claim.devices)
        return frozenset(device.device for device in devices if device.share_id)

    def held(self) -> frozenset[str]:
        """Names of devices that claims have, as schedulers know them.

        Those of claims that are on the node only, and about to leave it, count as long as they are published.
        """
        live = self.live_devices()
        names = {device.device for claim in self.spec.allocations for device in claim.devices}
        for allocation in self.status.allocations:
            if allocation.origin == "claim":
                names |= {_published(device.device, live) for device in allocation.devices} & live.keys()
        return frozenset(names)


def _published(name: str, live: Mapping[str, Device]) -> str:
    """The name under which a device was allocated: a VF's number need not be part of it."""
    parent, dash, _ = name.rpartition("-vf")
    return name if name in live or not dash else parent


def gpu_of(device: str) -> DeviceName | None:
    """The GPU that a device is part of; None for a name that is not one of ours."""
    try:
        return parse_logical_device(device).pf
    except ValueError:
        return None


def withdrawal_key(device: str) -> str:
    """Under which name a device's withdrawal is told. A GPU's own name stands for the plans of people with it."""
    return f"{device}-whole" if device == gpu_of(device) else device


def is_monitor(device: Device) -> bool:
    """Whether this only looks on."""
    return device.attribute("type") == Use.MONITOR.value


def mode_of_override(gpu: DeviceStatus) -> OverrideMode:
    """The override in force on a GPU, Managed if there is none."""
    return OverrideMode(gpu.override) if gpu.override else OverrideMode.MANAGED
