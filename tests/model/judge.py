"""An independent judge of what the engine does to a machine: it knows the rules, but none of the engine's code.

It keeps its own books of who uses what and what belongs to others, and looks at every change before it happens.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpusim.model.nodes import CharacterDevice
from tests.engine import hardware
from tests.engine.machines import Bench
from tests.model.faces import Change

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_NAME = re.compile(r"([0-9a-f]{4})-([0-9a-f]{2})-([01][0-9a-f])-([0-7])-0x[0-9a-f]{4}(?:-(.+))?")
_VF = re.compile(r"(?P<mode>[a-z]+(?P<count>[0-9]+))-vf(?P<index>[0-9]+)")
_OURS = re.compile(r"intel\.com-gpu_(claim|alloc)-.+\.json")


class Wrong(AssertionError):
    """The engine broke a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What an allocation has of one GPU: ``use`` is whole, shared, monitor, or the mode of ``count`` VFs (m2)."""

    gpu: str
    use: str
    count: int = 0
    index: int = -1
    driver: str = "drm"

    @classmethod
    def of(cls, device: str, driver: str = "drm", *, admin: bool = False) -> "Part":
        """From a device's name: ``<gpu>``, ``<gpu>-shared``, ``<gpu>-monitor``, ``<gpu>-m4-vf0``."""
        match = _NAME.fullmatch(device)
        assert match is not None, device
        gpu, rest = f"{match[1]}:{match[2]}:{match[3]}.{match[4]}", match[5]
        if rest is None:
            return cls(gpu=gpu, use="monitor" if admin else "whole", driver=driver)
        vf = _VF.fullmatch(rest)
        if vf is None:
            return cls(gpu=gpu, use=rest, driver=driver)
        return cls(gpu=gpu, use=vf["mode"], count=int(vf["count"]), index=int(vf["index"]), driver=driver)

    def goes_with(self, other: "Part") -> bool:
        """Whether both can be had at once."""
        if self.gpu != other.gpu or "monitor" in (self.use, other.use):
            return True
        if self.use != other.use or self.use == "whole":
            return False
        return self.use == "shared" or self.index != other.index


@dataclass(frozen=True, slots=True, kw_only=True)
class Grip:
    """Somebody's hold on parts of GPUs, at the PCI functions where these were then."""

    key: str
    parts: tuple[Part, ...]
    functions: tuple[str, ...]
    cdi: bytes

    def forbids(self, function: str, *, unbinds: bool) -> bool:
        """Whether writing to a function (or unbinding it) disturbs this grip."""
        for part, held in zip(self.parts, self.functions, strict=True):
            if part.use == "monitor":
                if function == held and unbinds:
                    return True
            elif function in (held, part.gpu):
                return True
        return False


@dataclass(slots=True)
class Judge:
    """Books about one machine. ``foreign`` has the number of VFs others made, by GPU address."""

    bench: Bench
    cluster: bool
    grips: dict[str, Grip] = field(default_factory=dict)
    visible: set[str] = field(default_factory=set)
    """Keys of grips with a process that has the devices open."""
    ready: dict[str, Grip] = field(default_factory=dict)
    """What the status file says is Ready."""
    given: dict[str, set[str]] = field(default_factory=dict)
    """Addresses of all GPUs that a key ever was Ready on, unless it only looked on."""
    foreign: dict[str, int] = field(default_factory=dict)
    foreign_files: dict[Path, bytes] = field(default_factory=dict)
    adopting: Mapping[str, int] = field(default_factory=dict)
    """By GPU address, how many VFs an override in force would take over."""
    synced: bool = False
    paused: bool = False
    busy: set[str] = field(default_factory=set)
    """Addresses of GPUs that a worker is at, or about to be."""
    drained: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By address of a drained GPU, the keys of allocations that had something of it before."""
    confirmed: Mapping[str, str] = field(default_factory=dict)
    """The withdrawals that the controller has confirmed, by GPU name."""
    working: bool = False
    """A worker acts, on a plan of some pass before."""

    # -- what is about to change ---------------------------------------------------------------------------

    def before(self, change: Change) -> None:
        """Look at a change about to happen. Raises Wrong."""
        if change.file is None:
            self._before_attribute(change)
        elif change.file.parent == self.bench.cdi:
            self._before_cdi(change, change.file)

    def _before_attribute(self, change: Change) -> None:
        self._require(self.synced, f"while nothing is known of what is wanted: {change}")
        unbinds = change.attribute.endswith("/unbind")
        if unbinds or change.attribute.endswith("/bind"):
            function = change.value.strip()
        else:
            function = _ADDRESS.findall(self.bench.machine.sysfs.realpath(change.attribute))[-1]
        for grip in (*self.grips.values(), *self.ready.values()):
            if grip.forbids(function, unbinds=unbinds):
                state = "in use" if grip.key in self.grips else "Ready"
                raise Wrong(f"{grip.key} is {state}, but: {change}")
        for gpu, count in self.foreign.items():
            if (
                function in (gpu, *hardware.vf_addresses(self.bench.machine, gpu))
                and self.adopting.get(gpu) != count
            ):
                raise Wrong(f"{count} VFs of {gpu} belong to somebody else, but: {change}")

    def _before_cdi(self, change: Change, file: Path) -> None:
        self._require(self.synced, f"while nothing is known of what is wanted: {change}")
        self._require(not self.paused, f"while paused: {change}")
        self._require(_OURS.fullmatch(file.name) is not None, f"not a file of ours: {change}")
        self._require(file not in self.foreign_files, f"somebody else's: {change}")
        key = file.name.removeprefix("intel.com-gpu_").removesuffix(".json")
        self._require(key not in self.ready, f"{key} is Ready, but: {change}")
        in_use = self.cluster and key in self.grips
        self._require(not (in_use and change.removed), f"{key} is in use, but: {change}")

    # -- what has changed ----------------------------------------------------------------------------------

    def after(self, change: Change) -> None:
        """Look at what a change has led to. Raises Wrong."""
        if change.file is None or change.removed:
            return
        if change.file == Path(self.bench.roots.status_file):
            self._read_status(json.loads(change.file.read_bytes()))
        for key, grip in self.grips.items() if self.cluster else ():
            if change.file.name == f"intel.com-gpu_{key}.json":
                same = change.file.read_bytes() == grip.cdi
                self._require(same, f"{key} is in use, but its CDI file says something else now")

    def _read_status(self, file: dict[str, object]) -> None:
        status = file["status"]
        assert isinstance(status, dict)
        self._check_marks(file)
        entries = [entry for entry in status.get("allocations", ()) if entry["phase"] == "Ready"]
        self.ready = {}
        for entry in entries:
            grip = self._grip(entry)
            self._require_exclusive(grip)
            self._check_drained(grip, status.get("withdrawn", {}))
            self.ready[grip.key] = grip
            self.given.setdefault(grip.key, set()).update(part.gpu for part in grip.parts if part.use != "monitor")

    def _check_marks(self, file: Mapping[str, object]) -> None:
        nonces, released = file.get("nonces", {}), file.get("releasedMarks", {})
        assert isinstance(nonces, dict)
        assert isinstance(released, dict)
        if nonces:
            held = json.loads(Path(self.bench.roots.held_file).read_bytes())["claims"]
            for uid, nonce in nonces.items():
                recorded = held.get(uid, {}).get("nonce")
                self._require(recorded == nonce, f"nonce {nonce} of {uid} is echoed, but {recorded} is on record")
        for uid, nonce in released.items():
            key = f"claim-{uid}"
            if key in self.grips and nonce == self._nonce_of(uid):
                self._require(key not in self.visible, f"{key} has devices open, but is released")
                del self.grips[key]

    def _nonce_of(self, uid: str) -> str:
        """Of its mark as it is now: a later preparation is not released by an earlier release."""
        mark = Path(self.bench.roots.marks_dir, f"{uid}.json")
        return json.loads(mark.read_bytes())["nonce"] if mark.exists() else ""

    def _grip(self, entry: Mapping[str, object]) -> Grip:
        """What a Ready entry of the status has; that it truly has it. Raises Wrong."""
        origin, name, devices = entry["origin"], entry["name"], entry.get("devices", ())
        assert isinstance(devices, list)
        key = f"{origin}-{name}"
        parts = tuple(
            Part.of(
                device["device"], device.get("kernelDriver", "drm"), admin=bool(device.get("adminAccess", False))
            )
            for device in devices
        )
        file = self.bench.cdi / f"intel.com-gpu_{key}.json"
        self._require(file.exists(), f"{key} is Ready without a CDI file")
        functions = tuple(self._function(key, part) for part in parts)
        grip = Grip(key=key, parts=parts, functions=functions, cdi=file.read_bytes())
        if not self.busy & {part.gpu for part in parts}:
            self._require_true(grip)
        return grip

    def _function(self, key: str, part: Part) -> str:
        if not part.count:
            return part.gpu
        link = f"{hardware.pf(part.gpu)}/virtfn{part.index}"
        if not self.bench.machine.sysfs.exists(link):
            self._require(part.gpu in self.busy, f"{key} is Ready, but there is no VF {part.index} of {part.gpu}")
            return ""
        return self.bench.machine.sysfs.readlink(link).rpartition("/")[2]

    def _require_true(self, grip: Grip) -> None:
        machine = self.bench.machine
        given = set(nodes_in(grip.cdi))
        there = {
            (path, node.major, node.minor)
            for path, node in machine.nodes.snapshot().items()
            if isinstance(node, CharacterDevice)
        }
        for path, major, minor in given:
            if not path.startswith("dri/by-path/"):
                self._require((path, major, minor) in there, f"{grip.key} is Ready, but there is no {path}")
        paths = {path for path, _, _ in given}
        for part, function in zip(grip.parts, grip.functions, strict=True):
            expected = self._nodes(part, function)
            self._require(expected <= paths, f"{grip.key} is Ready without {sorted(expected - paths)}")
            enabled = hardware.num_vfs(machine, part.gpu)
            if part.use != "monitor":
                self._require(
                    enabled == part.count, f"{grip.key} is Ready with {enabled} VFs instead of {part.count}"
                )

    def _nodes(self, part: Part, function: str) -> set[str]:
        """What the user of a part needs at least, by what the kernel says now."""
        tree, path = self.bench.machine.sysfs, hardware.pf(function)
        driver = hardware.driver(self.bench.machine, function)
        if part.use != "monitor":
            drivers = ("i915", "xe") if part.driver == "drm" else ("vfio-pci",)
            self._require(driver in drivers, f"{function} is bound to {driver}, not {part.driver}")
        if part.driver == "vfio":
            group = tree.readlink(f"{path}/iommu_group").rpartition("/")[2]
            return {f"vfio/{group}"}
        names = tree.listdir(f"{path}/drm") if tree.exists(f"{path}/drm") else ()
        return {f"dri/{name}" for name in names if re.fullmatch(r"(card|renderD)[0-9]+", name)}

    def _require_exclusive(self, grip: Grip) -> None:
        for other in (*self.grips.values(), *self.ready.values()):
            if other.key != grip.key:
                for mine in grip.parts:
                    for theirs in other.parts:
                        fits = mine.goes_with(theirs)
                        self._require(fits, f"{grip.key} is Ready with {mine}, which {other.key} has")

    def _check_drained(self, grip: Grip, withdrawn: Mapping[str, str]) -> None:
        """Nobody new on a drained GPU; in a cluster from when the controller has confirmed its withdrawal."""
        tokens = {Part.of(device).gpu: (device, token) for device, token in withdrawn.items()}
        for part in grip.parts:
            if part.use == "monitor" or part.gpu not in self.drained or grip.key in self.drained[part.gpu]:
                continue
            device, token = tokens.get(part.gpu, ("", ""))
            confirmed = not self.cluster or self.confirmed.get(device) == token
            self._require(not confirmed, f"{grip.key} is Ready on {part.gpu}: drained")
            self.drained = {**self.drained, part.gpu: self.drained[part.gpu] | {grip.key}}

    # -- users ---------------------------------------------------------------------------------------------

    def grab(self, key: str, *, visible: bool) -> Grip | None:
        """Somebody starts to use what the status says is Ready for him. None: his CDI file is gone, or broken."""
        grip = self.ready[key]
        file = self.bench.cdi / f"intel.com-gpu_{key}.json"
        if not file.exists() or file.read_bytes() != grip.cdi:
            return None
        self.grips[key] = grip
        if visible:
            self.visible.add(key)
        return grip

    def let_go(self, key: str) -> None:
        self.grips.pop(key, None)
        self.visible.discard(key)

    def yanked(self, functions: Iterable[str]) -> Iterator[str]:
        """Others took away what somebody used: the keys of those concerned."""
        gone = set(functions)
        for key in [key for key, grip in self.grips.items() if gone & set(grip.functions)]:
            self.let_go(key)
            yield key
        self.ready = {key: grip for key, grip in self.ready.items() if not gone & set(grip.functions)}

    @staticmethod
    def _require(holds: bool, otherwise: str) -> None:
        if not holds:
            raise Wrong(otherwise)


def nodes_in(cdi: bytes) -> Iterator[tuple[str, int, int]]:
    """Device nodes named in a CDI file: path below /dev, major, minor."""
    for device in json.loads(cdi)["devices"]:
        for node in device["containerEdits"]["deviceNodes"]:
            yield node.get("hostPath", node["path"]).removeprefix("/dev/"), node["major"], node["minor"]
