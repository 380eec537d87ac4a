"""The GpuNodeState manifest: one format for the desired-state file and the custom resource.

``decode`` turns parsed YAML or JSON into these types and refuses anything it does not know, naming the
field's path and the allowed values. What a manifest says about hardware is judged later, in ``resolve``.

The text below a field, and below the class of a list's elements, is what ``kubectl explain`` says of it: the
custom resource definition is generated from this file (``hack/gen-crd``).
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
    """How GPUs are published in ResourceSlices. Dynamic: each GPU with all its modes, the scheduler chooses
    one. Pinned: only the layout that an override names, or whole GPUs. CounterFree: each GPU once, divisible by
    memory and millicores. Auto: Dynamic where the cluster's scheduler is good at it, else CounterFree, else
    whole GPUs.
    """

    profiles: tuple[str, ...] | None = None
    """The VF layouts that are offered, by mode: m4 of flex170_m4, or fs4 for four equal shares. Unset: all
    profiles of the model's table; for models without a table fs1, fs2, fs4 and so on up to what the GPU can
    have. An empty list offers none.
    """

    shared_memory: bool | None = None
    """Whether GPUs are also offered for shared use, divided by memory that is accounted but not enforced."""

    binding_conditions: BindingConditions | None = None
    """Whether the scheduler waits with binding a pod until its GPU has been reconfigured (OnReconfigure), or
    the pod waits on the node (Never).
    """

    reorder: bool | None = None
    """Whether devices are published again in another order, so that GPUs in use are filled up first."""

    linger_seconds: Annotated[int, msgspec.Meta(ge=0, le=86400)] | None = None
    """Seconds for which VFs that nobody uses any more are kept for the next user. A wish for another layout of
    the GPU ends the wait at once.
    """


class VirtualFunctions(_Strict, frozen=True):
    """A VF layout."""

    profile: str
    """A profile of the model's table (flex170_m4) or its mode (m4), with Intel's published quotas; or fs<n>, n
    VFs among which the kernel driver divides the GPU evenly. `gpu-reconciler explain GPU` lists what a GPU can
    have.
    """


class Override(_Strict, frozen=True):
    """A person's word on one GPU."""

    device: str
    """The GPU's name, as in status.devices: its PCI address and device id, 0000-b3-00-0-0x56c0."""

    mode: OverrideMode = OverrideMode.MANAGED
    """Managed: as allocations want it. Fixed: keep the layout of virtualFunctions, used or not, and publish
    only that; VFs that somebody else made are adopted if they are exactly these. Drain: present users go on,
    nobody new. Ignore: nothing on this GPU is changed, and what it has is not published for new users.
    """

    virtual_functions: VirtualFunctions | None = None
    """The layout to keep, only with mode Fixed. Unset: no VFs, the GPU is for whole and shared use."""

    kernel_driver: OverrideDriver | None = None
    """The kernel driver to keep the GPU itself bound to. drm is the model's own, i915 or xe, which may also be
    named; vfio (vfio-pci) and xe-vfio (xe-vfio-pci) hand the whole GPU to virtual machines and allow no VFs.
    Naming one also takes over a GPU that somebody else bound to it. Unset: as allocations want it.
    """

    reason: str = ""
    """Why, for those who come later. It is told in the condition Overridden and to those who wait for the GPU."""


class ManualDevice(_Strict, frozen=True):
    """One device of a manual allocation. Equal devices of one allocation are listed once."""

    device: str
    """What is given: <gpu> (all of it, to one user), <gpu>-shared (all of it, to several),
    <gpu>-<mode>-vf<index> (one virtual function, from 0, of the layout <mode>, such as m4 or fs8) or
    <gpu>-monitor (to look on). <gpu> is its name in status.devices.
    """

    memory: Bytes | None = None
    """Local memory that the user needs, in bytes or as a quantity (2Gi). Refused if the device has less. Shares
    of one GPU are added up and wait if there is too little; nothing enforces them. A VF's own memory is
    enforced by hardware.
    """

    kernel_driver: KernelDriver = KernelDriver.DRM
    """The kernel driver that the device is bound to: drm for i915 or xe; vfio (vfio-pci) or xe-vfio
    (xe-vfio-pci) for a virtual machine. Shared and monitor devices are always drm; xe-vfio needs a GPU of the
    xe driver.
    """

    admin_access: bool = False
    """Whether the user only looks on, beside whoever else uses the device, and changes nothing about it. Needed
    for a monitor device.
    """


class ManualAllocation(_Strict, frozen=True):
    """Devices that a person gives to a user: all of them, or it waits."""

    name: Name
    """The user's name: lower-case letters, digits, dashes and dots, beginning with a letter. Containers get the
    devices as CDI device intel.com/gpu=NAME.
    """

    devices: Annotated[tuple[ManualDevice, ...], msgspec.Meta(min_length=1, max_length=64)]
    """What the user gets, 1 to 64 devices, of one GPU or several. One GPU is used in one mode at a time."""


class VirtualFunction(_Strict, frozen=True):
    """One VF: the layout it belongs to and its number, from 0."""

    profile: str
    """The layout, by full name (flex170_m4, fs8)."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    """The VF's number within the GPU, from 0. It never changes while the claim exists."""


class ClaimRefusal(_Strict, frozen=True):
    """Why the controller refuses a claim: the offending path in it, and the reason."""

    path: str
    """The offending field of the claim or its opaque configuration."""

    reason: str
    """What is wrong with it and what would be allowed."""


class AllocatedDevice(_Strict, frozen=True):
    """One device of a ResourceClaim's allocation, projected by the controller."""

    request: str
    """The claim's request it satisfies, as REQUEST or REQUEST/SUBREQUEST."""

    pool: str
    """The resource pool it comes from: the node's name."""

    device: str
    """Its name in the ResourceSlice."""

    physical_function: str
    """The GPU it is part of, by its name in status.devices."""

    share_id: str = msgspec.field(default="", name="shareID")
    """The scheduler's id of this share of a device that several claims may have."""

    virtual_function: VirtualFunction | None = None
    """The VF behind it; absent for whole, shared and monitor devices."""

    memory: Bytes | None = None
    """Local memory allocated, in bytes; absent if the scheduler does not count it here."""

    millicores: Count | None = None
    """Compute time allocated, in thousandths of the GPU; absent if the scheduler does not count it here."""

    admin_access: bool = False
    """Whether the claim has admin access: it only looks on, and the device may have another user."""

    kernel_driver: KernelDriver = KernelDriver.DRM
    """The kernel driver the user asked for: drm, vfio or xe-vfio. Absent: drm."""


class RequestConfig(_Strict, frozen=True):
    """The decoded opaque configuration of one request."""

    kernel_driver: KernelDriver = KernelDriver.DRM
    """The kernel driver the user asked for: drm, vfio or xe-vfio. Absent: drm."""


class ClaimAllocation(_Strict, frozen=True):
    """What a ResourceClaim was allocated on this node."""

    name: ClaimUid
    """The claim's UID."""

    claim_namespace: str
    """The claim's namespace."""

    claim_name: str
    """The claim's name, for people: a claim made anew under it has another UID."""

    source: str
    """The version of resource.k8s.io that the allocation was read from."""

    devices: tuple[AllocatedDevice, ...] = ()
    """What was allocated, in the order of the claim's status."""

    config: dict[str, RequestConfig] = {}
    """The GpuConfig of each request that has one, by request."""

    refused: ClaimRefusal | None = None
    """Why this claim gets nothing, if the controller found that no node could serve it as it is."""


class Spec(_Strict, frozen=True):
    """What is wanted of a node. Each field has one writer; see the field descriptions of the CRD."""

    paused: bool = False
    """By people. Whether the node only observes and reports, and changes nothing on its hardware. Claims that
    are ready are still confirmed; all others wait as Pending.
    """

    policy: Policy = msgspec.field(default_factory=Policy)
    """By people. How the node's GPUs are offered. Unset fields come from the agent's flags of the same names."""

    overrides: tuple[Override, ...] = ()
    """By people. A word on single GPUs, at most one for each. It wins over allocations, but never takes away
    what is in use: then it waits, and status.plan.blocked says for whom.
    """

    manual_allocations: tuple[ManualAllocation, ...] = ()
    """By people. Devices given to users outside of Kubernetes, such as virtual machines or podman containers;
    the scheduler then keeps off these GPUs. Names are unique.
    """

    releases: tuple[str, ...] = ()
    """By people. UIDs of ResourceClaims whose devices are to be taken back although the kubelet has not
    released them; done once for each, and only if no process is seen that has them open.
    """

    allocations: tuple[ClaimAllocation, ...] = ()
    """By the controller alone; do not edit. What ResourceClaims were allocated on this node, by claim UID."""

    adopted_uid: str = msgspec.field(default="", name="adoptedUID")
    """By the controller alone; do not edit. The metadata.uid of the object whose claims it has taken over.
    Until they agree, after an object was deleted or restored, the node keeps the allocations it had.
    """

    withdrawals_confirmed: dict[str, str] = {}
    """By the controller alone; do not edit. By device, the token of status.withdrawn that it has confirmed: no
    claim has that device any more.
    """


class Metadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The object metadata we use. Whatever else an API server keeps there is none of our business."""

    name: str | None = None
    uid: str | None = None
    generation: Annotated[int, msgspec.Meta(ge=0)] | None = None


class NodeState(_Strict, frozen=True):
    """What is wanted of the Intel GPUs of one node, and what is there. Its name is the node's."""

    api_version: Literal["gpu.dra.intel.com/v1alpha1"]
    kind: Literal["GpuNodeState"]
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: Spec = msgspec.field(default_factory=Spec)
    """What is wanted: paused, policy, overrides, manualAllocations and releases by people, the rest by the
    controller. The node's agent makes it so and tells in status how that goes.
    """

    # Accepted, so that what kubectl prints can be applied, and ignored.
    status: dict[str, object] | None = None
    """What the node's agent last saw, written by it alone: from looking, not from what was asked for."""
