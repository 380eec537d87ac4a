"""Simulated machines, each in a process of its own, as each node of a cluster has its own kernel."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpusim import control, fuse_face, session
from hack.lab.processes import REPOSITORY, ended, eventually


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedMachine:
    """A machine that is on, and what can be seen of it from outside. ``where`` has its sys, dev and proc."""

    where: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that make the product look here instead of at the real machine."""
        return {**session.environment(self.where), "PROCFS_ROOT": str(self.where / "proc")}

    def do(self, command: str) -> None:
        """One of the simulator's commands, as for ``gpu-simulate poke``. Raises ValueError if it is refused."""
        answer = control.poke(self.where, command)
        if answer != "ok":
            raise ValueError(f"{command}: {answer}")

    def function(self, address: str) -> Path:
        """The sysfs directory of a PCI function."""
        return self.where / "sys/bus/pci/devices" / address

    def num_vfs(self, address: str) -> int:
        """How many VFs a GPU has now."""
        return int((self.function(address) / "sriov_numvfs").read_text())

    def driver(self, address: str) -> str | None:
        """The kernel driver that a function is bound to."""
        try:
            return (self.function(address) / "driver").readlink().name
        except FileNotFoundError:
            return None


@contextlib.contextmanager
def powered_on(machine: str, where: Path, log_file: Path) -> Iterator[SimulatedMachine]:
    """A machine while the context lasts: one that gpu-simulate knows by name, or a YAML file of one.

    What the product wrote below ``where`` stays. Raises RuntimeError if the machine can't be simulated.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "gpusim", machine, "--at", str(where)),
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "hack/sim")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def is_on() -> bool | None:
        if process.poll() is not None:
            raise RuntimeError(f"{machine} can't be simulated: {log_file.read_text()}")
        return (where / control.SOCKET).is_socket() or None

    try:
        with ended(process):
            eventually(f"on: {machine}", is_on, log_file.read_text)
            yield SimulatedMachine(where=where)
    finally:
        fuse_face.clean_stale(where / "sys")  # if it had to be killed
