"""The kubelet plugin as a process: how fast it prepares claims, starts and ends, and how much memory it takes.

The node agent is a thread here that answers at once, so what is measured is the plugin, the files and the sockets.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc

from hack.bench.figures import Figure, milliseconds
from plugin.pb.dra.v1 import api_pb2 as pb
from plugin.places import Places
from reconciler.node.record_files import read_marks
from reconciler.runtime.files import write_atomic
from reconciler.runtime.watching import FileWatcher, Interest
from state.observed import Unreadable
from state.records import AppliedDevice
from state.server_info import ServerInfo, encode_server_info
from state.status import AllocationStatus, NodeStatus, StatusFile, encode_status

DRIVER, NODE, BOOT_ID = "gpu.intel.com", "bench", "bench"
PREPARE_P99_BUDGET_MS = 5.0
START_BUDGET_MS = 600.0
RSS_BUDGET_MIB = 50.0
PATIENCE = 30.0

_PREPARE = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"
_UNPREPARE = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources"
_LOOK_AGAIN = 0.0005


def figures(*, more: int) -> Iterator[Figure]:
    """All of it; ``more`` times as many samples."""
    with tempfile.TemporaryDirectory(prefix="gpu-") as where:
        stand = _stand(Path(where))
        with _answering(stand):
            yield milliseconds(
                "plugin: start → socket", [_start(stand) for _ in range(5 * more)], budget=START_BUDGET_MS
            )
            with _running(stand) as process, _calling(stand) as call:
                yield from _one_after_the_other(call, 300 * more)
                for pods in (20, 100):
                    yield _burst(call, pods)
                yield Figure(
                    name="plugin: resident memory",
                    samples=(_rss_mib(process.pid),),
                    unit="MiB",
                    budget=RSS_BUDGET_MIB,
                    note="after a burst of 100",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stand:
    places: Places
    claims: tuple[AllocationStatus, ...]

    @property
    def socket(self) -> Path:
        return self.places.plugin_dir(DRIVER) / "dra.sock"

    def write_status(self) -> None:
        """Confirm all marks that there are."""
        marks = read_marks(self.places.marks_dir)
        assert not isinstance(marks, Unreadable), marks
        status = NodeStatus(boot_id=BOOT_ID, version="bench", allocations=self.claims)
        file = StatusFile(
            written_at=datetime.now(UTC),
            boot_id=BOOT_ID,
            status=status,
            nonces={uid: mark.nonce for uid, mark in marks.items()},
        )
        write_atomic(self.places.status_file, encode_status(file), durable=False)


class Call:
    """What a kubelet asks, and how long the answer takes in seconds."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._prepare: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_PREPARE)
        self._unprepare: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_UNPREPARE)

    def prepare(self, uid: str) -> float:
        request = pb.NodePrepareResourcesRequest(claims=[pb.Claim(uid=uid)]).SerializeToString()
        began = time.perf_counter()
        answer = self._prepare(request, timeout=PATIENCE, wait_for_ready=True)
        took = time.perf_counter() - began
        claim = pb.NodePrepareResourcesResponse.FromString(answer).claims[uid]
        if not claim.devices:
            raise RuntimeError(claim.error)
        return took

    def unprepare(self, uid: str) -> float:
        request = pb.NodeUnprepareResourcesRequest(claims=[pb.Claim(uid=uid)]).SerializeToString()
        began = time.perf_counter()
        self._unprepare(request, timeout=PATIENCE)
        return time.perf_counter() - began


def _one_after_the_other(call: Call, times: int) -> Iterator[Figure]:
    first, again, back = [], [], []
    for number in range(times):
        uid = _uid(number % 100)
        first.append(call.prepare(uid))
        again.append(call.prepare(uid))
        back.append(call.unprepare(uid))
    yield milliseconds("Prepare, Ready and marked", again, budget_p99=PREPARE_P99_BUDGET_MS, note="asked again")
    yield milliseconds("Prepare, Ready", first, budget_p99=PREPARE_P99_BUDGET_MS, note="mark → echo → answer")
    yield milliseconds("Unprepare", back)


def _burst(call: Call, pods: int) -> Figure:
    """As many pods at once, each in a thread."""
    took: list[float] = []
    threads = [
        threading.Thread(target=lambda uid: took.append(call.prepare(uid)), args=(_uid(number),))
        for number in range(pods)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(pods):
        call.unprepare(_uid(number))
    return milliseconds(f"Prepare, Ready, {pods} at once", took)


def _start(stand: _Stand) -> float:
    began = time.perf_counter()
    with _running(stand):
        return time.perf_counter() - began


@contextlib.contextmanager
def _running(stand: _Stand) -> Iterator[subprocess.Popen[bytes]]:
    """The plugin, from when its sockets are there."""
    places = stand.places
    words = ("gpu-reconciler", "plugin", "--node-name", NODE, "--log-level", "warning")
    environment = {
        **os.environ,
        "RUN_DIR": str(places.run),
        "PROCFS_ROOT": str(places.procfs),
        "KUBELET_ROOT": str(places.kubelet),
    }
    process = subprocess.Popen(words, env=environment)
    try:
        registration = places.registry_dir / f"{DRIVER}-reg.sock"
        deadline = time.monotonic() + PATIENCE
        while not registration.exists():
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError("the plugin does not serve")
            time.sleep(_LOOK_AGAIN)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


@contextlib.contextmanager
def _calling(stand: _Stand) -> Iterator[Call]:
    with grpc.insecure_channel(f"unix:{stand.socket}") as channel:
        yield Call(channel)


@contextlib.contextmanager
def _answering(stand: _Stand) -> Iterator[None]:
    """A node agent that confirms marks as soon as it hears of them."""
    changed, ending = threading.Event(), threading.Event()
    watcher = FileWatcher((Interest(directory=stand.places.marks_dir, names=None, wake=changed.set),))

    def run() -> None:
        while not ending.is_set():
            watcher.check()
            stand.write_status()
            changed.wait()
            changed.clear()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        changed.set()
        thread.join()
        watcher.stop()


def _stand(root: Path) -> _Stand:
    places = Places(run=root / "run", kubelet=root / "kubelet", procfs=root / "proc")
    for directory in (places.status_dir, places.marks_dir, places.boot_id_file.parent):
        directory.mkdir(parents=True)
    places.boot_id_file.write_text(f"{BOOT_ID}\n")
    info = ServerInfo(
        row="v1", driver_names=(DRIVER,), grpc_services={DRIVER: ("v1.DRAPlugin", "v1alpha1.DRAResourceHealth")}
    )
    write_atomic(places.server_file, encode_server_info(info), durable=False)
    return _Stand(places=places, claims=tuple(_claim(number) for number in range(100)))


def _claim(number: int) -> AllocationStatus:
    uid = _uid(number)
    return AllocationStatus(
        name=uid,
        origin="claim",
        phase="Ready",
        since=datetime.now(UTC),
        devices=(AppliedDevice(device="0000-03-00-0-0x56c0", request="gpu"),),
        cdi_devices=(f"intel.com/gpu=claim-{uid}-0",),
    )


def _uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def _rss_mib(pid: int) -> float:
    status = Path("/proc", str(pid), "status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
