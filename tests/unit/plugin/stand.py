"""A plugin between a kubelet and a node agent, both played by tests, on real sockets and files."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from plugin import plugin_metrics
from plugin.pb.dra.v1 import api_pb2 as dra
from plugin.pb.health.v1alpha1 import health_pb2 as health
from plugin.pb.pluginregistration import registration_pb2 as registration
from plugin.places import Places
from plugin.running import Plugin, PluginConfig
from reconciler.node.record_files import read_marks
from reconciler.runtime.files import write_atomic
from reconciler.runtime.metrics import NoMetrics
from reconciler.runtime.signals import Essentials
from state.observed import Unreadable
from state.records import AppliedDevice, Mark
from state.server_info import ServerInfo, encode_server_info
from state.status import (
    AllocationStatus,
    DeviceStatus,
    NodeStatus,
    SicknessStatus,
    StatusFile,
    encode_status,
)

DRIVER = "gpu.intel.com"
NODE = "node-b"
BOOT = "11111111-2222-3333-4444-555555555555"
PF = "0000-b3-00-0-0x56c0"
SERVICES = ("v1.DRAPlugin", "v1beta1.DRAPlugin", "v1alpha1.DRAResourceHealth")
PATIENCE = 20.0


def uid(number: int) -> str:
    """A claim's UID."""
    return f"00000000-0000-4000-8000-{number:012}"


def eventually(holds: Callable[[], object], what: str = "it") -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.002)


def entry(name: str, phase: str = "Ready", message: str = "", **more: object) -> AllocationStatus:
    """A claim in the status: of one whole GPU, unless told otherwise."""
    devices = more.get("devices", (AppliedDevice(device=PF, request="gpu"),))
    assert isinstance(devices, tuple)
    ready = tuple(f"intel.com/gpu=claim-{name}-{index}" for index in range(len(devices)))
    cdi_devices = more.get("cdi_devices", ready if phase == "Ready" else ())
    assert isinstance(cdi_devices, tuple)
    return AllocationStatus(
        name=name,
        origin=str(more.get("origin", "claim")),
        phase=phase,
        since=datetime(2026, 1, 1, tzinfo=UTC),
        message=message,
        devices=devices,
        cdi_devices=cdi_devices,
    )


def gpu(name: str = PF, health: str = "Healthy", sickness: tuple[SicknessStatus, ...] = ()) -> DeviceStatus:
    """A GPU in the status."""
    return DeviceStatus(
        name=name,
        pci_address="0000:b3:00.0",
        pci_id="56c0",
        model="Flex 170",
        family="Flex",
        health=health,
        sickness=sickness,
    )


@dataclass(slots=True)
class Agent:
    """The node agent: has entries, sees marks, and writes both down. As a thread it does so again and again."""

    places: Places
    entries: dict[str, AllocationStatus] = field(default_factory=dict)
    gpus: tuple[DeviceStatus, ...] = field(default_factory=lambda: (gpu(),))
    released: dict[str, str] = field(default_factory=dict)
    boot_id: str = BOOT
    silent_for: timedelta = timedelta()
    lock: threading.Lock = field(default_factory=threading.Lock)
    written: tuple[object, ...] = ()

    def marks(self) -> dict[str, Mark]:
        """The marks there are."""
        found = read_marks(self.places.marks_dir)
        assert not isinstance(found, Unreadable), found
        return dict(found)

    def step(self) -> None:
        """One pass: entries that are marked are confirmed. As long as a mark can't be read nothing is done."""
        with self.lock:
            marks = read_marks(self.places.marks_dir)
            if isinstance(marks, Unreadable):
                return
            nonces = {name: mark.nonce for name, mark in marks.items() if name in self.entries}
            content = (dict(self.entries), nonces, dict(self.released), self.gpus, self.boot_id, self.silent_for)
            if content != self.written:
                self.write(nonces)
                self.written = content

    def write(self, nonces: dict[str, str]) -> None:
        """Write the status with exactly these nonces."""
        status = NodeStatus(
            boot_id=self.boot_id, version="test", devices=self.gpus, allocations=tuple(self.entries.values())
        )
        file = StatusFile(
            written_at=datetime.now(UTC) - self.silent_for,
            boot_id=self.boot_id,
            status=status,
            nonces=nonces,
            released_marks=self.released,
        )
        self.places.status_dir.mkdir(parents=True, exist_ok=True)
        write_atomic(self.places.status_file, encode_status(file), durable=False)

    def set(self, *entries: AllocationStatus) -> None:
        """Add or change entries."""
        with self.lock:
            self.entries.update({one.name: one for one in entries})

    def forget(self, name: str) -> None:
        """Have no entry for a claim."""
        with self.lock:
            self.entries.pop(name, None)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Passes, one after the other, in a thread."""
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                self.step()
                stop.wait(0.001)

        thread = threading.Thread(target=run, name="agent")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def places_at(root: Path) -> Places:
    """Places of a machine that was booted."""
    places = Places(run=root / "run", kubelet=root / "kubelet", procfs=root / "proc")
    for directory in (
        places.status_dir,
        places.marks_dir,
        places.lock_dir,
        places.registry_dir,
        places.kubelet / "plugins",
    ):
        directory.mkdir(parents=True)
    places.boot_id_file.parent.mkdir(parents=True)
    places.boot_id_file.write_text(f"{BOOT}\n")
    return places


def tell_server(places: Places, services: tuple[str, ...] = SERVICES, *drivers: str) -> None:
    """Write server.json."""
    names = drivers or (DRIVER,)
    info = ServerInfo(row="v1", driver_names=names, grpc_services=dict.fromkeys(names, services))
    places.status_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(places.server_file, encode_server_info(info), durable=False)


@contextlib.contextmanager
def running(places: Places, instance: str = "", grace: float = 5.0) -> Iterator[Plugin]:
    """A plugin in this process."""
    config = PluginConfig(node_name=NODE, places=places, instance=instance, grace=grace)
    plugin = Plugin(config, NoMetrics(plugin_metrics.DECLARED))
    essentials = Essentials()
    plugin.start(essentials)
    try:
        yield plugin
    finally:
        essentials.expect_end()
        plugin.stop()
        assert essentials.join(10) == ()
    assert essentials.failed is None, essentials.failed


@dataclass(slots=True)
class Kubelet:
    """The kubelet's side of the sockets."""

    places: Places
    driver: str = DRIVER
    instance: str = ""

    @property
    def registration_socket(self) -> Path:
        suffix = f"-{self.instance[:8]}" if self.instance else ""
        return self.places.registry_dir / f"{self.driver}{suffix}-reg.sock"

    @property
    def dra_socket(self) -> Path:
        suffix = f"-{self.instance[:8]}" if self.instance else ""
        return self.places.plugin_dir(self.driver) / f"dra{suffix}.sock"

    def call(self, socket: Path, method: str, request: bytes, timeout: float) -> bytes:
        """One call, bytes in, bytes out. Raises grpc.RpcError."""
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            return ask(request, timeout=timeout)

    def get_info(self) -> registration.PluginInfo:
        """What the plugin says of itself, in the second that it has."""
        answer = self.call(self.registration_socket, "/pluginregistration.Registration/GetInfo", b"", 1.0)
        return registration.PluginInfo.FromString(answer)

    def notify(self, registered: bool, error: str = "") -> None:
        """Tell what became of the registration."""
        message = registration.RegistrationStatus(plugin_registered=registered, error=error)
        method = "/pluginregistration.Registration/NotifyRegistrationStatus"
        self.call(self.registration_socket, method, message.SerializeToString(), 5.0)

    def register(self) -> registration.PluginInfo:
        """Wait for the socket and register what is behind it."""
        eventually(self.registration_socket.exists, "the registration socket")
        info = self.get_info()
        self.notify(True)
        return info

    def prepare(
        self, *uids: str, timeout: float = 45.0, version: str = "v1"
    ) -> dict[str, dra.NodePrepareResourceResponse]:
        """Prepare claims in one call."""
        request = dra.NodePrepareResourcesRequest(claims=[_claim(one) for one in uids])
        answer = self.call(
            self.dra_socket, _method(version, "NodePrepareResources"), request.SerializeToString(), timeout
        )
        return dict(dra.NodePrepareResourcesResponse.FromString(answer).claims)

    def unprepare(self, *uids: str, timeout: float = 45.0, version: str = "v1") -> dict[str, str]:
        """Give claims back in one call; the errors by UID, empty ones too."""
        request = dra.NodeUnprepareResourcesRequest(claims=[_claim(one) for one in uids])
        answer = self.call(
            self.dra_socket, _method(version, "NodeUnprepareResources"), request.SerializeToString(), timeout
        )
        claims = dra.NodeUnprepareResourcesResponse.FromString(answer).claims
        return {name: one.error for name, one in claims.items()}

    @contextlib.contextmanager
    def health(self, version: str = "v1alpha1") -> Iterator[Iterator[health.NodeWatchResourcesResponse]]:
        """The stream of health lists."""
        with grpc.insecure_channel(f"unix:{self.dra_socket}") as channel:
            method = f"/{version}.DRAResourceHealth/NodeWatchResources"
            ask: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(method)
            stream = ask(b"", timeout=60)
            try:
                yield (health.NodeWatchResourcesResponse.FromString(answer) for answer in stream)
            finally:
                stream.cancel()


def _method(version: str, name: str) -> str:
    if version == "v1alpha3":
        return f"/v1alpha3.Node/{name}"
    return f"/k8s.io.kubelet.pkg.apis.dra.{version}.DRAPlugin/{name}"


def _claim(name: str) -> dra.Claim:
    return dra.Claim(namespace="default", uid=name, name=f"name-of-{name}")
