"""Calls that a kubelet of 1.26 was seen to make, and those of 1.27 to 1.31, made to our plugin on real sockets.

The node agent is played by this test: it has those claims Ready that the recorded driver prepared. Two drivers are
registered by one plugin, as the classic rows of server.json want it.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from plugin.claims import Answer, NotPrepared
from plugin.node_calls import LONGEST_WAIT, MARGIN
from plugin.pb.dra.v1 import api_pb2 as v1
from plugin.pb.dra.v1alpha1 import api_pb2 as v1alpha1
from plugin.pb.dra.v1alpha3 import api_pb2 as v1alpha3
from plugin.pb.pluginregistration import registration_pb2 as registration
from plugin.places import Places
from plugin.preparing import Preparations
from reconciler.runtime.files import write_atomic
from state.records import AppliedDevice
from state.server_info import encode_server_info
from state.server_rows import SERVER_ROWS
from state.status import AllocationStatus
from tests.contract_files import copied_paths, read_text
from tests.unit.plugin.stand import Agent, Kubelet, entry, eventually, places_at, running, uid

FILES = [path for path in copied_paths() if path.startswith("recordings/old/") and path.endswith(".grpc.jsonl")]
DRIVERS = ("gpu.dra.intel.com", "gpu.resource.intel.com")
ROWS = {row.version: row for row in SERVER_ROWS if row.classic}
GENERIC = re.compile(r"v?(\d+)((?:\.\d+)+)")
HOPELESS = 3.2
"""A deadline in seconds for calls that can't succeed: it leaves 0.2 s to wait."""

ROUNDED = 1.02
"""By how much a client's gRPC library may say more than the deadline it was given."""

Line = dict[str, Any]


def lines_of(path: str) -> list[Line]:
    return [json.loads(line) for line in read_text(path).splitlines()][1:]


def calls_of(path: str) -> list[Line]:
    return [line for line in lines_of(path) if "requestHex" in line]


def accepted_by_1_26(versions: list[str]) -> bool:
    """The rule of kubelets up to 1.31: of what looks like a version the highest counts, and has to be a 1.x."""
    found = [
        tuple(map(int, f"{match[1]}{match[2]}".split(".")))
        for each in versions
        if (match := GENERIC.fullmatch(each)) is not None
    ]
    return bool(found) and max(found)[0] == 1


@dataclass(slots=True)
class Stage:
    """A kubelet, its calls, and what answers them."""

    places: Places
    agent: Agent
    kubelets: dict[str, Kubelet]

    @property
    def kubelet(self) -> Kubelet:
        return self.kubelets[DRIVERS[0]]

    def play(self, line: Line) -> None:
        """Make one recorded call, and judge the answer."""
        match line["method"].rpartition("/")[2]:
            case "GetInfo":
                answer = self.send(line["method"], bytes.fromhex(line["requestHex"]), 1.0, registering=True)
                info = registration.PluginInfo.FromString(answer)
                assert (info.type, info.name) == ("DRAPlugin", DRIVERS[0])
                assert info.endpoint == str(self.kubelet.dra_socket)
                assert list(info.supported_versions) == ["1.0.0"]
            case "NotifyRegistrationStatus":
                self.send(line["method"], bytes.fromhex(line["requestHex"]), 5.0, registering=True)
            case "NodePrepareResource":
                self._prepare(line)
            case "NodeUnprepareResource":
                answer = self.send(line["method"], bytes.fromhex(line["requestHex"]), None)
                assert answer == b"", "an empty message"
                assert line["request"]["claim_uid"] not in self.agent.marks()
            case other:
                raise AssertionError(f"{other}: not known here")

    def _prepare(self, line: Line) -> None:
        name = line["request"]["claim_uid"]
        given = line.get("response", {}).get("cdi_devices", [])
        if given:
            self.agent.set(ready(name, given))
            answer = self.send(line["method"], bytes.fromhex(line["requestHex"]), line["clientDeadlineSeconds"])
            assert answer == bytes.fromhex(line["responseHex"])
            assert self.agent.marks()[name].grpc_version == "v1alpha1"
            return
        # An error, or an empty success after which the kubelet never asked again: that must never come from us.
        self.agent.forget(name)
        with pytest.raises(grpc.RpcError) as refused:
            self.send(line["method"], bytes.fromhex(line["requestHex"]), HOPELESS)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        claim = f"claim {line['request']['namespace']}/{line['request']['claim_name']}: "
        assert (
            refused.value.details() == f"{claim}the node has no entry for this claim; is the controller running?"
        )

    def send(
        self,
        method: str,
        request: bytes,
        timeout: float | None,
        *,
        driver: str = DRIVERS[0],
        registering: bool = False,
    ) -> bytes:
        kubelet = self.kubelets[driver]
        socket = kubelet.registration_socket if registering else kubelet.dra_socket
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            return ask(request, timeout=timeout)

    def ask(self, method: str, request: Message, timeout: float | None = 20.0, driver: str = DRIVERS[0]) -> bytes:
        return self.send(method, request.SerializeToString(), timeout, driver=driver)


def ready(name: str, cdi_devices: list[str]) -> AllocationStatus:
    """The status entry of a claim with the CDI devices that the recorded driver gave it."""
    devices = tuple(AppliedDevice(device=f"0000-03-00-{number}-0x56c0") for number in range(len(cdi_devices)))
    return entry(name, devices=devices, cdi_devices=tuple(cdi_devices))


@contextlib.contextmanager
def empty_stage(row: str = "v1alpha1") -> Iterator[Stage]:
    """All but the plugin."""
    with tempfile.TemporaryDirectory(prefix="gpu-") as root:
        places = places_at(Path(root))
        info = ROWS[row].info("gpu.intel.com")
        assert info.driver_names == DRIVERS
        write_atomic(places.server_file, encode_server_info(info), durable=False)
        agent = Agent(places)
        with agent.at_work():
            yield Stage(places, agent, {name: Kubelet(places, driver=name) for name in DRIVERS})


@contextlib.contextmanager
def stage(row: str = "v1alpha1") -> Iterator[Stage]:
    """With a plugin that is registered for both drivers."""
    with empty_stage(row) as on, running(on.places) as plugin:
        for kubelet in on.kubelets.values():
            assert accepted_by_1_26(list(kubelet.register().supported_versions))
        eventually(plugin.ready)
        yield on


def prepare_1_26(name: str) -> v1alpha1.NodePrepareResourceRequest:
    return v1alpha1.NodePrepareResourceRequest(
        namespace="default", claim_uid=name, claim_name="c", resource_handle="{}"
    )


def _field_1(content: bytes) -> bytes:
    """A field of a message, as protobuf writes one that is short."""
    assert len(content) < 128
    return b"\x0a" + bytes([len(content)]) + content


def test_every_recording_is_played() -> None:
    assert len(FILES) == 10
    played = {line["method"] for path in FILES for line in calls_of(path)}
    assert played == {
        "/pluginregistration.Registration/GetInfo",
        "/pluginregistration.Registration/NotifyRegistrationStatus",
        "/v1alpha1.Node/NodePrepareResource",
        "/v1alpha1.Node/NodeUnprepareResource",
    }


def test_the_rule_for_versions_is_the_recorded_one() -> None:
    """It tells what became of each answer to GetInfo; that of second instances depends on the first."""
    judged = 0
    calls = [line for path in FILES for line in calls_of(path)]
    for told, heard in pairwise(calls):
        info = told.get("response", {})
        second = told.get("driverInstance", 1) != 1
        if heard["method"].endswith("NotifyRegistrationStatus") and info.get("type") == "DRAPlugin" and not second:
            accepted = heard["request"].get("plugin_registered", False)
            assert accepted_by_1_26(info.get("supported_versions", [])) == accepted
            judged += 1
    assert judged > 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: Path(path).name.partition(".")[0])
def test_the_plugin_answers_as_recorded(path: str) -> None:
    with stage() as on:
        for line in calls_of(path):
            on.play(line)


@pytest.mark.parametrize("name", ["i-restarts", "j-container-and-sandbox-restart"])
def test_a_plugin_that_was_restarted_before_each_call_answers_the_same(name: str) -> None:
    """Whatever it has to remember is in files."""
    with empty_stage() as on:
        for line in calls_of(f"recordings/old/{name}.grpc.jsonl"):
            with running(on.places):
                eventually(on.kubelet.registration_socket.exists)
                on.play(line)


def test_two_drivers_are_served_by_one_plugin() -> None:
    """Each on a socket and with a sign of its own; a claim is the same whoever of them is asked."""
    with stage() as on:
        first, second = uid(1), uid(2)
        on.agent.set(entry(first), entry(second))
        for name, driver in ((first, DRIVERS[0]), (second, DRIVERS[1])):
            answer = on.ask("/v1alpha1.Node/NodePrepareResource", prepare_1_26(name), driver=driver)
            given = v1alpha1.NodePrepareResourceResponse.FromString(answer)
            assert list(given.cdi_devices) == [f"intel.com/gpu=claim-{name}-0"]
            sign = on.places.registered_lock(driver)
            assert sign.read_text().startswith("registered")
        on.kubelets[DRIVERS[1]].notify(False, "go away")
        assert on.places.registered_lock(DRIVERS[1]).read_text().startswith("no longer registered")
        assert on.places.registered_lock(DRIVERS[0]).read_text().startswith("registered")
        assert on.agent.marks().keys() == {first, second}


def test_without_a_deadline_a_call_waits_until_the_devices_are_there() -> None:
    with stage() as on:
        answers: list[bytes] = []
        method = "/v1alpha1.Node/NodePrepareResource"
        asking = threading.Thread(target=lambda: answers.append(on.ask(method, prepare_1_26(uid(1)), None)))
        asking.start()
        eventually(lambda: uid(1) in on.agent.marks())
        assert answers == []
        on.agent.set(ready(uid(1), ["intel.com/gpu=one", "intel.com/gpu=two"]))
        asking.join()
        (answer,) = answers
        given = v1alpha1.NodePrepareResourceResponse.FromString(answer)
        assert list(given.cdi_devices) == ["intel.com/gpu=one", "intel.com/gpu=two"]


@pytest.mark.parametrize(
    ("deadline", "least", "most"),
    [(None, LONGEST_WAIT, LONGEST_WAIT), (10.0, 5.0, 10.0 * ROUNDED - MARGIN), (1.0, 0.0, 0.0)],
)
def test_how_long_a_call_may_wait(
    monkeypatch: pytest.MonkeyPatch, deadline: float | None, least: float, most: float
) -> None:
    """1.26 sets no deadline, 1.27 one of 10 s: the answer has to be there before."""
    allowed: list[float] = []

    def prepare(_: Preparations, uids: tuple[str, ...], version: str, seconds: float) -> dict[str, Answer]:
        allowed.append(seconds)
        return dict.fromkeys(uids, NotPrepared(why=f"{version} waits"))

    monkeypatch.setattr(Preparations, "prepare", prepare)
    with stage("v1alpha2") as on, pytest.raises(grpc.RpcError) as refused:
        on.ask("/v1alpha2.Node/NodePrepareResource", prepare_1_26(uid(1)), deadline)
    assert refused.value.details() == "claim default/c: v1alpha2 waits"
    (seconds,) = allowed
    assert least <= seconds <= most


def test_1_27_gives_its_resource_handle_back() -> None:
    """Its unprepare carries a string where that of 1.26 has a list, which is one of one on the wire."""
    with stage("v1alpha2") as on:
        on.agent.set(entry(uid(1)))
        answer = on.ask("/v1alpha2.Node/NodePrepareResource", prepare_1_26(uid(1)), 10.0)
        assert len(v1alpha1.NodePrepareResourceResponse.FromString(answer).cdi_devices) == 1
        assert on.agent.marks()[uid(1)].grpc_version == "v1alpha2"
        handed_back = v1alpha1.NodeUnprepareResourceRequest(claim_uid=uid(1), cdi_devices=['{"pf": "x"}'])
        # 1.30 adds a message as field 5, of no use to us.
        request = handed_back.SerializeToString() + b"\x2a\x02\x0a\x00"
        assert on.send("/v1alpha2.Node/NodeUnprepareResource", request, 10.0) == b""
        assert on.agent.marks() == {}


def test_1_28_to_1_30_get_strings() -> None:
    with stage("v1alpha2") as on:
        on.agent.set(ready(uid(1), ["intel.com/gpu=one", "intel.com/gpu=two"]))
        claims = [v1alpha3.Claim(uid=uid(number), resource_handle="{}") for number in (1, 2)]
        asked = v1alpha3.NodePrepareResourcesRequest(claims=claims)
        answer = on.ask("/v1alpha3.Node/NodePrepareResources", asked, HOPELESS)
        given = v1alpha3.NodePrepareResourcesResponse.FromString(answer).claims
        assert list(given[uid(1)].cdi_devices) == ["intel.com/gpu=one", "intel.com/gpu=two"]
        assert not given[uid(1)].error
        assert given[uid(2)].error == "the node has no entry for this claim; is the controller running?"
        assert not given[uid(2)].cdi_devices
        assert b"intel.com/gpu=one\x0a" in answer, "strings side by side, not in messages"
        # Field 5 of a claim came with 1.30: messages of no use to us.
        asked_back = b"".join(_field_1(claim.SerializeToString() + b"\x2a\x02\x0a\x00") for claim in claims)
        answer = on.send("/v1alpha3.Node/NodeUnprepareResources", asked_back, 20.0)
        left = v1alpha3.NodeUnprepareResourcesResponse.FromString(answer).claims
        assert {name: one.error for name, one in left.items()} == {uid(1): "", uid(2): ""}


def test_1_31_gets_messages_at_the_same_path() -> None:
    with stage("v1alpha3") as on:
        on.agent.set(ready(uid(1), ["intel.com/gpu=one", "intel.com/gpu=two"]))
        asked = v1.NodePrepareResourcesRequest(claims=[v1.Claim(uid=uid(1))])
        answer = on.ask("/v1alpha3.Node/NodePrepareResources", asked)
        claim = v1.NodePrepareResourcesResponse.FromString(answer).claims[uid(1)]
        assert [list(device.cdi_device_ids) for device in claim.devices] == [
            ["intel.com/gpu=one"],
            ["intel.com/gpu=two"],
        ]
        # A classic claim has no requests: such a device is for every container that uses the claim.
        assert [list(device.request_names) for device in claim.devices] == [[], []]


@pytest.mark.parametrize(
    ("row", "method"),
    [
        ("v1alpha1", "/v1alpha2.Node/NodePrepareResource"),
        ("v1alpha1", "/v1alpha3.Node/NodePrepareResources"),
        ("v1alpha2", "/v1alpha1.Node/NodePrepareResource"),
        ("v1alpha2", "/v1alpha3.Node/NodeListAndWatchResources"),
        ("v1alpha3", "/v1alpha2.Node/NodePrepareResource"),
        ("v1alpha3", "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"),
    ],
)
def test_what_is_of_another_row_is_not_there(row: str, method: str) -> None:
    """1.28 and 1.29 fall back to v1alpha2 by this code, and 1.30 goes without a list of resources."""
    with stage(row) as on, pytest.raises(grpc.RpcError) as refused:
        on.send(method, b"", HOPELESS)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
