"""The controller as operators run it: a process, over TLS, beside the real kubectl."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kubesim
from tests.contract_files import REPOSITORY

CRD = REPOSITORY / "deploy/crd/gpunodestates.gpu.dra.intel.com.yaml"
GPU = "0000-b3-00-0-0x56c0"
OBJECTS = """
apiVersion: gpu.dra.intel.com/v1alpha1
kind: GpuNodeState
metadata: {name: node-1}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: train, namespace: default}
spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: vf.gpu.intel.com}}]}}
"""


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def probe(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


class Kubectl:
    def __init__(self, kubeconfig: Path, home: Path) -> None:
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(home)}

    def __call__(self, *words: str, given: str = "") -> str:
        done = subprocess.run(
            ("kubectl", *words),
            env=self._environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def patch_status(self, kind: str, name: str, status: object) -> None:
        self("patch", kind, name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))

    def entries(self) -> dict[str, dict[str, object]]:
        spec = json.loads(self("get", "gns", "node-1", "-o", "json")).get("spec", {})
        return {entry["claimName"]: entry for entry in spec.get("allocations", ())}


@contextmanager
def controller(kubeconfig: Path, log: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    words = (sys.executable, "-m", "reconciler.cli", "controller", "--kubeconfig", str(kubeconfig), *more)
    with open(log, "ab") as stderr:
        process = subprocess.Popen(words, cwd=REPOSITORY, stderr=stderr)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[kubesim.Served]:
    cluster = kubesim.Cluster("1.36", seed=1)
    cluster.load(CRD.read_text())
    with kubesim.serving(cluster, tmp_path) as running:
        yield running


def test_a_claim_comes_and_goes(served: kubesim.Served, tmp_path: Path) -> None:
    kubectl, port = Kubectl(served.kubeconfig, tmp_path / "home"), free_port()
    kubectl("apply", "-f", "-", given=OBJECTS)
    kubectl.patch_status("gns", "node-1", {"observedGeneration": 1, "bootID": "b", "version": "1"})
    log = tmp_path / "controller.log"
    with controller(served.kubeconfig, log, "--probes-listen", f"127.0.0.1:{port}") as process:
        eventually(lambda: probe(port, "/readyz") == 200)
        assert probe(port, "/healthz") == 200
        result = {"request": "gpu", "driver": "gpu.intel.com", "pool": "node-1", "device": f"{GPU}-m4"}
        kubectl.patch_status("resourceclaim", "train", {"allocation": {"devices": {"results": [result]}}})
        eventually(lambda: kubectl.entries().keys() == {"train"})
        managers = kubectl("get", "gns", "node-1", "-o", "yaml", "--show-managed-fields")
        assert "manager: gpu-controller" in managers
        kubectl("delete", "resourceclaim", "train")
        eventually(lambda: kubectl.entries() == {})
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert "Traceback" not in log.read_text()


def test_an_outage_of_the_api_server_is_sat_out(served: kubesim.Served, tmp_path: Path) -> None:
    kubectl, port = Kubectl(served.kubeconfig, tmp_path / "home"), free_port()
    kubectl("apply", "-f", "-", given=OBJECTS)
    kubectl.patch_status("gns", "node-1", {"observedGeneration": 1, "bootID": "b", "version": "1"})
    served.server.pause()
    with controller(served.kubeconfig, tmp_path / "log", "--probes-listen", f"127.0.0.1:{port}"):
        eventually(lambda: probe(port, "/readyz") == 503)
        served.server.resume()
        eventually(lambda: probe(port, "/readyz") == 200)
        result = {"request": "gpu", "driver": "gpu.intel.com", "pool": "node-1", "device": GPU}
        kubectl.patch_status("resourceclaim", "train", {"allocation": {"devices": {"results": [result]}}})
        eventually(lambda: kubectl.entries().keys() == {"train"})


def test_what_is_wrong_with_the_kubeconfig_is_said_in_one_line(tmp_path: Path) -> None:
    words = (sys.executable, "-m", "reconciler.cli", "controller", "--kubeconfig", str(tmp_path / "none"))
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert str(tmp_path / "none") in done.stderr
    assert "Traceback" not in done.stderr
