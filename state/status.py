"""What a node says about itself: the status half of GpuNodeState, and the status file around it.

It is written from what was seen, before anything is done about it, and never because a write succeeded.

The text below a field is what ``kubectl explain`` says of it: the custom resource definition is generated from
this file and ``state/manifest.py`` (``hack/gen-crd``).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from state.records import AppliedDevice

STATUS_FORMAT = 1


class _Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the parts of a status have in common: unknown newer fields are ignored."""


class Condition(_Status, frozen=True, kw_only=True):
    """One condition, as Kubernetes has them."""

    type: str
    """Ready, Reconciling, Stalled or Overridden."""

    status: str
    """True, False or Unknown."""

    reason: str
    """Why, in one word for programs."""

    message: str = ""
    """Why, in a sentence for people."""

    last_transition_time: datetime
    """When status last changed."""

    observed_generation: int | None = None
    """The metadata.generation that this was judged by."""


class MemoryStatus(_Status, frozen=True, kw_only=True):
    """Local memory and how its size was found."""

    bytes: int
    """Size in bytes."""

    source: str
    """How it was found: sysfs or ioctl (exact, from the kernel driver), or bar (a PCI address range: a lower
    bound).
    """


class SriovStatus(_Status, frozen=True, kw_only=True):
    """VFs: how many are possible and enabled, in which layout, and made by whom."""

    total: int
    """The most VFs that the GPU can have."""

    enabled: int
    """How many VFs it has now."""

    layout: str = ""
    """The profile that these VFs are found to have: a table's name, or fs<n> for equal shares. Absent if they
    match none.
    """

    owner: str = ""
    """Who made the VFs: ours or foreign. Foreign ones are left alone until an override with mode Fixed names
    them.
    """

    quotas: bool = False
    """Whether the kernel driver lets us set what each VF gets. If not, only equal shares (fs<n>) can be had."""


class NodesStatus(_Status, frozen=True, kw_only=True):
    """Device nodes of a GPU, below /dev."""

    drm: tuple[str, ...] = ()
    """DRM nodes: dri/cardN, dri/renderDN."""

    vfio: tuple[str, ...] = ()
    """VFIO nodes, while the GPU is bound to a VFIO driver."""

    mei: tuple[str, ...] = ()
    """Nodes of the GPU's firmware interface, which monitors get."""


class SicknessStatus(_Status, frozen=True, kw_only=True):
    """One reason why a GPU is not healthy."""

    cause: str
    """DeviceAbsent, Survivability, Wedged or Unreadable. It is also part of a taint's key."""

    message: str
    """What was seen."""


class DeviceStatus(_Status, frozen=True, kw_only=True):
    """One GPU of the inventory. What is unknown is left out."""

    name: str
    """The GPU's name, from its PCI address and device id; it survives reboots and driver changes. Overrides and
    manual allocations use it.
    """

    pci_address: str
    """PCI address, dddd:bb:dd.f."""

    pci_id: str
    """PCI device id, in hexadecimal."""

    model: str
    """Marketing name."""

    family: str
    """Product family."""

    health: str
    """Healthy, Unhealthy or Unknown (what would tell can't be read)."""

    driver: str = ""
    """The kernel driver it is bound to. Absent: none, or unreadable."""

    memory: MemoryStatus | None = None
    """Local memory. Absent if there is none or its size is unknown."""

    ecc: str = ""
    """Whether local memory has error correction on: on or off. Absent if unknown."""

    tiles: int = 1
    """Number of tiles."""

    integrated: bool | None = None
    """Whether it is part of the processor. Absent if unknown."""

    numa_node: int | None = None
    """NUMA node it is nearest to. Absent if the kernel knows none."""

    pcie_root: str = ""
    """PCIe root complex, as in the standard device attribute resource.kubernetes.io/pcieRoot."""

    link: str = ""
    """Speed and width of its PCIe link."""

    subsystem: str = ""
    """PCI subsystem vendor and device id: who made the card."""

    sriov: SriovStatus | None = None
    """Its virtual functions (VFs). Absent if it can't have any."""

    nodes: NodesStatus = msgspec.field(default_factory=NodesStatus)
    """Device nodes, below /dev."""

    sickness: tuple[SicknessStatus, ...] = ()
    """Why it is not healthy."""

    changing: str = ""
    """What is being done to it at this moment. Absent if nothing is."""

    override: str = ""
    """The mode of the override in force on it. Absent if there is none."""

    original_driver: str | None = None
    """Only while we have it bound to another driver: the one it had, which it is given back; empty if it had
    none.
    """

    users: tuple[str, ...] = ()
    """Who has it, in full or in part: NAMESPACE/CLAIM or the name of a manual allocation."""


class AllocationStatus(_Status, frozen=True, kw_only=True):
    """How one allocation stands."""

    name: str
    """The claim's UID, or the name of the manual allocation."""

    origin: str
    """claim for a ResourceClaim, alloc for a manual allocation."""

    phase: str
    """Pending (the node is paused), Converging, Ready, Blocked (waits for somebody or something), Failed (tried
    again), Refused (can't ever be had like this) or Releasing (no longer wanted, not all given back yet).
    """

    since: datetime
    """When the phase began."""

    message: str = ""
    """What it waits for, what went wrong, or what would be allowed instead."""

    claim: str = ""
    """NAMESPACE/NAME of the claim."""

    devices: tuple[AppliedDevice, ...] = ()
    """What it gets, as applied."""

    cdi_devices: tuple[str, ...] = ()
    """Names under which a container runtime hands the devices out (CDI)."""

    in_use: bool = False
    """Whether it was given to a container that may still run."""

    attempts: int = 0
    """Failures in a row."""


class PlannedAction(_Status, frozen=True, kw_only=True):
    """A step about to be taken."""

    device: str
    """The GPU concerned. Empty: none in particular."""

    action: str
    """The step, in words."""


class BlockedStatus(_Status, frozen=True, kw_only=True):
    """Something wanted that has to wait, and why."""

    what: str
    """What is wanted."""

    why: str
    """What it waits for."""


class PlanStatus(_Status, frozen=True, kw_only=True):
    """What is about to be done, and what can't be."""

    actions: tuple[PlannedAction, ...] = ()
    """Steps about to be taken, in order."""

    blocked: tuple[BlockedStatus, ...] = ()
    """What is wanted but has to wait, and why."""


class SummaryStatus(_Status, frozen=True, kw_only=True, omit_defaults=False):
    """The node in a few numbers, as ``kubectl get`` lists them: columns can't count."""

    gpus: int = 0
    """Physical GPUs."""

    virtual_functions: int = 0
    """VFs enabled on them, whoever made them."""

    claims: int = 0
    """Allocations of ResourceClaims, in whatever phase."""

    manual_allocations: int = 0
    """Manual allocations, in whatever phase."""

    blocked: int = 0
    """How many things wait: the length of plan.blocked."""


class NodeStatus(_Status, frozen=True, kw_only=True):
    """The status of a node."""

    observed_generation: int | None = None
    """The newest metadata.generation that was read."""

    boot_id: str = msgspec.field(name="bootID")
    """The boot of the machine that all of this is about."""

    version: str
    """Version of the node's agent."""

    summary: SummaryStatus = msgspec.field(default_factory=SummaryStatus)
    """The node in a few numbers."""

    conditions: tuple[Condition, ...] = ()
    """Ready: the node is as wanted. Reconciling: it is at work, or about to try again. Stalled: only a person
    can help. Overridden: an override keeps something from being as allocations want it.
    """

    devices: tuple[DeviceStatus, ...] = ()
    """Every GPU of the node, sorted by name."""

    allocations: tuple[AllocationStatus, ...] = ()
    """How each allocation stands, also those that are being taken back."""

    plan: PlanStatus = msgspec.field(default_factory=PlanStatus)
    """What is about to be done, and what can't be."""

    withdrawn: dict[str, str] = {}
    """By device, a token for each that is no longer offered to claims; the controller confirms it in
    spec.withdrawalsConfirmed.
    """


class StatusFile(_Status, frozen=True, kw_only=True, omit_defaults=False):
    """The status file: the node's status, when it was written, and what the kubelet plugin needs besides.

    ``nonces`` are those of marks whose devices are on record, ``released_marks`` those of marks to delete.
    """

    format_version: int = STATUS_FORMAT
    written_at: datetime
    boot_id: str = msgspec.field(name="bootID")
    status: NodeStatus
    nonces: dict[str, str] = {}
    released_marks: dict[str, str] = {}


class _Version(msgspec.Struct, rename="camel"):
    format_version: int = STATUS_FORMAT


class StatusError(Exception):
    """A status file that can't be read, with the reason."""


def encode_status(file: StatusFile) -> bytes:
    """The status file as JSON, for machines. Equal values give equal bytes.

    Names on the machine may be no UTF-8 (then Python has lone surrogates for their bytes); they are shown escaped.
    """
    try:
        return msgspec.json.encode(file, order="deterministic") + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(escaped(msgspec.to_builtins(file, order="deterministic"))) + b"\n"


def escaped(value: object) -> object:
    """Builtins with strings that are no UTF-8 shown escaped."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {escaped(key): escaped(child) for key, child in value.items()}
        case list() | tuple():
            return [escaped(child) for child in value]
        case _:
            return value


def decode_status(raw: bytes) -> StatusFile:
    """The status file in ``raw``. Raises StatusError when it is none, or of a format this version can't read."""
    try:
        version = msgspec.json.decode(raw, type=_Version).format_version
        if version != STATUS_FORMAT:
            raise StatusError(f"formatVersion is {version} (allowed: {STATUS_FORMAT})")
        return msgspec.json.decode(raw, type=StatusFile)
    except (ValueError, RecursionError) as error:  # no such JSON, not UTF-8; or nested without end
        raise StatusError(str(error)) from None


def condition_of(status: NodeStatus, kind: str) -> Condition | None:
    """The condition of this type, if there is one."""
    return next((condition for condition in status.conditions if condition.type == kind), None)


def settle_condition(previous: Mapping[str, Condition], fresh: Condition) -> Condition:
    """``fresh``, but with the time of the last transition kept unless its status changed."""
    before = previous.get(fresh.type)
    if before is None or before.status != fresh.status:
        return fresh
    return msgspec.structs.replace(fresh, last_transition_time=before.last_transition_time)
