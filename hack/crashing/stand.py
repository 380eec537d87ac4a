"""The machine under test, all that can be seen of it from outside, and what must hold at every moment."""

from __future__ import annotations

import contextlib
import difflib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gpusim
from gpusim import session
from hack.crashing.numbering import Numbering
from hack.crashing.scenarios import Stage

Snapshot = Mapping[str, str]
"""Texts by path."""

_DATA = ("run/status/status.json", "run/status/held.json", "lib/ownership.json")
_TIMES = frozenset(("lastTransitionTime", "since", "writtenAt"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """One machine at one directory, which outlives the processes that use it."""

    machine: gpusim.Machine
    where: Path

    def want(self, stage: Stage) -> None:
        """Write the desired state and the marks of a stage."""
        (self.where / "node.json").write_text(json.dumps(stage.wanted))
        marks = self.where / "run" / "marks"
        marks.mkdir(parents=True, exist_ok=True)
        for file in marks.iterdir():
            file.unlink()
        for uid, nonce in stage.marks.items():
            mark = {"uid": uid, "nonce": nonce, "bootID": self.machine.boot_id}
            (marks / f"{uid}.json").write_text(json.dumps(mark))

    def hardware(self) -> Snapshot:
        """Every attribute and link that the kernel shows, with names for its numbers."""
        seen: dict[str, str] = {}
        self._walk("", seen)
        named = Numbering(self.machine).named
        return {named(path): named(value) for path, value in seen.items()}

    def _walk(self, path: str, seen: dict[str, str]) -> None:
        sysfs = self.machine.sysfs
        for name in sysfs.listdir(path):
            place = f"{path}/{name}".lstrip("/")
            if sysfs.islink(place):
                seen[place] = sysfs.readlink(place)
            elif sysfs.isdir(place):
                self._walk(place, seen)
            else:
                with contextlib.suppress(OSError):  # write-only
                    seen[place] = sysfs.read(place).decode()

    def files(self) -> Snapshot:
        """All files of the product: CDI specs byte for byte, records, and the status without its times."""
        named = Numbering(self.machine).named
        seen: dict[str, str] = {}
        for top in ("cdi", "run", "lib"):
            for path in sorted((self.where / top).rglob("*")):
                if path.is_file() and path.parent.name not in ("lock", "marks"):
                    name = str(path.relative_to(self.where))
                    seen[name] = named(_timeless(path) if name in _DATA else path.read_text())
        return seen

    def load(self, name: str) -> dict[str, object]:
        """A JSON file of the product; empty if it is not there."""
        path = self.where / name
        return _mapping(json.loads(path.read_bytes())) if path.exists() else {}


@contextlib.contextmanager
def standing(spec: gpusim.MachineSpec, where: Path, delays: gpusim.Delays | None = None) -> Iterator[Stand]:
    """A machine, switched on. Its directory is emptied first."""
    shutil.rmtree(where, ignore_errors=True)
    machine = gpusim.Machine(spec) if delays is None else gpusim.Machine(spec, delays=delays)
    with session.laid_out(machine, where):
        yield Stand(machine=machine, where=where)


def differences(found: Snapshot, expected: Snapshot) -> list[str]:
    """What is different, line by line, ten of them at most."""
    words = []
    for path in sorted(found.keys() | expected.keys()):
        if path not in found or path not in expected:
            words.append(f"{path} {'is there' if path in found else 'is missing'}")
        elif found[path] != expected[path]:
            lines = difflib.unified_diff(expected[path].splitlines(), found[path].splitlines(), n=0, lineterm="")
            words += [f"{path}: {line}" for line in lines if line[:3] not in ("---", "+++") and line[:2] != "@@"]
    return words[:10] + ([f"and {len(words) - 10} more"] if len(words) > 10 else [])


def unsound(stand: Stand) -> list[str]:
    """What must never be so, not even for a moment: found at a machine whose agent has just been killed."""
    return [*_unrecorded(stand), *_confirmed_too_early(stand), *_ready_too_early(stand)]


def _unrecorded(stand: Stand) -> list[str]:
    """Changes to the hardware that nobody would know to be ours."""
    record = stand.load("lib/ownership.json")
    layouts, bindings = _mapping(record.get("layouts")), _mapping(record.get("bindings"))
    words = []
    for gpu in stand.machine.spec.gpus:
        name = f"{gpu.address.replace(':', '-').replace('.', '-')}-{gpu.device:#06x}"
        directory = f"bus/pci/devices/{gpu.address}"
        if stand.machine.sysfs.read(f"{directory}/sriov_numvfs") != b"0\n" and name not in layouts:
            words.append(f"{name} has VFs, but no layout on record")
        link = f"{directory}/driver"
        there = stand.machine.sysfs.exists(link)
        bound = stand.machine.sysfs.readlink(link).rpartition("/")[2] if there else None
        if bound != gpu.boot_driver and name not in bindings:
            words.append(f"{name} is bound to {bound}, but has no binding on record")
    return words


def _confirmed_too_early(stand: Stand) -> list[str]:
    """Marks whose nonce the status echoes although no record holds the claim with that nonce.

    The echo of a mark that is gone or was renewed confirms nothing: nobody waits for that nonce any more.
    """
    claims = _mapping(stand.load("run/status/held.json").get("claims"))
    nonces = _mapping(stand.load("run/status/status.json").get("nonces"))
    return [
        f"status confirms nonce {nonce} of {uid}, the held record says {claims.get(uid)}"
        for uid, nonce in nonces.items()
        if stand.load(f"run/marks/{uid}.json").get("nonce") == nonce
        and _mapping(claims.get(uid)).get("nonce") != nonce
    ]


def _ready_too_early(stand: Stand) -> list[str]:
    """Allocations that the status calls Ready although a device they name is in no CDI spec."""
    devices: set[str] = set()
    for file in (stand.where / "cdi").glob("*.json"):
        spec = _mapping(json.loads(file.read_bytes()))
        devices |= {f"{spec['kind']}={_mapping(one)['name']}" for one in _list(spec["devices"])}
    status = _mapping(stand.load("run/status/status.json").get("status"))
    ready = [_mapping(one) for one in _list(status.get("allocations")) if _mapping(one).get("phase") == "Ready"]
    return [
        f"{one['name']} is called Ready, but no CDI spec has {device}"
        for one in ready
        for device in _list(one.get("cdiDevices"))
        if device not in devices
    ]


def _timeless(path: Path) -> str:
    """A JSON file in a canonical form, without times."""

    def without(value: object) -> object:
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items() if key not in _TIMES}
        return [without(one) for one in value] if isinstance(value, list) else value

    return json.dumps(without(json.loads(path.read_bytes())), sort_keys=True, indent=2)


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
