"""Machines to measure on: all VFs enabled and recorded as ours, as plain directories or as a FUSE mount.

They are made through the simulated kernel's direct face, since it doesn't matter here how they came about.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

import gpusim
from gpusim import devfs_face, directory_face, session
from reconciler.node.directories import make_directories
from reconciler.node.roots import Roots
from reconciler.node.tables import load_tables
from reconciler.runtime.files import write_atomic
from state.ids import DeviceName, PciAddress, device_name
from state.profiles import Ecc, Profile, tile_quota
from state.record_coding import encode_record
from state.records import OwnedLayout, Ownership

MACHINE = "max1550-x8"
MODE = "c62"
_FILES = ("contexts", "doorbells", "ggtt", "lmem")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A machine at a directory, and the desired-state file beside it."""

    where: Path
    roots: Roots
    gpus: tuple[DeviceName, ...]

    @property
    def file(self) -> Path:
        return self.where / "node.yaml"

    @property
    def vfs(self) -> tuple[str, ...]:
        """The logical names of all VFs."""
        return tuple(f"{gpu}-{MODE}-vf{vf}" for gpu in self.gpus for vf in range(62))

    def want(self, vfs: tuple[str, ...]) -> None:
        """Wish for an allocation of each of these VFs."""
        wish(self.file, vfs, linger=3600)

    def forget(self) -> None:
        """Remove all that an agent wrote, but for what says whose the VFs are."""
        for directory in (self.roots.cdi, self.roots.run):
            shutil.rmtree(directory, ignore_errors=True)
        make_directories(self.roots)
        layouts = {
            str(gpu): OwnedLayout(profile=_profile(0x0BD5).name, count=62, boot_id="bench") for gpu in self.gpus
        }
        write_atomic(Path(self.roots.ownership_file), encode_record(Ownership(layouts=layouts)), durable=False)


def wish(file: Path, vfs: tuple[str, ...], *, linger: int) -> None:
    """Write a desired state with an allocation of each of these VFs, as a program would: in JSON, by renaming."""
    allocations = [{"name": allocation_of(vf), "devices": [{"device": vf}]} for vf in vfs]
    manifest = {
        "apiVersion": "gpu.dra.intel.com/v1alpha1",
        "kind": "GpuNodeState",
        "spec": {"policy": {"lingerSeconds": linger}, "manualAllocations": allocations},
    }
    write_atomic(file, msgspec.json.encode(manifest), durable=False)


def allocation_of(vf: str) -> str:
    """The name of the allocation of a VF."""
    return f"job-{vf}"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for machines; in memory where that is possible, as sysfs is."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gpu-bench-", dir=memory) as where:
        yield Path(where)


def full_machine() -> gpusim.Machine:
    """Eight Max 1550 with 62 VFs each, provisioned as the table says."""
    machine = gpusim.Machine(gpusim.load_machine(MACHINE))
    for gpu in machine.spec.gpus:
        _enable_all(machine, gpu)
    return machine


def _enable_all(machine: gpusim.Machine, gpu: gpusim.GpuSpec) -> None:
    directory = f"bus/pci/devices/{gpu.address}"
    (card,) = (name for name in machine.sysfs.listdir(f"{directory}/drm") if name.startswith("card"))
    iov = f"{directory}/drm/{card}/prelim_iov"
    profile = _profile(gpu.device)
    tiles = [name for name in machine.sysfs.listdir(f"{iov}/vf1") if name.startswith("gt")]
    assert profile.quota is not None
    quota = tile_quota(profile.quota, tiles=len(tiles), ecc=Ecc.ON)
    values = {f"{name}_quota": getattr(quota, name) for name in _FILES}
    values |= {"exec_quantum_ms": quota.exec_quantum_ms, "preempt_timeout_us": quota.preempt_timeout_us}
    for vf in range(1, profile.count + 1):
        for tile in tiles:
            for name, value in values.items():
                machine.sysfs.write(f"{iov}/vf{vf}/{tile}/{name}", str(value))
    machine.sysfs.write(f"{directory}/sriov_numvfs", str(profile.count))


def _profile(device: int) -> Profile:
    profile = load_tables(os.devnull).profiles.find(device, MODE, total_vfs=62)
    assert profile is not None
    return profile


@contextlib.contextmanager
def over_fuse(machine: gpusim.Machine, where: Path) -> Iterator[Site]:
    """The machine mounted at a directory."""
    with session.laid_out(machine, where):
        yield _site(machine, where)


@contextlib.contextmanager
def as_directories(machine: gpusim.Machine, where: Path) -> Iterator[Site]:
    """The machine as plain directories and files."""
    directory_face.write_tree(machine.sysfs, where / "sys")
    with devfs_face.kept_in_step(machine.nodes, where / "dev"):
        yield _site(machine, where)


def _site(machine: gpusim.Machine, where: Path) -> Site:
    roots = Roots(
        sysfs=str(where / "sys"),
        devfs=str(where / "dev"),
        procfs=str(where / "proc"),
        cdi=str(where / "cdi"),
        run=str(where / "run"),
        state=str(where / "lib"),
        pci_ids=os.devnull,
    )
    boot_id = Path(roots.procfs, "sys/kernel/random/boot_id")
    boot_id.parent.mkdir(parents=True, exist_ok=True)
    boot_id.write_text("bench\n")
    gpus = tuple(device_name(PciAddress(gpu.address), gpu.device) for gpu in machine.spec.gpus)
    return Site(where=where, roots=roots, gpus=gpus)
