"""Every call that a real kubelet was seen to make, made again to our plugin over real sockets.

The node agent is played by this test: it has those claims Ready that the recorded driver prepared. Where the
recorded driver answered oddly, to see what the kubelet makes of it, ours has to answer sensibly.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from plugin.pb.dra.v1 import api_pb2 as dra
from plugin.pb.health.v1alpha1 import health_pb2 as health
from plugin.pb.pluginregistration import registration_pb2 as registration
from plugin.places import Places
from state.records import AppliedDevice
from state.status import AllocationStatus
from tests.contract_files import copied_paths, read_text
from tests.unit.plugin.stand import NODE, Agent, Kubelet, entry, eventually, gpu, places_at, running, tell_server

FILES = [path for path in copied_paths() if path.startswith("recordings/new/") and path.endswith(".grpc.jsonl")]
DRIVERS = ("rec.gpu.intel.com", "gpu.intel.com")
HOPELESS = 3.2
"""A deadline in seconds for calls that can't succeed: it leaves 0.2 s to wait."""

Line = dict[str, Any]


def lines_of(path: str) -> list[Line]:
    return [json.loads(line) for line in read_text(path).splitlines()][1:]


def calls_of(path: str) -> list[Line]:
    """Calls with what was sent, in their order. Streams are looked at elsewhere."""
    return [line for line in lines_of(path) if is_call(line)]


def is_call(line: Line) -> bool:
    return "requestHex" in line and not line["method"].endswith("NodeWatchResources")


@dataclass(slots=True)
class Stage:
    """A kubelet, its recorded calls, and what answers them."""

    places: Places
    agent: Agent
    kubelet: Kubelet

    def play(self, line: Line) -> None:
        """Make one call, and judge the answer."""
        match line["method"].rpartition("/")[2]:
            case "GetInfo":
                self._get_info(line)
            case "NotifyRegistrationStatus":
                self._send(line, self.kubelet.registration_socket, 5.0)
            case "NodePrepareResources":
                self._prepare(line)
            case "NodeUnprepareResources":
                answer = self._send(line, self.kubelet.dra_socket, 5.0)
                claims = dra.NodeUnprepareResourcesResponse.FromString(answer).claims
                assert {name: one.error for name, one in claims.items()} == dict.fromkeys(uids_of(line), "")
                assert not self.agent.marks().keys() & set(uids_of(line))
            case other:
                raise AssertionError(f"{other}: not known here")

    def _get_info(self, line: Line) -> None:
        answer = self._send(line, self.kubelet.registration_socket, 1.0)
        info = registration.PluginInfo.FromString(answer)
        assert (info.type, info.name, info.endpoint) == (
            "DRAPlugin",
            self.kubelet.driver,
            str(self.kubelet.dra_socket),
        )
        assert list(info.supported_versions) == ["v1.DRAPlugin", "v1beta1.DRAPlugin"]

    def _prepare(self, line: Line) -> None:
        recorded = line.get("response", {}).get("claims", {})
        good = {name: recorded[name] for name in uids_of(line) if recorded.get(name, {}).get("devices")}
        for name, claim in good.items():
            self.agent.set(ready(name, claim["devices"]))
        hopeless = len(good) < len(uids_of(line))
        answer = dra.NodePrepareResourcesResponse.FromString(
            self._send(line, self.kubelet.dra_socket, HOPELESS if hopeless else line["clientDeadlineSeconds"])
        )
        assert answer.claims.keys() == set(uids_of(line)), "one answer for each claim, and for no other"
        for name, claim in answer.claims.items():
            assert bool(claim.devices) != bool(claim.error), "never empty, never both"
            if name in good:
                assert MessageToDict(claim, preserving_proto_field_name=True) == good[name]
        if good and good.keys() == recorded.keys():
            assert answer == dra.NodePrepareResourcesResponse.FromString(bytes.fromhex(line["responseHex"]))

    def _send(self, line: Line, socket: Path, timeout: float) -> bytes:
        return self.kubelet.call(socket, line["method"], bytes.fromhex(line["requestHex"]), timeout)


def uids_of(line: Line) -> list[str]:
    return [claim["uid"] for claim in line["request"]["claims"]]


def ready(name: str, devices: list[dict[str, Any]]) -> AllocationStatus:
    """The status entry of a claim with the devices that the recorded driver gave it."""
    assert all(device["pool_name"] == NODE for device in devices)
    return entry(
        name,
        devices=tuple(
            AppliedDevice(
                device=device["device_name"],
                request=device["request_names"][0],
                share_id=device.get("share_id", ""),
            )
            for device in devices
        ),
        cdi_devices=tuple(device["cdi_device_ids"][0] for device in devices),
    )


@contextlib.contextmanager
def stage(driver: str, *more_services: str) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="gpu-") as root:
        places = places_at(Path(root))
        tell_server(places, ("v1.DRAPlugin", "v1beta1.DRAPlugin", *more_services), driver)
        agent = Agent(places, gpus=(gpu("gpu-0"), gpu("gpu-1")))
        with agent.at_work():
            yield Stage(places, agent, Kubelet(places, driver=driver))


def test_every_recording_is_played() -> None:
    assert len(FILES) >= 17
    played = {line["method"].rpartition("/")[2] for path in FILES for line in calls_of(path)}
    assert played == {"GetInfo", "NotifyRegistrationStatus", "NodePrepareResources", "NodeUnprepareResources"}
    packages = {line["method"].split("/")[1] for path in FILES for line in calls_of(path)}
    assert {"k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin", "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin"} < packages


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: Path(path).name.partition(".")[0])
def test_the_plugin_answers_as_recorded(path: str, driver: str) -> None:
    with stage(driver) as on, running(on.places):
        eventually(on.kubelet.registration_socket.exists)
        for line in calls_of(path):
            on.play(line)


@pytest.mark.parametrize("name", ["d1-kubelet-restart", "d2-driver-restart", "d3-sandbox-recreated"])
def test_a_plugin_that_was_restarted_before_each_call_answers_the_same(name: str) -> None:
    """Whatever it has to remember is in files."""
    with stage(DRIVERS[0]) as on:
        for line in calls_of(f"recordings/new/{name}.grpc.jsonl"):
            with running(on.places):
                eventually(on.kubelet.registration_socket.exists)
                on.play(line)


def registration_cases() -> dict[str, list[Line]]:
    """The calls of j-registration by case."""
    cases: dict[str, list[Line]] = {}
    name = ""
    for line in lines_of("recordings/new/j-registration.grpc.jsonl"):
        name = line.get("case", name)
        cases.setdefault(name, [])
        if is_call(line):
            cases[name].append(line)
    return cases


CASES = registration_cases()


def test_there_are_as_many_cases_as_recorded() -> None:
    assert len(CASES) == 17
    assert sum(map(len, CASES.values())) == len(calls_of("recordings/new/j-registration.grpc.jsonl"))


@pytest.mark.parametrize("case", CASES)
def test_each_registration_case(case: str) -> None:
    """The sign follows what the kubelet said last, however often it asks or refuses."""
    with stage(DRIVERS[0]) as on, running(on.places) as plugin:
        eventually(on.kubelet.registration_socket.exists)
        for line in CASES[case]:
            on.play(line)
            if line["method"].endswith("NotifyRegistrationStatus"):
                assert plugin.ready() == line["request"].get("plugin_registered", False)


def test_two_instances_as_recorded() -> None:
    """Each recorded instance is one of our plugins, told apart by its pod."""
    lines = CASES["two instances with different sockets (rolling update)"]
    names = sorted({str(line.get("driverInstance", "")) for line in lines})
    assert len(names) == 2
    with stage(DRIVERS[0]) as on, contextlib.ExitStack() as plugins:
        kubelets = {}
        for number, name in enumerate(names):
            instance = f"{number}0000000-1111"
            plugins.enter_context(running(on.places, instance))
            kubelets[name] = Kubelet(on.places, driver=DRIVERS[0], instance=instance)
            eventually(kubelets[name].registration_socket.exists)
        for line in lines:
            Stage(on.places, on.agent, kubelets[str(line.get("driverInstance", ""))]).play(line)


def test_without_the_health_service_the_stream_is_unimplemented() -> None:
    with stage(DRIVERS[0]) as on, running(on.places):
        eventually(on.kubelet.registration_socket.exists)
        with on.kubelet.health() as lists, pytest.raises(grpc.RpcError) as refused:
            next(lists)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_health_stream_has_the_recorded_form() -> None:
    recorded = [
        line["response"]["devices"]
        for line in lines_of("recordings/new/k-device-health.grpc.jsonl")
        if line.get("stream") == "message" and line["response"].get("devices")
    ]
    assert recorded
    names = {
        name
        for devices in recorded
        for device in devices
        for name in (*device, *(f"device.{one}" for one in device["device"]))
    }
    known = {one.name for one in health.DeviceHealth.DESCRIPTOR.fields}
    known |= {f"device.{one.name}" for one in health.DeviceIdentifier.DESCRIPTOR.fields}
    assert names <= known
    with stage(DRIVERS[0], "v1alpha1.DRAResourceHealth") as on, running(on.places):
        eventually(on.kubelet.registration_socket.exists)
        with on.kubelet.health() as lists:
            ours = MessageToDict(next(lists), preserving_proto_field_name=True)["devices"]
    assert [one["device"] for one in ours] == [one["device"] for one in recorded[0]]
