"""The processes of a cluster with one node: simulated cluster, controller, node agent, plugin; what they use."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hack.bench.objects import DRIVER
from plugin.places import Places
from reconciler.node.roots import Roots
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.config import Cluster
from reconciler.runtime.kube.connecting import connect

NODE = "bench"
REPOSITORY = Path(__file__).parents[2]
PATIENCE = 60.0

_MANIFESTS = ("deploy/crd/gpunodestates.gpu.dra.intel.com.yaml", "deploy/classes/structured.yaml")
_LOOK_AGAIN = 0.0005
_CPUCLOCK_SCHED = 2


@dataclass(slots=True, kw_only=True)
class Staff:
    """What is started through it ends with ``closing``."""

    where: Path
    roots: Roots
    closing: contextlib.ExitStack
    kubeconfig: Path = Path()
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def places(self) -> Places:
        return Places(run=Path(self.roots.run), kubelet=self.where / "kubelet", procfs=Path(self.roots.procfs))

    def start_cluster(self, *, actors: bool) -> None:
        """The simulated cluster; ready when this returns."""
        words = [sys.executable, "-m", "hack.bench.town", str(self.where / "api"), "--node", NODE]
        for manifest in _MANIFESTS:
            words += ["--apply", str(REPOSITORY / manifest)]
        if actors:
            words += ["--kubelet-root", str(self.places.kubelet), "--cdi-root", self.roots.cdi]
        paths = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "hack/sim")))
        with open(self.where / "town.log", "ab") as log:
            process = subprocess.Popen(
                words, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, stderr=log
            )
        self._take("cluster", process)
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        process.stdout.close()
        if not line:
            raise RuntimeError(f"no cluster: {(self.where / 'town.log').read_text()}")
        self.kubeconfig = Path(line)

    def client(self) -> KubeClient:
        """A client of the cluster's administrator."""
        return connect(Cluster(user_agent="gpu-bench", kubeconfig=self.kubeconfig))

    def start_controller(self) -> None:
        self._start("controller", "controller", {"POD_NAME": "bench"})

    def start_agent(self, *more: str) -> None:
        words = ("--layout", "Dynamic", "--linger-seconds", "1", *more)
        self._start("agent", "node", {"NODE_NAME": NODE}, *words)

    def start_plugin(self) -> None:
        self._start("plugin", "plugin", {"NODE_NAME": NODE, "KUBELET_ROOT": str(self.places.kubelet)})

    def until_plugin_serves(self) -> float:
        """The moment at which its sockets are there."""
        return until((self.places.registry_dir / f"{DRIVER}-reg.sock").exists, "the plugin's socket")

    def end(self, name: str) -> float:
        """Seconds from SIGTERM until it is gone. Raises RuntimeError if it didn't end well."""
        process = self.processes.pop(name)
        began = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        _, status, _ = os.wait4(process.pid, 0)  # no polling, as Popen.wait with a time limit does
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"{name} ended with {process.returncode}: {self.log(name)[-2000:]}")
        return took

    def log(self, name: str) -> str:
        return (self.where / f"{name}.log").read_text()

    def processor_seconds(self, name: str) -> float:
        """Time on a processor, of all threads that it ever had."""
        clock = (~self.processes[name].pid << 3) | _CPUCLOCK_SCHED  # as clock_getcpuclockid(3) makes it
        return time.clock_gettime(clock)

    def resident_mib(self, name: str) -> float:
        lines = Path("/proc", str(self.processes[name].pid), "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    def _start(self, name: str, command: str, environment: Mapping[str, str], *more: str) -> None:
        words = ("gpu-reconciler", command, "--log-level", "info", *more)
        given = {**os.environ, **_variables(self.roots), "KUBECONFIG": str(self.kubeconfig), **environment}
        with open(self.where / f"{name}.log", "ab") as log:
            self._take(name, subprocess.Popen(words, env=given, stdin=subprocess.DEVNULL, stderr=log))

    def _take(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.processes[name] = process
        self.closing.callback(_end, process)


@contextlib.contextmanager
def staff_at(where: Path, roots: Roots) -> Iterator[Staff]:
    """Nobody at first; everybody goes with the context."""
    where.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as closing:
        yield Staff(where=where, roots=roots, closing=closing)


def until(holds: Callable[[], bool], what: str) -> float:
    """Look often until something holds; when that was. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {what}")
        time.sleep(_LOOK_AGAIN)
    return time.perf_counter()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _variables(roots: Roots) -> dict[str, str]:
    return {
        "SYSFS_ROOT": roots.sysfs,
        "DEVFS_ROOT": roots.devfs,
        "PROCFS_ROOT": roots.procfs,
        "CDI_ROOT": roots.cdi,
        "RUN_DIR": roots.run,
        "STATE_DIR": roots.state,
    }
