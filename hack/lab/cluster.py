"""A simulated cluster whose nodes have simulated GPUs, with as much of the product running as is asked for."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubesim
from hack.lab.machines import SimulatedMachine, powered_on
from hack.lab.processes import REPOSITORY, Daemon, eventually, running

CRDS = REPOSITORY / "deploy/crd"
CRD = CRDS / "gpunodestates.gpu.dra.intel.com.yaml"
GROUP = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates"

JsonObject = dict[str, Any]
"""An API object as it came: whoever looks into it says what he expects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(slots=True, kw_only=True)
class Lab:
    """The cluster. What is started through ``closing`` ends with it."""

    where: Path
    cluster: kubesim.Cluster
    kubeconfig: Path
    server: Any
    closing: contextlib.ExitStack
    machines: dict[str, SimulatedMachine] = field(default_factory=dict)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Nodes and daemons that are started inside end with it."""
        outer = self.closing
        with contextlib.ExitStack() as self.closing:
            try:
                yield
            finally:
                self.closing, inner = outer, self.closing
                inner.close()

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Nobody can reach the API server."""
        self.server.pause()
        try:
            yield
        finally:
            self.server.resume()

    # -- the cluster ---------------------------------------------------------------------------------------

    def kubectl(self, *words: str, given: str | None = None, editor: str | None = None) -> Result:
        """The real kubectl; ``editor`` is a shell command that gets the file to edit as its argument."""
        environment = {
            **os.environ,
            "HOME": str(self.where / "home"),
            "KUBECONFIG": str(self.kubeconfig),
            **({} if editor is None else {"KUBE_EDITOR": editor}),
        }
        done = subprocess.run(
            ("kubectl", *words),
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Result(code=done.returncode, out=done.stdout, err=done.stderr)

    def apply(self, manifest: str) -> None:
        """Apply YAML. Raises RuntimeError when the server refuses it."""
        done = self.kubectl("apply", "-f", "-", given=manifest)
        if done.code != 0:
            raise RuntimeError(f"kubectl apply: {done.err}")

    def node_state(self, node: str) -> JsonObject | None:
        """The GpuNodeState of a node, None if there is none."""
        try:
            found: JsonObject = self.cluster.get(f"{GROUP}/{node}")
        except kubesim.Refusal as refusal:
            if refusal.code == 404:
                return None
            raise
        return found

    def allocations(self, node: str) -> dict[str, str]:
        """Phases of the allocations in a node's status, by name."""
        status = (self.node_state(node) or {}).get("status", {})
        return {one["name"]: one["phase"] for one in status.get("allocations", ())}

    # -- nodes ---------------------------------------------------------------------------------------------

    def add_node(self, node: str, machine: str) -> SimulatedMachine:
        """A Node and its machine (as ``powered_on`` takes it), switched on; nothing of ours runs there yet."""
        self.cluster.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        log = self.where / "logs" / f"{node}-machine.log"
        self.machines[node] = self.closing.enter_context(powered_on(machine, self.where / node, log))
        return self.machines[node]

    def start_agent(self, node: str, *words: str) -> Daemon:
        """Start the node agent there."""
        words = ("node", "--uevents", "off", "--processes", "hidden", *words)
        return self.start(f"{node}.log", words, {**self.machines[node].environment, "NODE_NAME": node})

    def start_controller(self, name: str = "controller", *words: str) -> Daemon:
        """Start a replica of the controller."""
        return self.start(f"{name}.log", ("controller", *words), {"POD_NAME": name})

    def start(self, log: str, words: tuple[str, ...], environment: Mapping[str, str]) -> Daemon:
        """Start one of the product's daemons; it ends with the cluster."""
        environment = {"HOME": str(self.where / "home"), "KUBECONFIG": str(self.kubeconfig), **environment}
        return self.closing.enter_context(running(words, environment, self.where / "logs" / log))

    def until_ready(self, node: str, *names: str) -> None:
        """Wait until these allocations of a node are Ready."""
        eventually(
            f"Ready: {names}",
            lambda: all(self.allocations(node).get(name) == "Ready" for name in names) or None,
            lambda: json.dumps(self.node_state(node), indent=1),
        )


@contextlib.contextmanager
def opened(where: Path, *, release: str = "1.36", classic: bool = False, seed: int = 0) -> Iterator[Lab]:
    """A cluster without nodes, our CRD installed; on a classic one also those of claims' and classes' parameters.

    ``classic`` is for 1.31, which can be both; older releases are classic.
    """
    cluster = kubesim.Cluster(release, classic=classic, seed=seed)
    for name in ("home", "api"):
        (where / name).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as closing:
        served = closing.enter_context(kubesim.serving(cluster, where / "api"))
        lab = Lab(
            where=where, cluster=cluster, kubeconfig=served.kubeconfig, server=served.server, closing=closing
        )
        for definition in sorted(CRDS.glob("*.yaml")) if cluster.release.classic else (CRD,):
            lab.apply(definition.read_text())
        try:
            yield lab
        finally:
            closing.close()
            shutil.rmtree(where / "home", ignore_errors=True)
