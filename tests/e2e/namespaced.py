"""A simulated machine that is /sys in namespaces of its own, and unmodified daemons running in there.

What the daemons hear are genuine kernel events of that network namespace. With an hour between resyncs, whatever
they follow they have heard of.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from gpusim import control
from hack.lab.processes import PATIENCE, Daemon, eventually
from state.status import AllocationStatus, DeviceStatus, NodeStatus, condition_of, decode_status

_REPOSITORY = Path(__file__).parents[2]
_IMPORTS = f"{_REPOSITORY}:{_REPOSITORY / 'hack/sim'}"
_STAY = 'echo $$ > "$0.new" && mv "$0.new" "$0" && exec sleep infinity'


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine at `where`, and a process in its namespaces."""

    where: Path
    inside: int

    @property
    def file(self) -> Path:
        """The desired-state file."""
        return self.where / "desired/node.yaml"

    def want(self, allocations: Mapping[str, str | Mapping[str, object]], **spec: object) -> None:
        """Write the desired state as an editor does: beside the file, then rename. Allocations have one device."""
        beside = self.file.with_name(".node.yaml.swp")
        beside.write_text(manifest(allocations, **spec))
        beside.rename(self.file)

    def poke(self, command: str) -> None:
        """Let something happen to the machine; returns when it has."""
        assert control.poke(self.where, command) == "ok"

    def sysfs(self, path: str) -> Path:
        """A path below the /sys that the daemons see."""
        return Path("/proc", str(self.inside), "root/sys", path)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in there, to its end."""
        return subprocess.run(
            self._entering(*words),
            env=self.environment(), capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the product in there."""
        return self.run(sys.executable, "-m", "reconciler.cli", *words)

    @contextlib.contextmanager
    def daemon(self, *flags: str, name: str = "agent", **environ: str) -> Iterator[Daemon]:
        """A daemon that looks around by itself once an hour. It is killed at the end, if it still runs."""
        words = ["run", "-f", str(self.file), "--resync-seconds", "3600", "--processes", "visible", *flags]
        log_file = self.where / f"{name}.log"
        with open(log_file, "wb") as log:
            process = subprocess.Popen(
                self._entering(sys.executable, "-m", "reconciler.cli", *words),
                env=self.environment() | environ, stdin=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        try:
            yield Daemon(process=process, log_file=log_file)
        finally:
            process.kill()
            process.wait()

    def status(self) -> NodeStatus | None:
        """What the status file says; None before there is one."""
        with contextlib.suppress(FileNotFoundError):
            return decode_status((self.where / "run/status/status.json").read_bytes()).status
        return None

    def until(self, what: str, holds: Callable[[NodeStatus], bool]) -> NodeStatus:
        """Wait until the status says what is hoped for."""

        def look() -> NodeStatus | None:
            status = self.status()
            return status if status is not None and holds(status) else None

        return eventually(what, look, lambda: f"{self.status()}")

    def until_ready(self, *names: str) -> NodeStatus:
        """Wait until the node is as wanted, with exactly these allocations."""

        def holds(status: NodeStatus) -> bool:
            return is_ready(status) and {one.name for one in status.allocations} == {*names}

        return self.until(f"ready with {names}", holds)

    def environment(self) -> dict[str, str]:
        """What gpu-simulate gives to a command in there."""
        content = Path("/proc", str(self.inside), "environ").read_text()
        return dict(item.split("=", 1) for item in content.split("\0") if item)

    def _entering(self, *words: str) -> list[str]:
        # nsenter becomes the command, so that signals reach it.
        return ["nsenter", "--target", str(self.inside), "--mount", "--net", "--", *words]


@contextlib.contextmanager
def running(where: Path, machine: str, *flags: str) -> Iterator[Node]:
    """A machine that is switched on. Use with the markers root and fuse."""
    (where / "desired").mkdir()
    inside = where / "inside"
    with subprocess.Popen(
        [sys.executable, "-m", "gpusim", machine, "--at", str(where), *flags, "--namespace", "--",
         "sh", "-c", _STAY, str(inside)],
        env={**os.environ, "PYTHONPATH": _IMPORTS}, stdin=subprocess.DEVNULL,
    ) as simulator:  # fmt: skip
        try:
            pid = eventually("machine is on", lambda: int(inside.read_text()) if inside.exists() else None)
            node = Node(where=where, inside=pid)
            node.want({})
            yield node
        finally:
            simulator.terminate()


def manifest(allocations: Mapping[str, str | Mapping[str, object]], **spec: object) -> str:
    """A desired state as YAML: allocations of one device each."""
    manual = [
        {"name": name, "devices": [{"device": device} if isinstance(device, str) else dict(device)]}
        for name, device in allocations.items()
    ]
    wanted = {"policy": {"lingerSeconds": 0}, "manualAllocations": manual, **spec}
    return yaml.safe_dump({"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "spec": wanted})


def is_ready(status: NodeStatus) -> bool:
    ready = condition_of(status, "Ready")
    return ready is not None and ready.status == "True"


def gpu(status: NodeStatus, name: str) -> DeviceStatus | None:
    """One GPU, None if it is not there."""
    return next((device for device in status.devices if device.name == name), None)


def allocation(status: NodeStatus, name: str) -> AllocationStatus | None:
    """One allocation, None if it is not there."""
    return next((one for one in status.allocations if one.name == name), None)


def phase(status: NodeStatus, name: str) -> str:
    """The phase of an allocation, empty if it is not there."""
    found = allocation(status, name)
    return "" if found is None else found.phase
