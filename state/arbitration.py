"""Who gets which GPU when wishes compete.

Wishes are weighed in a fixed order: claims that hold devices, allocations already in force, then people's
manual allocations, then new claims, each in the manifest's order. Whoever comes later and doesn't fit waits,
and is told for whom. An override wins over all that is not in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from state.desired import (
    Desired,
    Entry,
    Gpus,
    Origin,
    Refusal,
    RefusedError,
    WantedDevice,
    WantedOverride,
    restore,
)
from state.ids import DeviceName, Slot, Use
from state.manifest import OverrideMode
from state.observed import Changing, PfSeen
from state.profiles import Profile, ProfileTable
from state.records import AppliedDevice, Held


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one GPU must look like: its VF layout (None: no VFs) and its own driver (None: whatever it has).

    ``vf_drivers`` has the driver of each VF that somebody uses. ``by`` says who wants it so. ``adopt`` allows
    taking over VFs that somebody else made.
    """

    profile: Profile | None
    driver: str | None
    by: str
    vf_drivers: Mapping[int, str] = field(default_factory=dict)
    adopt: bool = False
    adopt_binding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An entry that can't have its devices now, and why."""

    entry: Entry
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arbitration:
    """The outcome: who is served, who waits, who is refused, and what each GPU must look like for that.

    A GPU without a demand is wanted by nobody. ``hands_off`` are those a person told us to leave alone.
    """

    served: tuple[Entry, ...]
    waiting: tuple[Waiting, ...]
    refused: tuple[tuple[Entry, Refusal], ...]
    demands: Mapping[DeviceName, Demand]
    hands_off: Mapping[DeviceName, str]
    overridden: tuple[str, ...]
    blocked_overrides: tuple[tuple[DeviceName, str], ...]


@dataclass(slots=True, kw_only=True)
class _Tenancy:
    """What the entries served so far make of one GPU."""

    profile: Profile | None = None
    use: Use | None = None
    driver: str | None = None
    users: dict[Slot, Entry] = field(default_factory=dict)
    memory: int = 0
    vf_drivers: dict[int, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


def arbitrate(
    desired: Desired,
    gpus: Gpus,
    table: ProfileTable,
    applied: Mapping[str, tuple[AppliedDevice, ...]],
    held: Held | None,
    released: frozenset[str],
) -> Arbitration:
    """Weigh all wishes.

    ``held`` are the devices confirmed for marked claims; ``released`` the claims a person has released and
    nobody was seen using.
    """
    court = _Court(desired=desired, gpus=gpus, applied=applied)
    entries = _with_held(desired, gpus, table, held, released, court)
    for entry in sorted(entries, key=court.rank):
        court.hear(entry)
    return court.outcome()


def _with_held(
    desired: Desired,
    gpus: Gpus,
    table: ProfileTable,
    held: Held | None,
    released: frozenset[str],
    court: _Court,
) -> list[Entry]:
    """The entries to weigh: those of the manifest, but with the devices that marked claims hold."""
    holding = {} if held is None else {uid: held.claims[uid] for uid in held.claims if uid not in released}
    entries: list[Entry] = []
    for entry in desired.entries:
        if entry.origin is Origin.CLAIM and entry.name in released:
            continue
        claim = holding.pop(entry.name, None) if entry.origin is Origin.CLAIM else None
        if claim is None:
            entries.append(entry)
            continue
        court.holding.add(entry.key)
        if tuple(device.applied() for device in entry.devices) != claim.devices:
            court.changed[entry.key] = entry
            entry = _held_entry(entry.name, claim.devices, gpus, table, claim=entry.claim) or entry
        entries.append(entry)
    for uid in sorted(holding):
        left = _held_entry(uid, holding[uid].devices, gpus, table, claim=uid)
        if left is not None:
            court.holding.add(left.key)
            entries.append(left)
    return entries


def _held_entry(
    uid: str, record: tuple[AppliedDevice, ...], gpus: Gpus, table: ProfileTable, *, claim: str
) -> Entry | None:
    try:
        devices = restore(record, gpus, table)
    except RefusedError:
        return None  # the GPU itself is gone: nothing is left to keep for this claim
    return Entry(name=uid, origin=Origin.CLAIM, path=f"held[{uid}]", devices=devices, claim=claim)


@dataclass(slots=True, kw_only=True)
class _Court:
    desired: Desired
    gpus: Gpus
    applied: Mapping[str, tuple[AppliedDevice, ...]]
    holding: set[str] = field(default_factory=set)
    changed: dict[str, Entry] = field(default_factory=dict)
    tenancies: dict[DeviceName, _Tenancy] = field(default_factory=dict)
    served: list[Entry] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    refused: list[tuple[Entry, Refusal]] = field(default_factory=list)

    def in_force(self, entry: Entry) -> bool:
        """Whether the entry has exactly these devices already."""
        return self.applied.get(entry.key) == tuple(device.applied() for device in entry.devices)

    def rank(self, entry: Entry) -> int:
        if entry.key in self.holding:
            return 0
        if self.in_force(entry):
            return 1
        return 2 if entry.origin is Origin.MANUAL else 3

    def hear(self, entry: Entry) -> None:
        """Serve the entry if all its devices can be had beside those served before; else it waits."""
        for device in entry.devices:
            objection = self._objection(entry, device)
            if objection is None:
                continue
            why, rival = objection
            both_manual = rival is not None and Origin.MANUAL is rival.origin is entry.origin
            if both_manual:
                refusal = Refusal(path=entry.path, why=why)
                self.refused.append((entry, refusal))
            else:
                self.waiting.append(Waiting(entry=entry, why=why))
            return
        for device in entry.devices:
            self._admit(entry, device)
        self.served.append(entry)

    def _objection(self, entry: Entry, device: WantedDevice) -> tuple[str, Entry | None] | None:
        if entry.key in self.holding:
            return None
        override = self.desired.overrides.get(device.logical.pf)
        if override is not None:
            why = self._override_objection(entry, device, override)
            if why is not None:
                return why, None
        if device.monitors:
            return None
        tenancy = self.tenancies.get(device.logical.pf)
        return None if tenancy is None else self._tenant_objection(device, tenancy)

    def _override_objection(self, entry: Entry, device: WantedDevice, override: WantedOverride) -> str | None:
        because = f" ({override.reason})" if override.reason else ""
        pf = device.logical.pf
        if override.mode in (OverrideMode.DRAIN, OverrideMode.IGNORE) and not device.monitors:
            if self.in_force(entry):
                return None
            word = "drained" if override.mode is OverrideMode.DRAIN else "left alone"
            return f"{pf} is {word} by {override.path}{because}"
        if override.mode is OverrideMode.FIXED and not device.monitors:
            layout = override.profile.name if override.profile else "no VFs"
            if device.profile != override.profile:
                return f"{pf} is kept at {layout} by {override.path}{because}"
        if override.driver is not None and device.slot.vf < 0 and device.driver != override.driver:
            return f"{pf} is kept at kernel driver {override.driver} by {override.path}{because}"
        return None

    def _tenant_objection(self, device: WantedDevice, tenancy: _Tenancy) -> tuple[str, Entry] | None:
        if not tenancy.users:
            return None
        rival = next(iter(tenancy.users.values()))
        wanted, use = device.logical, tenancy.use
        if wanted.use is Use.WHOLE or use is Use.WHOLE or wanted.use is not use:
            return f"waits for {rival}: {wanted.pf} is used as {_describe(tenancy)}", rival
        if wanted.use is Use.VF:
            if device.profile != tenancy.profile:
                return f"waits for {rival}: {wanted.pf} is used as {_describe(tenancy)}", rival
            taken = tenancy.users.get(device.slot)
            return None if taken is None else (f"waits for {taken}: it has {wanted}", taken)
        total = self._memory(wanted.pf)
        if total is not None and tenancy.memory + (device.memory or 0) > total:
            left = max(0, total - tenancy.memory)
            return f"waits for {rival}: {wanted} has {left} of {total} bytes left", rival
        return None

    def _memory(self, pf: DeviceName) -> int | None:
        seen = self.gpus.get(pf)
        gpu = seen.last if isinstance(seen, Changing) else seen
        if not isinstance(gpu, PfSeen) or gpu.memory is None or not gpu.memory.exact:
            return None
        return gpu.memory.total

    def _admit(self, entry: Entry, device: WantedDevice) -> None:
        if device.monitors:
            return
        tenancy = self.tenancies.setdefault(device.logical.pf, _Tenancy())
        tenancy.use = device.logical.use
        tenancy.profile = device.profile
        tenancy.memory += device.memory or 0
        # Shares of one GPU all stand on the same slot; the first is named when somebody has to wait.
        tenancy.users.setdefault(device.slot, entry)
        if str(entry) not in tenancy.names:
            tenancy.names.append(str(entry))
        if device.slot.is_vf:
            tenancy.vf_drivers[device.slot.vf] = device.driver
        else:
            tenancy.driver = device.driver

    def outcome(self) -> Arbitration:
        demands: dict[DeviceName, Demand] = {}
        hands_off: dict[DeviceName, str] = {}
        blocked: list[tuple[DeviceName, str]] = []
        for pf in sorted(self.gpus):
            override = self.desired.overrides.get(pf)
            if override is not None and override.mode is OverrideMode.IGNORE:
                hands_off[pf] = f"left alone by {override.path}"
                continue
            tenancy = self.tenancies.get(pf)
            demand = None if tenancy is None else _demand_of(tenancy)
            if override is not None:
                demand, why = _overridden(override, demand)
                if why is not None:
                    blocked.append((pf, why))
            if demand is not None:
                demands[pf] = demand
        for key in sorted(self.changed):
            changed = self.changed[key]
            if not any(waiting.entry.key == key for waiting in self.waiting):
                why = "changed while its devices are in use: waits until they are released"
                self.waiting.append(Waiting(entry=changed, why=why))
        return Arbitration(
            served=tuple(self.served),
            waiting=tuple(self.waiting),
            refused=tuple(self.refused),
            demands=demands,
            hands_off=hands_off,
            overridden=tuple(sorted(self._overridden_names())),
            blocked_overrides=tuple(blocked),
        )

    def _overridden_names(self) -> Iterable[str]:
        for pf, override in self.desired.overrides.items():
            if override.mode is not OverrideMode.MANAGED or override.driver is not None:
                yield f"{pf}: {override.mode.value}"


def _describe(tenancy: _Tenancy) -> str:
    match tenancy.use:
        case Use.WHOLE:
            return "a whole GPU"
        case Use.VF if tenancy.profile is not None:
            return f"VFs ({tenancy.profile.name})"
        case _:
            return "a shared GPU"


def _demand_of(tenancy: _Tenancy) -> Demand:
    return Demand(
        profile=tenancy.profile,
        driver=tenancy.driver,
        by=", ".join(tenancy.names),
        vf_drivers=dict(tenancy.vf_drivers),
    )


def _overridden(override: WantedOverride, demand: Demand | None) -> tuple[Demand | None, str | None]:
    """The demand an override makes of what the entries want, and why it can't have its way, if so."""
    if override.mode is OverrideMode.FIXED:
        if demand is not None and demand.profile != override.profile:
            return demand, f"{override.path} waits for {demand.by}"
        return (
            Demand(
                profile=override.profile,
                driver=override.driver or (demand.driver if demand else None),
                by=override.path if demand is None else f"{override.path}, {demand.by}",
                vf_drivers={} if demand is None else demand.vf_drivers,
                adopt=True,
                adopt_binding=override.driver is not None,
            ),
            None,
        )
    if override.driver is None:
        return demand, None
    if demand is None:
        wanted = Demand(profile=None, driver=override.driver, by=override.path, adopt_binding=True)
        return wanted, None
    if demand.driver not in (None, override.driver):
        return demand, f"{override.path} waits for {demand.by}"
    return (
        Demand(
            profile=demand.profile,
            driver=override.driver,
            by=f"{override.path}, {demand.by}",
            vf_drivers=demand.vf_drivers,
            adopt_binding=True,
        ),
        None,
    )
