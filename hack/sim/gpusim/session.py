"""A machine laid out in a directory: sys (FUSE), dev, proc, and empty places for the product's files."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpusim import commands, control, devfs_face, fuse_face
from gpusim.model.machine import Machine

_BOOT_ID = "proc/sys/kernel/random/boot_id"


@contextlib.contextmanager
def laid_out(machine: Machine, where: Path, *, real_nodes: bool = False) -> Iterator[Mapping[str, str]]:
    """Serve a machine at a directory for the time of the context; yields the environment for a program to use it.

    Below `where`: sys, dev, proc/sys/kernel/random/boot_id, cdi, run, lib and control.sock. What the product wrote
    into the last three directories stays. Raises what fuse_face.mounted raises.
    """
    where.mkdir(parents=True, exist_ok=True)
    fuse_face.clean_stale(where / "sys")
    for name in ("sys", "dev", "cdi", "run", "lib"):
        (where / name).mkdir(exist_ok=True)
    run = functools.partial(commands.run, machine)
    machine.serve_commands(run)
    _write_boot_id(machine, where)
    machine.on_reboot(lambda: _write_boot_id(machine, where))
    with (
        fuse_face.mounted(machine.sysfs, where / "sys"),
        devfs_face.kept_in_step(machine.nodes, where / "dev", real_nodes=real_nodes),
        control.serving(where, run),
    ):
        yield environment(where)


def environment(where: Path) -> dict[str, str]:
    """Variables that make the product look here instead of at the real machine."""
    return {
        "SYSFS_ROOT": str(where / "sys"),
        "DEVFS_ROOT": str(where / "dev"),
        "CDI_ROOT": str(where / "cdi"),
        "RUN_DIR": str(where / "run"),
        "STATE_DIR": str(where / "lib"),
    }


def boot_id_file(where: Path) -> Path:
    return where / _BOOT_ID


def _write_boot_id(machine: Machine, where: Path) -> None:
    """In place, not by renaming: in a namespace this very file is mounted over the real one."""
    path = boot_id_file(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o444)
    try:
        os.write(descriptor, f"{machine.boot_id}\n".encode())
    finally:
        os.close(descriptor)
