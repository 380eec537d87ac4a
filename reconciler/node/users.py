"""Which processes have device nodes of GPUs open.

All processes are looked at once, whatever the number of GPUs asked about. A device node is recognised by its
number, whatever its path in the process's own file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from reconciler.node import sysfs
from reconciler.node.device_nodes import VFIO_CONTROL
from reconciler.node.roots import Roots
from state.ids import DeviceName, Slot
from state.observed import DeviceNode, FunctionSeen, OpenNode, PfSeen, SriovSeen, UsersSeen, why_unseen

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO of the kernel's proc_ns.h: the namespace that contains all others."""

_GONE = frozenset((errno.ENOENT, errno.ESRCH))


class Visibility(Enum):
    """Whether all processes of the machine can be seen: found out, or as a person says."""

    AUTO = "auto"
    VISIBLE = "visible"
    HIDDEN = "hidden"


FileKey: TypeAlias = tuple[str, int, int]
"""Identity of a file: ("device", major, minor) or ("file", file system, inode)."""

_Openers: TypeAlias = Set[tuple[int, str]]
"""Process ids, each with the path of the device node that it has open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    slots: frozenset[Slot]
    path: str


def users_of(
    roots: Roots, gpus: Iterable[PfSeen], visibility: Visibility = Visibility.AUTO
) -> Mapping[DeviceName, UsersSeen]:
    """The users of each of ``gpus`` and of its VFs, by one look at all processes. Our own process is no user."""
    gpus = tuple(gpus)
    found, refused = _scan(roots.procfs, _watched(roots.devfs, gpus))
    hidden = _why_hidden(roots.procfs, visibility, refused)
    users = {
        slot: tuple(
            OpenNode(pid=pid, command=_command(roots.procfs, pid), path=path) for pid, path in sorted(openers)
        )
        for slot, openers in found.items()
    }
    return {
        gpu.name: UsersSeen(
            by_slot={slot: users[slot] for slot, _ in _slots(gpu) if slot in users},
            hidden=hidden or why_unseen(gpu),
        )
        for gpu in gpus
    }


def _slots(gpu: PfSeen) -> Iterable[tuple[Slot, FunctionSeen]]:
    yield Slot(pf=gpu.name), gpu.function
    if isinstance(gpu.sriov, SriovSeen):
        for vf in gpu.sriov.vfs:
            yield Slot(pf=gpu.name, vf=vf.index), vf.function


def _watched(devfs: str, gpus: Iterable[PfSeen]) -> Mapping[FileKey, _Watched]:
    """What to look for. Functions of one IOMMU group share the group's node."""
    watched: dict[FileKey, _Watched] = {}
    for gpu in gpus:
        for slot, function in _slots(gpu):
            for node in (*function.drm, *function.vfio):
                if node.path == VFIO_CONTROL:
                    continue
                key = _key_of_node(devfs, node)
                slots = watched[key].slots if key in watched else frozenset()
                watched[key] = _Watched(slots=slots | {slot}, path=node.path)
    return watched


def _key_of_node(devfs: str, node: DeviceNode) -> FileKey:
    """By the file in devfs, which in a simulation is an ordinary one; by number where there is none (yet)."""
    try:
        return _key(os.stat(f"{devfs}/{node.path}"))
    except OSError:
        return ("device", node.major, node.minor)


def _key(status: os.stat_result) -> FileKey:
    if stat.S_ISCHR(status.st_mode):
        return ("device", os.major(status.st_rdev), os.minor(status.st_rdev))
    return ("file", status.st_dev, status.st_ino)


def _open_files(procfs: str, pid: str) -> frozenset[FileKey] | None:
    """What a process has open; None when we may not know. Empty for a process that has ended."""
    try:
        with os.scandir(f"{procfs}/{pid}/fd") as descriptors:
            keys = {_open_file(descriptor) for descriptor in descriptors}
    except OSError as error:
        return frozenset() if error.errno in _GONE else None
    return frozenset(key for key in keys if key is not None)


def _open_file(descriptor: os.DirEntry[str]) -> FileKey | None:
    """What is behind a descriptor; None when nothing is any more, or on a file system that lets nobody look.

    Raises PermissionError when it is the process that may not be looked at.
    """
    try:
        return _key(descriptor.stat())
    except FileNotFoundError:
        return None
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.readlink(descriptor.path)
        return None


def _scan(procfs: str, watched: Mapping[FileKey, _Watched]) -> tuple[Mapping[Slot, _Openers], str | None]:
    """Who has what is watched open, and why some processes could not be looked at, if so."""
    names = sysfs.list_directory(procfs)
    if not isinstance(names, tuple):
        return {}, f"{procfs} can't be read" if names is None else str(names)
    found: dict[Slot, set[tuple[int, str]]] = {}
    refused = 0
    own = sysfs.read_link(f"{procfs}/self")
    for pid in names:
        if not pid.isdecimal() or pid == own:
            continue
        keys = _open_files(procfs, pid)
        if keys is None:
            refused += 1
            continue
        for key in keys & watched.keys():
            for slot in watched[key].slots:
                found.setdefault(slot, set()).add((int(pid), watched[key].path))
    return found, f"the open files of {refused} processes may not be looked at" if refused else None


def _why_hidden(procfs: str, visibility: Visibility, refused: str | None) -> str | None:
    match visibility:
        case Visibility.VISIBLE:
            return None
        case Visibility.HIDDEN:
            return "processes are set to be treated as hidden"
        case Visibility.AUTO:
            if refused is not None:
                return refused
    # Where procfs is the host's, process 1 tells; "self" is then ours, in a namespace of its own.
    namespaces = [sysfs.read_link(f"{procfs}/{process}/ns/pid") for process in ("self", "1")]
    if _INITIAL_PID_NAMESPACE not in namespaces:
        return "this process runs in a PID namespace of its own and can't see those outside it"
    if os.geteuid() != 0:
        return "not running as root"
    return None


def _command(procfs: str, pid: int) -> str:
    name = sysfs.read(f"{procfs}/{pid}/comm")
    return name if isinstance(name, str) else "?"
