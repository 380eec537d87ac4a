"""The GpuNodeState manifest: one format for the desired-state file and the custom resource.

``decode`` turns parsed YAML or JSON into these types and refuses anything it does not know, naming the
field's path and the allowed values. What a manifest says about hardware is judged later, in ``resolve``.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final, Literal

import msgspec

API_VERSION: Final = "gpu.dra.intel.com/v1alpha1"
KIND: Final = "GpuNodeState"

Count = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
# `\Z`, as `$` would let a final newline pass.
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z]([a-z0-9.-]*[a-z0-9])?\Z", max_length=63)]
ClaimUid = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z", max_length=63)]


class Layout(Enum):
    """How devices are published to schedulers."""

    AUTO = "Auto"
    DYNAMIC = "Dynamic"
    PINNED = "Pinned"
    COUNTER_FREE = "CounterFree"


class BindingConditions(Enum):
    """Whether schedulers are told to wait for a GPU that has yet to be reconfigured."""

    NEVER = "Never"
    ON_RECONFIGURE = "OnReconfigure"


class OverrideMode(Enum):
    """What a person wants of one GPU."""

    MANAGED = "Managed"
    FIXED = "Fixed"
    DRAIN = "Drain"
    IGNORE = "Ignore"


class KernelDriver(Enum):
    """The kernel driver a user gets: ``drm`` is the model's own (i915, xe), the others are for VMs."""

    DRM = "drm"
    VFIO = "vfio"
    XE_VFIO = "xe-vfio"


class OverrideDriver(Enum):
    """The kernel driver an override asks for; here the DRM drivers may also be named."""

    DRM = "drm"
    I915 = "i915"
    XE = "xe"
    VFIO = "vfio"
    XE_VFIO = "xe-vfio"


class _Strict(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """What every part of the manifest has in common."""


class Policy(_Strict, frozen=True):
    """How the node's GPUs are offered. Unset fields come from the agent's flags of the same names."""

    layout: Layout | None = None
    profiles: tuple[str, ...] | None = None
    shared_memory: bool | None = None
    binding_conditions: BindingConditions | None = None
    reorder: bool | None = None
    linger_seconds: Annotated[int, msgspec.Meta(ge=0, le=86400)] | None = None


class VirtualFunctions(_Strict, frozen=True):
    """A VF layout: a table profile's name, its mode, or ``fs<n>`` for n equal shares."""

    profile: str


class Override(_Strict, frozen=True):
    """A person's word on one GPU; it wins over allocations, but never pulls a device that is in use."""

    device: str
    mode: OverrideMode = OverrideMode.MANAGED
    virtual_functions: VirtualFunctions | None = None
    kernel_driver: OverrideDriver | None = None
    reason: str = ""


class ManualDevice(_Strict, frozen=True):
    """One device of a manual allocation, by logical name. ``memory`` is in bytes."""

    device: str
    memory: Bytes | None = None
    kernel_driver: KernelDriver = KernelDriver.DRM
    admin_access: bool = False


class ManualAllocation(_Strict, frozen=True):
    """Devices that a person gives to a user called ``name``."""

    name: Name
    devices: Annotated[tuple[ManualDevice, ...], msgspec.Meta(min_length=1, max_length=64)]


class VirtualFunction(_Strict, frozen=True):
    """One VF: the layout it belongs to and its number, from 0."""

    profile: str
    index: Annotated[int, msgspec.Meta(ge=0)]


class ClaimRefusal(_Strict, frozen=True):
    """Why the controller refuses a claim: the offending path in it, and the reason."""

    path: str
    reason: str


class AllocatedDevice(_Strict, frozen=True):
    """One device of a ResourceClaim's allocation, projected by the controller."""

    request: str
    pool: str
    device: str
    physical_function: str
    share_id: str = msgspec.field(default="", name="shareID")
    virtual_function: VirtualFunction | None = None
    memory: Bytes | None = None
    millicores: Count | None = None
    admin_access: bool = False
    kernel_driver: KernelDriver = KernelDriver.DRM


class RequestConfig(_Strict, frozen=True):
    """The decoded opaque configuration of one request."""

    kernel_driver: KernelDriver = KernelDriver.DRM


class ClaimAllocation(_Strict, frozen=True):
    """What a ResourceClaim was allocated on this node. ``name`` is the claim's UID."""

    name: ClaimUid
    claim_namespace: str
    claim_name: str
    source: str
    devices: tuple[AllocatedDevice, ...] = ()
    config: dict[str, RequestConfig] = {}
    refused: ClaimRefusal | None = None


class Spec(_Strict, frozen=True):
    """What is wanted of a node. Each field has one writer; see the field descriptions of the CRD."""

    paused: bool = False
    policy: Policy = msgspec.field(default_factory=Policy)
    overrides: tuple[Override, ...] = ()
    manual_allocations: tuple[ManualAllocation, ...] = ()
    releases: tuple[str, ...] = ()
    allocations: tuple[ClaimAllocation, ...] = ()
    adopted_uid: str = msgspec.field(default="", name="adoptedUID")
    withdrawals_confirmed: dict[str, str] = {}


class Metadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The object metadata we use. Whatever else an API server keeps there is none of our business."""

    name: str | None = None
    uid: str | None = None
    generation: Annotated[int, msgspec.Meta(ge=0)] | None = None


class NodeState(_Strict, frozen=True):
    """A whole manifest. ``status`` is accepted, so that what kubectl prints can be applied, and ignored."""

    api_version: Literal["gpu.dra.intel.com/v1alpha1"]
    kind: Literal["GpuNodeState"]
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: Spec = msgspec.field(default_factory=Spec)
    status: dict[str, object] | None = None
