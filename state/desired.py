"""What is wanted of one machine: the manifest judged against the hardware that is there.

``resolve`` turns names into devices and refuses what no waiting can mend. Whether what is left can be had
now, next to everybody else's wishes, is decided in ``arbitration``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial

from state.ids import DeviceName
from state.judging import Judge
from state.manifest import OverrideMode, Policy, Spec
from state.observed import DRM_DRIVERS
from state.profiles import ProfileTable
from state.records import AppliedDevice
from state.wanted import Gpus, Refusal, RefusedError, WantedDevice, WantedOverride


class Origin(Enum):
    """Who asked for an allocation."""

    MANUAL = "alloc"
    CLAIM = "claim"

    def key(self, name: str) -> str:
        """The key of an allocation of this origin."""
        return f"{self.value}-{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An allocation of the manifest. ``refusal`` is set when its devices are the last good ones instead.

    ``key`` is unique among allocations of both origins; it names CDI files and records.
    """

    key: str
    name: str
    origin: Origin
    path: str
    devices: tuple[WantedDevice, ...]
    claim: str = ""
    refusal: Refusal | None = None

    @property
    def records(self) -> tuple[AppliedDevice, ...]:
        """What is kept of its devices."""
        return tuple(device.record for device in self.devices)

    def __str__(self) -> str:
        return f"claim {self.claim}" if self.origin is Origin.CLAIM else f"allocation {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedEntry:
    """An allocation without any good devices to fall back on."""

    key: str
    name: str
    origin: Origin
    claim: str
    refusal: Refusal


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
    withdrawals_confirmed: Mapping[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of all allocations in the manifest."""
        return frozenset([entry.key for entry in self.entries] + [entry.key for entry in self.refused])


def resolve(
    spec: Spec, gpus: Gpus, table: ProfileTable, applied: Mapping[str, tuple[AppliedDevice, ...]]
) -> Desired:
    """Judge a manifest against the machine.

    An allocation that is refused but had devices before keeps them, so that a slip of an editor takes nothing
    away from a user; ``applied`` has those last good devices by entry key.
    """
    judge = Judge(gpus=gpus, table=table, kept_at=_kept_at(spec))
    asked: list[Entry | RefusedEntry] = []
    for index, manual in enumerate(spec.manual_allocations):
        path = f"spec.manualAllocations[{index}]"
        nothing = Entry(
            key=Origin.MANUAL.key(manual.name), name=manual.name, origin=Origin.MANUAL, path=path, devices=()
        )
        asked.append(_judged(nothing, partial(judge.manual, manual, path), judge, applied))
    for claim in spec.allocations:
        path = f"spec.allocations[{claim.name}]"
        who = f"{claim.claim_namespace}/{claim.claim_name}"
        key = Origin.CLAIM.key(claim.name)
        nothing = Entry(key=key, name=claim.name, origin=Origin.CLAIM, path=path, devices=(), claim=who)
        asked.append(_judged(nothing, partial(judge.claim, claim, path), judge, applied))
    overrides, refused_overrides = _overrides(spec, judge)
    return Desired(
        entries=tuple(entry for entry in asked if isinstance(entry, Entry)),
        refused=tuple(entry for entry in asked if isinstance(entry, RefusedEntry)),
        overrides=overrides,
        refused_overrides=refused_overrides,
        policy=spec.policy,
        paused=spec.paused,
        releases=frozenset(spec.releases),
        withdrawals_confirmed=spec.withdrawals_confirmed,
    )


def restore(record: tuple[AppliedDevice, ...], gpus: Gpus, table: ProfileTable) -> tuple[WantedDevice, ...]:
    """The devices of a record as wanted devices again. Raises RefusedError when they no longer make sense."""
    judge = Judge(gpus=gpus, table=table)
    return tuple(judge.recorded(device) for device in record)


def _judged(
    nothing: Entry,
    devices: Callable[[], tuple[WantedDevice, ...]],
    judge: Judge,
    applied: Mapping[str, tuple[AppliedDevice, ...]],
) -> Entry | RefusedEntry:
    """The entry with its devices; where they are refused, with those it had before, if it had any."""
    try:
        return replace(nothing, devices=devices())
    except RefusedError as error:
        refusal = error.refusal
    try:
        last = tuple(judge.recorded(device) for device in applied.get(nothing.key, ()))
    except RefusedError:
        last = ()
    if last:
        return replace(nothing, devices=last, refusal=refusal)
    return RefusedEntry(
        key=nothing.key, name=nothing.name, origin=nothing.origin, claim=nothing.claim, refusal=refusal
    )


def _kept_at(spec: Spec) -> dict[str, str]:
    """The DRM drivers that overrides name, by GPU."""
    return {
        override.device: override.kernel_driver.value
        for override in spec.overrides
        if override.mode is not OverrideMode.IGNORE
        and override.kernel_driver is not None
        and override.kernel_driver.value in DRM_DRIVERS
    }


def _overrides(spec: Spec, judge: Judge) -> tuple[dict[DeviceName, WantedOverride], tuple[Refusal, ...]]:
    """Overrides by GPU. A GPU whose override is refused is left alone until a person has mended it."""
    overrides: dict[DeviceName, WantedOverride] = {}
    refused: list[Refusal] = []
    for index, override in enumerate(spec.overrides):
        path = f"spec.overrides[{index}]"
        try:
            pf = judge.overridden(override, path)
        except RefusedError as error:
            refused.append(error.refusal)
            continue
        try:
            overrides[pf] = judge.override(override, path)
        except RefusedError as error:
            refused.append(error.refusal)
            overrides[pf] = WantedOverride(mode=OverrideMode.IGNORE, path=path, reason="it is refused")
    return overrides, tuple(refused)
