"""Who gets which GPU when wishes compete.

Wishes are weighed in a fixed order: claims that hold devices, allocations already in force (first those whose GPUs
are still as they were given), then people's manual allocations, then new claims, each in the manifest's order.
Whoever comes later and doesn't fit waits, and is told for whom. An override wins over all that is not in use. In a
cluster new claims come before people's new wishes: what a scheduler has allocated can't be taken back, and people
get a GPU once it is withdrawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from state.desired import Desired, Entry, Origin, restore
from state.ids import DeviceName, Slot, Use
from state.layouts import has_layout
from state.manifest import OverrideMode
from state.observed import DRM_DRIVERS, Changing, PfSeen, SriovSeen
from state.profiles import Profile, ProfileTable
from state.records import AppliedDevice, Held
from state.wanted import Gpus, Refusal, RefusedError, WantedDevice, WantedOverride
from state.withdrawing import Withdrawals


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

    A GPU without a demand is wanted by nobody. ``hands_off`` are those a person told us to leave alone,
    ``rejected`` those that a person wants but claims have.
    """

    served: tuple[Entry, ...]
    waiting: tuple[Waiting, ...]
    refused: tuple[tuple[Entry, Refusal], ...]
    demands: Mapping[DeviceName, Demand]
    hands_off: Mapping[DeviceName, str]
    overridden: tuple[str, ...]
    blocked_overrides: tuple[tuple[DeviceName, str], ...]
    rejected: frozenset[DeviceName]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What was given out before: it decides who comes first.

    ``applied`` are the devices of each entry key, ``held`` those confirmed for marked claims, ``released`` the
    claims that count as gone because a person released them. ``withdrawals`` says which GPUs people may have.
    """

    applied: Mapping[str, tuple[AppliedDevice, ...]]
    held: Held
    withdrawals: Withdrawals
    released: frozenset[str] = frozenset()


StillOpen = Callable[[Entry, WantedDevice, Set[str]], str | None]


def arbitrate(
    desired: Desired,
    gpus: Gpus,
    table: ProfileTable,
    standing: Standing,
    still_open: StillOpen,
) -> Arbitration:
    """Weigh all wishes.

    ``still_open`` says why an entry can't be given a device yet, beside those ``served`` before it (by key): one
    who had it before still uses it, or the entry itself still uses another that it would leave.
    """
    court = _Court(
        desired=desired,
        gpus=gpus,
        applied=standing.applied,
        withdrawals=standing.withdrawals,
        still_open=still_open,
    )
    entries = _with_held(desired, gpus, table, standing, court)
    for entry in sorted(entries, key=court.rank):
        court.hear(entry)
    return court.outcome()


def _with_held(
    desired: Desired, gpus: Gpus, table: ProfileTable, standing: Standing, court: _Court
) -> list[Entry]:
    """The entries to weigh: those of the manifest, but with the devices that marked claims hold."""
    held, released = standing.held.claims, standing.released
    holding = {uid: held[uid].devices for uid in sorted(held) if uid not in released}
    entries: list[Entry] = []
    for entry in desired.entries:
        if entry.origin is Origin.MANUAL:
            entries.append(entry)
            continue
        if entry.name in released:
            continue
        record = holding.pop(entry.name, None)
        if record is not None and entry.records != record:
            kept = _held_entry(entry.name, record, gpus, table, claim=entry.claim)
            if kept is not None:
                court.changed[entry.key] = entry
                entry = kept
        if record is not None:
            court.holding.add(entry.key)
        entries.append(entry)
    for uid, record in holding.items():
        left = _held_entry(uid, record, gpus, table, claim=uid)
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
    key = Origin.CLAIM.key(uid)
    return Entry(key=key, name=uid, origin=Origin.CLAIM, path=f"held[{uid}]", devices=devices, claim=claim)


class _Objection(Exception):
    """Why an entry can't have a device now; ``rival`` has it, ``final`` when no waiting helps."""

    def __init__(self, why: str, *, rival: Entry | None = None, final: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.rival = rival
        self.final = final


@dataclass(slots=True, kw_only=True)
class _Court:
    desired: Desired
    gpus: Gpus
    applied: Mapping[str, tuple[AppliedDevice, ...]]
    withdrawals: Withdrawals
    still_open: StillOpen
    rejected: set[DeviceName] = field(default_factory=set)
    holding: set[str] = field(default_factory=set)
    changed: dict[str, Entry] = field(default_factory=dict)
    tenancies: dict[DeviceName, _Tenancy] = field(default_factory=dict)
    served: list[Entry] = field(default_factory=list)
    served_keys: set[str] = field(default_factory=set)
    waiting: list[Waiting] = field(default_factory=list)
    refused: list[tuple[Entry, Refusal]] = field(default_factory=list)

    def in_force(self, entry: Entry) -> bool:
        """Whether the entry has these devices already, and perhaps others that it is about to lose."""
        given = self.applied.get(entry.key)
        return given is not None and (given == entry.records or set(entry.records) <= set(given))

    def rank(self, entry: Entry) -> int:
        if entry.key in self.holding:
            return 0
        if self.in_force(entry):
            return 1 if all(self._stands_as_given(device) for device in entry.devices) else 2
        if entry.origin is Origin.MANUAL:
            return 5 if self.withdrawals.needed else 3
        return 4

    def _stands_as_given(self, device: WantedDevice) -> bool:
        """Whether the GPU is still in the mode it was given in: it may have been made over for others since."""
        gpu = _settled(self.gpus.get(device.logical.pf))
        if gpu is None or device.monitors or not isinstance(gpu.sriov, SriovSeen):
            return True
        return gpu.sriov.enabled == (0 if device.profile is None else device.profile.count)

    def hear(self, entry: Entry) -> None:
        """Serve the entry if all its devices can be had beside those served before; else it waits."""
        for device in [] if entry.key in self.holding else entry.devices:
            try:
                self._object(entry, device)
            except _Objection as objection:
                if objection.final:
                    self.refused.append((entry, Refusal(path=entry.path, why=objection.why)))
                else:
                    self.waiting.append(Waiting(entry=entry, why=objection.why))
                if entry.origin is Origin.MANUAL and objection.rival is not None:
                    self.rejected.add(device.logical.pf)
                return
        for device in entry.devices:
            self._admit(entry, device)
        self.served.append(entry)
        self.served_keys.add(entry.key)

    def _object(self, entry: Entry, device: WantedDevice) -> None:
        """Raise _Objection if the device can't be had."""
        override = self.desired.overrides.get(device.logical.pf)
        if override is not None:
            self._check_override(entry, device, override)
        tenancy = None if device.monitors else self.tenancies.get(device.logical.pf)
        if tenancy is not None:
            self._check_tenant(entry, device, tenancy)
        if not self.in_force(entry):
            why = self.still_open(entry, device, self.served_keys) or self._not_withdrawn(entry, device)
            if why is not None:
                raise _Objection(why)

    def _not_withdrawn(self, entry: Entry, device: WantedDevice) -> str | None:
        if entry.origin is not Origin.MANUAL or device.monitors:
            return None
        return self.withdrawals.objection(device.logical.pf)

    def _check_override(self, entry: Entry, device: WantedDevice, override: WantedOverride) -> None:
        if entry.origin is Origin.CLAIM and self.withdrawals.objection(device.logical.pf) is not None:
            return  # what was allocated before the GPU was withdrawn is not taken back
        because = f" ({override.reason})" if override.reason else ""
        pf = device.logical.pf
        if override.mode in (OverrideMode.DRAIN, OverrideMode.IGNORE) and not device.monitors:
            if self.in_force(entry):
                return
            word = "drained" if override.mode is OverrideMode.DRAIN else "left alone"
            raise _Objection(f"{pf} is {word} by {override.path}{because}")
        if override.mode is OverrideMode.FIXED and not device.monitors and device.profile != override.profile:
            layout = override.profile.name if override.profile else "no VFs"
            raise _Objection(f"{pf} is kept at {layout} by {override.path}{because}")
        if override.driver is not None and not _goes_with(override.driver, device):
            raise _Objection(f"{pf} is kept at kernel driver {override.driver} by {override.path}{because}")

    def _check_tenant(self, entry: Entry, device: WantedDevice, tenancy: _Tenancy) -> None:
        """Raise _Objection if the device doesn't go with what earlier entries have of the same GPU."""
        rival = next(iter(tenancy.users.values()))
        wanted = device.logical
        same_mode = wanted.use is tenancy.use and device.profile == tenancy.profile
        if not same_mode or wanted.use is Use.WHOLE:
            raise _taken(entry, rival, f"{wanted.pf} is used as {_describe(tenancy)}")
        if wanted.use is Use.VF:
            taken = tenancy.users.get(device.slot)
            if taken is not None:
                raise _taken(entry, taken, f"it has {wanted}")
            return
        total = self._memory(wanted.pf)
        if total is not None and tenancy.memory + (device.record.memory or 0) > total:
            left = max(0, total - tenancy.memory)
            raise _Objection(f"waits for {rival}: {wanted} has {left} of {total} bytes left", rival=rival)

    def _memory(self, pf: DeviceName) -> int | None:
        gpu = _settled(self.gpus.get(pf))
        if gpu is None or gpu.memory is None or not gpu.memory.exact:
            return None
        return gpu.memory.total

    def _admit(self, entry: Entry, device: WantedDevice) -> None:
        if device.monitors:
            return
        tenancy = self.tenancies.setdefault(device.logical.pf, _Tenancy())
        tenancy.use = device.logical.use
        tenancy.profile = device.profile
        tenancy.memory += device.record.memory or 0
        # Shares of one GPU all stand on the same slot; the first is named when somebody has to wait.
        tenancy.users.setdefault(device.slot, entry)
        if str(entry) not in tenancy.names:
            tenancy.names.append(str(entry))
        if device.slot.is_vf:
            tenancy.vf_drivers[device.slot.vf] = device.driver
        else:
            tenancy.driver = device.driver

    def outcome(self) -> Arbitration:
        """What is demanded of each GPU, once everybody has been heard."""
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
                demand, why = self._overridden_demand(pf, override, demand)
                if why is not None:
                    blocked.append((pf, why))
            if demand is not None:
                demands[pf] = demand
        why = "changed while its devices are in use: waits until they are released"
        changed = (Waiting(entry=self.changed[key], why=why) for key in sorted(self.changed))
        return Arbitration(
            served=tuple(self.served),
            waiting=(*self.waiting, *changed),
            refused=tuple(self.refused),
            demands=demands,
            hands_off=hands_off,
            overridden=tuple(sorted(self._overridden_names())),
            blocked_overrides=tuple(blocked),
            rejected=frozenset(self.rejected),
        )

    def _overridden_demand(
        self, pf: DeviceName, override: WantedOverride, demand: Demand | None
    ) -> tuple[Demand | None, str | None]:
        """As ``_overridden``; but in a cluster a GPU only changes for people once it is withdrawn."""
        overridden, why = _overridden(override, demand)
        if why is not None:
            self.rejected.add(pf)
        elif overridden is not demand and not self._stands(pf, override):
            why = self.withdrawals.objection(pf)
        return (overridden if why is None else demand), why

    def _stands(self, pf: DeviceName, override: WantedOverride) -> bool:
        """Whether the GPU is already as an override wants it."""
        gpu = self.gpus.get(pf)
        if not isinstance(gpu, PfSeen) or override.driver not in (None, gpu.function.driver):
            return False
        if override.mode is not OverrideMode.FIXED:
            return True
        if override.profile is not None:
            return has_layout(gpu, override.profile)
        return not isinstance(gpu.sriov, SriovSeen) or gpu.sriov.enabled == 0

    def _overridden_names(self) -> Iterable[str]:
        for pf, override in self.desired.overrides.items():
            if override.mode is not OverrideMode.MANAGED or override.driver is not None:
                yield f"{pf}: {override.mode.value}" + (f" ({override.reason})" if override.reason else "")


def _taken(entry: Entry, rival: Entry, fact: str) -> _Objection:
    """The objection to a device that another entry has; between two of a person's it is final."""
    if rival.origin is entry.origin is Origin.MANUAL:
        return _Objection(f"{rival} comes first: {fact}", final=True)
    return _Objection(f"waits for {rival}: {fact}", rival=rival)


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
    fixed = override.mode is OverrideMode.FIXED
    if not fixed and override.driver is None:
        return demand, None
    entries = Demand(profile=None, driver=None, by="") if demand is None else demand
    profile = override.profile if fixed else entries.profile
    driver = override.driver or entries.driver
    clashes = demand is not None and (profile != demand.profile or not _same_kind(driver, demand.driver))
    if clashes or (profile is not None and driver not in (None, *DRM_DRIVERS)):
        return demand, f"{override.path} waits for {entries.by}" if entries.by else _IMPOSSIBLE
    by = f"{override.path}, {entries.by}" if entries.by else override.path
    return replace(
        entries, profile=profile, driver=driver, by=by, adopt=fixed, adopt_binding=override.driver is not None
    ), None


def _goes_with(kept: str, device: WantedDevice) -> bool:
    """Whether a device can be had of a GPU that is kept at a driver: its VFs are made by its DRM driver."""
    return kept in DRM_DRIVERS if device.slot.is_vf else _same_kind(kept, device.driver)


def _same_kind(driver: str | None, wanted: str | None) -> bool:
    """Whether a driver will do for one who wants ``wanted`` (None: any): each DRM driver does for the other.

    Which of them a GPU has is told by an override alone. The entries' follows from what is bound now.
    """
    return wanted is None or driver == wanted or (driver in DRM_DRIVERS and wanted in DRM_DRIVERS)


_IMPOSSIBLE = "VFs are made by a DRM driver: virtualFunctions and this kernelDriver exclude each other"


def _settled(seen: PfSeen | Changing | None) -> PfSeen | None:
    return seen.last if isinstance(seen, Changing) else seen
