"""Real containers (podman and runc) with simulated GPUs, by the CDI specs that `gpu-reconciler apply` writes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import gpusim
from gpusim import session

PATIENCE = 100.0
_REPOSITORY = Path(__file__).parents[2]
_GO_PATH = Path("/usr/share/gocode")

# In a mount namespace: a /run of podman's own, with our specs where it looks for them. /sys stays the host's, for
# cgroups.
_WITH_SPECS = 'mount -t tmpfs tmpfs /run && mkdir /run/cdi && mount --bind "$0" /run/cdi && exec "$@"'
_WITH_DEV = 'mount --bind "$0" /dev && exec "$@"'

# For each node: its path, number, and what opening it gives. Then a node of our own that no spec
# allows, as a counter-check of the cgroup's rules.
_LOOK = """
for node in $(find /dev/dri /dev/vfio /dev/mei* -type c 2>/dev/null); do
    echo "$node $(stat -c '%t:%T' $node) $( (exec 3<>$node) 2>&1 | sed 's/.*: //')"
done
mknod /dev/forbidden c 226 4000 && echo "/dev/forbidden 0:0 $( (exec 3<>/dev/forbidden) 2>&1 | sed 's/.*: //')"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InContainer:
    """One device node as a container has it: its number, and what came of opening it (empty: it opens)."""

    number: str
    opening: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A simulated machine with device nodes, and a root file system for containers."""

    machine: gpusim.Machine
    where: Path
    environment: Mapping[str, str]

    @property
    def cdi(self) -> Path:
        return self.where / "cdi"

    def apply(self, allocations: Mapping[str, Sequence[Mapping[str, object]]], *, plain_dev: bool = False) -> None:
        """Bring the machine to these allocations; `plain_dev`: as if its nodes were in /dev."""
        manual = [{"name": name, "devices": [*devices]} for name, devices in allocations.items()]
        spec = {"policy": {"lingerSeconds": 0}, "manualAllocations": manual}
        file = self.where / "node.yaml"
        file.write_text(
            yaml.safe_dump({"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "spec": spec})
        )
        words = [sys.executable, "-m", "reconciler.cli", "apply", "-f", str(file), "--processes", "visible"]
        if plain_dev:
            words = ["unshare", "-m", "sh", "-c", _WITH_DEV, str(self.where / "dev"), *words]
        # Nodes with the number of /dev/null would be in use by everybody: show no processes.
        places = {"PROCFS_ROOT": str(self.where / "proc")} | ({"DEVFS_ROOT": "/dev"} if plain_dev else {})
        done = subprocess.run(
            words,
            env={**os.environ, **self.environment, **places, "PYTHONPATH": str(_REPOSITORY)},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def skip_without_podman(self) -> None:
        """Skip the test where no container can be run at all."""
        missing = [program for program in ("podman", "runc", "busybox") if shutil.which(program) is None]
        if missing:
            pytest.skip(f"needs {', '.join(missing)} (Debian packages: see hack/lib.sh)")
        _make_rootfs(self.where / "rootfs")
        tried = self.podman("/bin/sh", "-c", "true", devices=[])
        if tried.returncode:
            pytest.skip(f"podman can't run containers here: {tried.stderr.strip()}")

    def podman(self, *words: str, devices: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in a container with CDI devices, named without their kind."""
        asked: list[str] = [word for device in devices for word in ("--device", f"intel.com/gpu={device}")]
        podman = [
            "podman", "--root", str(self.where / "storage"), "--cgroup-manager", "cgroupfs",
            "--events-backend", "none", "--runtime", "runc",
            "run", "--rm", "--network", "none", "--cap-add", "mknod",
            "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
            *asked, "--rootfs", str(self.where / "rootfs"), *words,
        ]  # fmt: skip
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", _WITH_SPECS, str(self.cdi), *podman],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def nodes_inside(self, *devices: str) -> dict[str, InContainer]:
        """The device nodes that a container with these CDI devices has, by path."""
        done = self.podman("/bin/sh", "-c", _LOOK, devices=devices)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
        return {path: InContainer(number=_decimal(number), opening=opening) for path, number, opening in lines}

    def specs(self) -> list[Path]:
        """The CDI spec files there are."""
        return sorted(self.cdi.iterdir())

    def version(self, file: str) -> str:
        """The cdiVersion of a spec file."""
        version: str = json.loads((self.cdi / file).read_bytes())["cdiVersion"]
        return version


@contextmanager
def running(where: Path, machine: gpusim.MachineSpec, *, real_nodes: bool = False) -> Iterator[Host]:
    """A machine that is switched on.

    Its device nodes are files, so that sysfs alone says their numbers; `real_nodes` have that of /dev/null.
    """
    booted = gpusim.Machine(machine)
    with session.laid_out(booted, where, real_nodes=real_nodes) as environment:
        try:
            yield Host(machine=booted, where=where, environment=environment)
        finally:
            shutil.rmtree(where / "storage", ignore_errors=True)


def build(source: Path, target: Path) -> None:
    """Compile a Go program against Debian's CDI library. Skips the test where that can't be done."""
    library = "golang-github-container-orchestrated-devices-container-device-interface-dev"
    if shutil.which("go") is None or not (_GO_PATH / "src/github.com/container-orchestrated-devices").is_dir():
        pytest.skip(f"needs golang-go and {library}")
    environment = {
        **os.environ, "GO111MODULE": "off", "GOPATH": str(_GO_PATH), "GOCACHE": str(target.parent / "cache"),
    }  # fmt: skip
    subprocess.run(["go", "build", "-o", target, source], env=environment, check=True, timeout=PATIENCE)


def _decimal(number: str) -> str:
    """A device number as sysfs writes it, from stat(1)'s."""
    return ":".join(str(int(part, 16)) for part in number.split(":"))


def _make_rootfs(root: Path) -> None:
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "run"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy2(busybox, root / "bin/busybox")
    for name in ("sh", "find", "stat", "sed", "mknod"):
        (root / "bin" / name).symlink_to("busybox")
