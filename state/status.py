"""What a node says about itself: the status half of GpuNodeState, and the status file around it.

It is written from what was seen, before anything is done about it, and never because a write succeeded.
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
    """One condition, as Kubernetes has them. ``status`` is True, False or Unknown in words."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: datetime
    observed_generation: int | None = None


class MemoryStatus(_Status, frozen=True, kw_only=True):
    """Local memory in bytes and how it was found (``sysfs``, ``ioctl``, ``bar``: a lower bound)."""

    bytes: int
    source: str


class SriovStatus(_Status, frozen=True, kw_only=True):
    """VFs: how many are possible and enabled, in which layout (a profile's name), and made by whom."""

    total: int
    enabled: int
    layout: str = ""
    owner: str = ""


class NodesStatus(_Status, frozen=True, kw_only=True):
    """Device nodes of a GPU, below /dev."""

    drm: tuple[str, ...] = ()
    vfio: tuple[str, ...] = ()
    mei: tuple[str, ...] = ()


class SicknessStatus(_Status, frozen=True, kw_only=True):
    """One reason why a GPU is not healthy."""

    cause: str
    message: str


class DeviceStatus(_Status, frozen=True, kw_only=True):
    """One GPU of the inventory. Numbers that are unknown are left out.

    ``original_driver`` is there while we have the GPU bound to another driver: the one to give back, empty if
    it had none.
    """

    name: str
    pci_address: str
    pci_id: str
    model: str
    family: str
    health: str
    driver: str = ""
    memory: MemoryStatus | None = None
    ecc: str = ""
    tiles: int = 1
    integrated: bool | None = None
    numa_node: int | None = None
    pcie_root: str = ""
    link: str = ""
    subsystem: str = ""
    sriov: SriovStatus | None = None
    nodes: NodesStatus = msgspec.field(default_factory=NodesStatus)
    sickness: tuple[SicknessStatus, ...] = ()
    changing: str = ""
    override: str = ""
    original_driver: str | None = None
    users: tuple[str, ...] = ()


class AllocationStatus(_Status, frozen=True, kw_only=True):
    """How one allocation stands. ``attempts`` are failures in a row, ``since`` when the phase began."""

    name: str
    origin: str
    phase: str
    since: datetime
    message: str = ""
    claim: str = ""
    devices: tuple[AppliedDevice, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    in_use: bool = False
    attempts: int = 0


class PlannedAction(_Status, frozen=True, kw_only=True):
    """A step about to be taken, and the GPU it concerns (empty: none)."""

    device: str
    action: str


class BlockedStatus(_Status, frozen=True, kw_only=True):
    """Something wanted that has to wait, and why."""

    what: str
    why: str


class PlanStatus(_Status, frozen=True, kw_only=True):
    """What is about to be done, and what can't be."""

    actions: tuple[PlannedAction, ...] = ()
    blocked: tuple[BlockedStatus, ...] = ()


class NodeStatus(_Status, frozen=True, kw_only=True):
    """The status of a node."""

    observed_generation: int | None = None
    boot_id: str = msgspec.field(name="bootID")
    version: str
    conditions: tuple[Condition, ...] = ()
    devices: tuple[DeviceStatus, ...] = ()
    allocations: tuple[AllocationStatus, ...] = ()
    plan: PlanStatus = msgspec.field(default_factory=PlanStatus)
    withdrawn: dict[str, str] = {}


class StatusFile(_Status, frozen=True, kw_only=True):
    """The status file: the node's status, when it was written, and what the kubelet plugin needs besides.

    ``nonces`` are those of marks whose devices are on record, ``released_marks`` those of marks to delete.
    """

    format_version: int = STATUS_FORMAT
    written_at: datetime
    boot_id: str = msgspec.field(name="bootID")
    status: NodeStatus
    nonces: dict[str, str] = {}
    released_marks: dict[str, str] = {}


class StatusError(Exception):
    """A status file that can't be read, with the reason."""


def encode_status(file: StatusFile) -> bytes:
    """The status file as JSON, for machines. Equal values give equal bytes.

    Names on the machine may be no UTF-8 (then Python has lone surrogates for their bytes); they are shown escaped.
    """
    try:
        return msgspec.json.encode(file, order="deterministic") + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(_escaped(msgspec.to_builtins(file, order="deterministic"))) + b"\n"


def _escaped(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_escaped(key): _escaped(child) for key, child in value.items()}
        case list() | tuple():
            return [_escaped(child) for child in value]
        case _:
            return value


def decode_status(raw: bytes) -> StatusFile:
    """The status file in ``raw``. Raises StatusError when it is none, or of a format this version can't read."""
    try:
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
