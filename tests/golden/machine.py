"""Builds what a plan looks at from the short description in a case's ``observed.yaml``.

Everything left out is as on a healthy, idle machine of these GPUs:

- ``gpus``: by name; of each ``driver`` (null, or ``unreadable``), ``vfs`` (a profile), ``enabled`` (how many of
  them), ``lost`` (indexes of VFs off the bus), ``vfDrivers`` by index, ``quotas`` (a profile set while no VFs are
  there), ``madeWithEcc``, ``automatic``, ``quotasWritable``, ``sriov: unreadable``, ``changing`` (what a worker
  does), ``memory`` (bytes, null), ``bar``, ``ecc``, ``iommu`` (group, null), ``mates`` (address: driver),
  ``nodesMissing``, ``mei``
- ``cdi``: by allocation key ``as written``, ``stale`` or ``torn``; or ``unreadable``
- ``ownership``: ``layouts``, ``bindings``, ``applied``, ``withdrawals``, ``boot``; ``held``: nonce and devices by
  claim; ``marks``: nonce by claim, or ``nonce``, ``boot`` and ``version`` (of the kubelet's service); each of
  these, also ``unreadable``
- ``open``: who has a function open; ``hidden``: why nobody can tell; ``kernelDrivers``
- ``unreadable``: why something can't be read, by path
- ``idle`` seconds by GPU; ``failures`` by unit; ``released`` nonces; ``registered`` (the plugin);
  ``goneFor`` seconds by claim; ``byMarks``; ``forceRelease``; ``oneWave``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import cast

from state.cdi import file_name
from state.foresight import vf_address
from state.gpu_planning import Failure
from state.ids import DeviceName, Slot, parse_device_name, parse_pci_address
from state.models import ModelTable
from state.observed import (
    DRM_DRIVERS,
    CdiFileSeen,
    Changing,
    DeviceNode,
    FunctionSeen,
    MemorySeen,
    MemorySource,
    Observed,
    OpenNode,
    PfSeen,
    Provisioner,
    ProvisioningSeen,
    SriovSeen,
    Unreadable,
    UsersSeen,
    VfSeen,
    why_unseen,
    with_origins,
)
from state.planning import Memory, Options
from state.profiles import EMPTY_TILE_QUOTA, Ecc, Profile, ProfileTable, TileQuota, guess_ecc, tile_quota
from state.records import AppliedDevice, Held, HeldClaim, Mark, OwnedBinding, OwnedLayout, Ownership

Yaml = Mapping[str, object]
BOOT = "boot-1"
NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
GIB = 1024**3

HARDWARE = {0x56C0: (31, 16), 0x56C1: (31, 6), 0x0BD5: (62, 128), 0x0BDA: (63, 48), 0xE211: (24, 24)}
"""VFs possible, and GiB of memory, by device id; other models have neither SR-IOV nor known memory."""


def sub(raw: object) -> Yaml:
    """A mapping out of YAML, empty when left out."""
    assert raw is None or isinstance(raw, dict), raw
    return cast(Yaml, raw or {})


def _node(path: str, major: int, minor: int, gone: object) -> DeviceNode:
    return DeviceNode(path=path, major=major, minor=minor, present=path not in cast("list[str]", gone or []))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine described in YAML, ready to be planned for."""

    raw: Yaml
    models: ModelTable
    table: ProfileTable

    def observed(self) -> Observed:
        """Everything but CDI files, and users, which have to be asked for."""
        gpus: dict[DeviceName, PfSeen | Changing] = {}
        for number, (text, raw) in enumerate(sub(self.raw.get("gpus")).items()):
            gpu = self._gpu(DeviceName(text), number, sub(raw))
            doing = sub(raw).get("changing")
            gpus[gpu.name] = gpu if doing is None else Changing(last=gpu, doing=str(doing), since=NOW)
        drivers = cast("list[str]", self.raw.get("kernelDrivers", ["i915", "xe", "vfio-pci"]))
        observed = Observed(
            boot_id=BOOT,
            gpus=gpus,
            kernel_drivers=frozenset(drivers),
            unreadable=tuple(
                Unreadable(path=path, why=str(why)) for path, why in sub(self.raw.get("unreadable")).items()
            ),
            ownership=self._ownership(),
            held=self._held(),
            marks=self._marks(),
            registered=bool(self.raw.get("registered")),
        )
        return with_origins(observed)

    def users(self, observed: Observed, asked: frozenset[DeviceName]) -> dict[DeviceName, UsersSeen]:
        """What a look at the processes shows for the GPUs asked about."""
        hidden = None if self.raw.get("hidden") is None else str(self.raw["hidden"])
        users: dict[DeviceName, dict[Slot, tuple[OpenNode, ...]]] = {pf: {} for pf in sorted(asked)}
        for where, command in sub(self.raw.get("open")).items():
            pf, _, vf = where.partition(" VF ")
            slot = Slot(pf=DeviceName(pf), vf=int(vf) if vf else -1)
            if slot.pf in users:
                users[slot.pf][slot] = (OpenNode(pid=123, command=str(command), path="/dev/dri/renderD128"),)
        gpus = {pf: gpu.last if isinstance(gpu, Changing) else gpu for pf, gpu in observed.gpus.items()}
        return {
            pf: UsersSeen(by_slot=by_slot, hidden=hidden or why_unseen(gpus[pf])) for pf, by_slot in users.items()
        }

    def cdi(self, contents: Mapping[str, bytes]) -> tuple[CdiFileSeen, ...] | Unreadable:
        """The CDI directory; ``contents`` has by key what each served entry's file should be."""
        raw = self.raw.get("cdi")
        if raw == "unreadable":
            return Unreadable(path="/var/run/cdi", why="Input/output error")
        files = []
        for key, kind in sub(raw).items():
            content = {"stale": b'{"old": true}\n', "torn": b'{"cdiVersi'}.get(str(kind))
            files.append(CdiFileSeen(name=file_name(key), content=contents[key] if content is None else content))
        return tuple(sorted(files, key=lambda file: file.name))

    def memory(self) -> Memory:
        """What is remembered of earlier passes."""
        failures = {
            unit: Failure(
                attempts=cast(int, sub(raw).get("attempts", 1)),
                message=str(sub(raw).get("message", "it failed")),
                retry_at=NOW + timedelta(seconds=cast(float, sub(raw)["retryIn"])),
                undo_failed=bool(sub(raw).get("undoFailed")),
            )
            for unit, raw in sub(self.raw.get("failures")).items()
        }
        idle = {
            DeviceName(pf): NOW - timedelta(seconds=cast(float, seconds))
            for pf, seconds in sub(self.raw.get("idle")).items()
        }
        released = {uid: str(nonce) for uid, nonce in sub(self.raw.get("released")).items()}
        gone = {
            uid: NOW - timedelta(seconds=cast(float, seconds))
            for uid, seconds in sub(self.raw.get("goneFor")).items()
        }
        return Memory(failures=failures, idle_since=idle, released=released, abandoned_since=gone)

    def options(self) -> Options:
        """How to plan."""
        return Options(
            by_marks=bool(self.raw.get("byMarks")),
            force_release=frozenset(cast("list[str]", self.raw.get("forceRelease", []))),
        )

    def _gpu(self, name: DeviceName, number: int, raw: Yaml) -> PfSeen:
        address, device_id = parse_device_name(name)
        model = self.models.of(device_id)
        total, gib = HARDWARE.get(device_id, (0, 0))
        bar = raw.get("bar")
        memory = MemorySeen(total=gib * GIB, source=MemorySource.SYSFS) if gib else None
        if "memory" in raw:
            size = raw["memory"]
            memory = None if size is None else MemorySeen(total=cast(int, size), source=MemorySource.SYSFS)
        if bar is not None:
            memory = MemorySeen(total=cast(int, bar), source=MemorySource.BAR)
        measured = memory.total if memory is not None and memory.exact else None
        gpu = PfSeen(
            name=name,
            device_id=device_id,
            model=model,
            function=self._function(raw, address, number * 100, raw.get("driver", model.drm_driver)),
            memory=memory,
            ecc=Ecc(raw["ecc"]) if "ecc" in raw else guess_ecc(self.table.of(device_id), measured),
            tiles=model.tiles or 1,
            mei=(_node(f"mei{number}", 240, number, None),) if raw.get("mei") else (),
        )
        if raw.get("sriov") == "unreadable":
            unreadable = Unreadable(path=f"/sys/bus/pci/devices/{address}/sriov_numvfs", why="Input/output error")
            return replace(gpu, sriov=unreadable)
        return replace(gpu, sriov=self._sriov(gpu, number, raw, total) if total else None)

    def _function(self, raw: Yaml, address: str, number: int, driver: object) -> FunctionSeen:
        if driver == "unreadable":
            unreadable = Unreadable(path=f"/sys/bus/pci/devices/{address}/driver", why="Input/output error")
            return FunctionSeen(address=parse_pci_address(address), driver=unreadable)
        bound = None if driver is None else str(driver)
        gone, group = raw.get("nodesMissing"), raw.get("iommu", 20 + number)
        drm = (
            _node(f"dri/card{number}", 226, number, gone),
            _node(f"dri/renderD{128 + number}", 226, 128 + number, gone),
        )
        vfio = (_node(f"vfio/{group}", 511, number, gone), _node("vfio/vfio", 10, 196, gone))
        return FunctionSeen(
            address=parse_pci_address(address),
            driver=bound,
            drm=drm if bound in DRM_DRIVERS else (),
            vfio=vfio if bound in ("vfio-pci", "xe-vfio-pci") else (),
            iommu_group=None if group is None else cast(int, group),
            iommu_mates=tuple(
                (parse_pci_address(mate), None if driver is None else str(driver))
                for mate, driver in sub(raw.get("mates")).items()
            ),
        )

    def _sriov(self, gpu: PfSeen, number: int, raw: Yaml, total: int) -> SriovSeen:
        layout, quotas = raw.get("vfs"), raw.get("quotas", raw.get("vfs"))
        profile = None if layout is None else self.table.find(gpu.device_id, str(layout), total_vfs=total)
        enabled = cast(int, raw.get("enabled", 0 if profile is None else profile.count))
        vf_drivers = sub(raw.get("vfDrivers"))
        vfs = tuple(
            VfSeen(
                index=index,
                function=self._function(
                    {"iommu": None if raw.get("iommu", 1) is None else 400 + 100 * number + index},
                    vf_address(gpu.function.address, index),
                    100 * number + 1 + index,
                    vf_drivers.get(f"{index}", gpu.function.driver),
                ),
            )
            for index in range(enabled)
            if index not in cast("list[int]", raw.get("lost", []))
        )
        quota = None if quotas is None else self.table.find(gpu.device_id, str(quotas), total_vfs=total)
        provisioning = None
        if gpu.function.driver in DRM_DRIVERS:
            provisioning = _provisioning(gpu, raw, total, quota)
        return SriovSeen(total=total, enabled=enabled, vfs=vfs, provisioning=provisioning)

    def _ownership(self) -> Ownership | Unreadable:
        raw = self.raw.get("ownership")
        if raw == "unreadable":
            return Unreadable(path="/var/lib/gpu.intel.com/ownership.json", why="Input/output error")
        boot = str(sub(raw).get("boot", BOOT))
        layouts = {}
        for pf, name in sub(sub(raw).get("layouts")).items():
            profile = self.table.find(parse_device_name(pf)[1], str(name), total_vfs=64)
            assert profile is not None, name
            layouts[pf] = OwnedLayout(profile=profile.name, count=profile.count, boot_id=boot)
        bindings = {
            pf: OwnedBinding(
                driver=str(sub(binding)["driver"]),
                original=cast("str | None", sub(binding)["original"]),
                boot_id=boot,
            )
            for pf, binding in sub(sub(raw).get("bindings")).items()
        }
        applied = {key: self.record(devices) for key, devices in sub(sub(raw).get("applied")).items()}
        given_in = BOOT if applied else ""
        return Ownership(
            layouts=layouts,
            bindings=bindings,
            applied=applied,
            applied_boot_id=given_in,
            withdrawals={pf: str(token) for pf, token in sub(sub(raw).get("withdrawals")).items()},
        )

    def record(self, devices: object) -> tuple[AppliedDevice, ...]:
        """Devices as recorded; the full profile name follows from the logical name."""
        record = []
        for device in cast("list[object]", devices):
            raw = {"device": device} if isinstance(device, str) else sub(device)
            text = str(raw["device"])
            parts = text.split("-")
            profile = None
            if len(parts) > 6:
                profile = self.table.find(int(parts[4], 16), parts[5], total_vfs=64)
            record.append(
                AppliedDevice(
                    device=text,
                    profile="" if profile is None else profile.name,
                    kernel_driver=str(raw.get("kernelDriver", "drm")),
                    memory=cast("int | None", raw.get("memory")),
                    admin_access=bool(raw.get("adminAccess")),
                    request=str(raw.get("request", "")),
                )
            )
        return tuple(record)

    def _held(self) -> Held | Unreadable | None:
        raw = self.raw.get("held")
        if raw is None:
            return None
        if raw == "unreadable":
            return Unreadable(path="/run/gpu.intel.com/status/held.json", why="malformed")
        claims = {
            uid: HeldClaim(nonce=str(sub(claim)["nonce"]), devices=self.record(sub(claim)["devices"]))
            for uid, claim in sub(raw).items()
        }
        return Held(boot_id=BOOT, claims=claims)

    def _marks(self) -> dict[str, Mark] | Unreadable:
        raw = self.raw.get("marks")
        if raw == "unreadable":
            return Unreadable(path="/run/gpu.intel.com/marks", why="Input/output error")
        marks = {}
        for uid, short in sub(raw).items():
            mark = short if isinstance(short, dict) else {"nonce": short}
            marks[uid] = Mark(
                uid=uid,
                nonce=str(mark["nonce"]),
                boot_id=str(mark.get("boot", BOOT)),
                grpc_version=str(mark.get("version", "v1")),
            )
        return marks


def _provisioning(gpu: PfSeen, raw: Yaml, total: int, profile: Profile | None) -> ProvisioningSeen:
    i915 = gpu.function.driver == "i915"
    by_hand = profile is not None and profile.quota is not None
    automatic = cast("bool | None", raw.get("automatic", not by_hand if i915 else None))
    made_with = Ecc(raw.get("madeWithEcc", gpu.ecc.value))
    first = EMPTY_TILE_QUOTA
    count = 0
    if profile is not None and profile.quota is not None:
        first, count = tile_quota(profile.quota, tiles=gpu.tiles, ecc=made_with), profile.count
    # As the agent reads it: the first VF whole, of the others what tells profiles apart, on the first tile.
    rest = TileQuota(lmem=first.lmem)
    unread = (TileQuota(),) * (gpu.tiles - 1)
    set_by_hand = [(first,) * gpu.tiles] + [(rest, *unread)] * (count - 1) if count else []
    empty = (TileQuota(lmem=0), *unread)
    quotas = (*set_by_hand, *(empty for _ in range(total - len(set_by_hand))))
    return ProvisioningSeen(
        provisioner=Provisioner.I915_IOV if i915 else Provisioner.XE_SYSFS,
        tiles=gpu.tiles,
        quotas_writable=bool(raw.get("quotasWritable", True)),
        automatic=automatic,
        quotas=() if automatic else quotas,
    )
