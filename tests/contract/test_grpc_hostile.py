"""Whatever comes in over the socket, an answer or an error goes out, and the plugin serves on."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.claims import MOST_CLAIMS
from plugin.pb.dra.v1 import api_pb2 as dra
from plugin.pb.dra.v1alpha1 import api_pb2 as single
from plugin.places import Places
from plugin.sockets import LARGEST_REQUEST
from state.server_info import STRING_FORM
from tests.unit.plugin.stand import SERVICES, Agent, Kubelet, entry, places_at, running, tell_server, uid

PREPARE = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"
UNPREPARE = "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources"
STRINGS = "/v1alpha3.Node/NodePrepareResources"
SINGLE = ("/v1alpha1.Node/NodePrepareResource", "/v1alpha2.Node/NodeUnprepareResource")
METHODS = (PREPARE, UNPREPARE, STRINGS, *SINGLE)
REFUSED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
HOPELESS = 3.0
"""A deadline in seconds that leaves no time to wait."""


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    with tempfile.TemporaryDirectory(prefix="gpu-") as root:
        yield places_at(Path(root))


@pytest.fixture(scope="module")
def kubelet(places: Places) -> Iterator[Kubelet]:
    agent = Agent(places)
    agent.step()
    tell_server(places, (*SERVICES, STRING_FORM, "v1alpha2.Node", "v1alpha1.Node"))
    with running(places):
        kubelet = Kubelet(places)
        kubelet.register()
        yield kubelet


def status_of(kubelet: Kubelet, method: str, request: bytes) -> grpc.StatusCode:
    try:
        kubelet.call(kubelet.dra_socket, method, request, HOPELESS)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


texts = st.text(max_size=80) | st.sampled_from(["..", "../../x", "a/b", uid(1), uid(2), "", "x" * 5000])
claims = st.builds(dra.Claim, namespace=texts, uid=texts, name=texts)
single_claims = st.builds(
    single.NodePrepareResourceRequest,
    namespace=texts,
    claim_uid=texts,
    claim_name=texts,
    resource_handle=texts,
)


@settings(max_examples=60)
@given(method=st.sampled_from(METHODS), request=st.binary(max_size=400))
def test_any_bytes(kubelet: Kubelet, places: Places, method: str, request: bytes) -> None:
    assert status_of(kubelet, method, request) in {*REFUSED, grpc.StatusCode.OK}


@settings(max_examples=40)
@given(method=st.sampled_from(SINGLE), asked=single_claims)
def test_any_single_claim(
    kubelet: Kubelet, places: Places, method: str, asked: single.NodePrepareResourceRequest
) -> None:
    """There the claim's own failure is one of the call; names of any kind and length may be in its text."""
    allowed = {*REFUSED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OK}
    assert status_of(kubelet, method, asked.SerializeToString()) in allowed
    assert all(path.parent == places.marks_dir for path in places.marks_dir.rglob("*"))


@settings(max_examples=60)
@given(method=st.sampled_from([PREPARE, UNPREPARE, STRINGS]), asked=st.lists(claims, max_size=5))
def test_any_claims(kubelet: Kubelet, places: Places, method: str, asked: list[dra.Claim]) -> None:
    request = dra.NodePrepareResourcesRequest(claims=asked).SerializeToString()
    assert status_of(kubelet, method, request) in {*REFUSED, grpc.StatusCode.OK}
    files = {path.relative_to(places.marks_dir) for path in places.marks_dir.rglob("*")}
    assert all(len(path.parts) == 1 and path.suffix == ".json" for path in files)


@settings(max_examples=30)
@given(data=st.data())
def test_a_good_request_with_bytes_changed(kubelet: Kubelet, data: st.DataObject) -> None:
    request = bytearray(dra.NodePrepareResourcesRequest(claims=[dra.Claim(uid=uid(3))] * 2).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        request[data.draw(st.integers(0, len(request) - 1))] = data.draw(st.integers(0, 255))
    assert status_of(kubelet, PREPARE, bytes(request)) in {*REFUSED, grpc.StatusCode.OK}


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        (MOST_CLAIMS, grpc.StatusCode.OK),
        (MOST_CLAIMS + 1, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_so_many_claims_and_no_more(kubelet: Kubelet, claims: int, code: grpc.StatusCode) -> None:
    asked = [dra.Claim(uid=uid(1000 + number)) for number in range(claims)]
    request = dra.NodePrepareResourcesRequest(claims=asked).SerializeToString()
    assert status_of(kubelet, UNPREPARE, request) is code


def test_a_request_that_is_too_long(kubelet: Kubelet) -> None:
    request = dra.NodePrepareResourcesRequest(claims=[dra.Claim(uid=uid(1), name="x" * LARGEST_REQUEST)])
    assert status_of(kubelet, PREPARE, request.SerializeToString()) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_bytes_that_are_no_grpc(kubelet: Kubelet) -> None:
    for path in (kubelet.dra_socket, kubelet.registration_socket):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\0" * 5000)
    assert kubelet.get_info().name == kubelet.driver


def test_a_client_that_goes_away_while_it_waits(kubelet: Kubelet) -> None:
    with grpc.insecure_channel(f"unix:{kubelet.dra_socket}") as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREPARE)
        request = dra.NodePrepareResourcesRequest(claims=[dra.Claim(uid=uid(4))]).SerializeToString()
        call = ask.future(request, timeout=HOPELESS)
        call.cancel()
    assert kubelet.unprepare(uid(4)) == {uid(4): ""}


def test_a_hundred_pods_at_once(kubelet: Kubelet, places: Places) -> None:
    """As after a node's reboot. Each has its answer; none waits for another."""
    agent = Agent(places)
    names = [uid(5000 + number) for number in range(100)]
    agent.set(*(entry(name) for name in names))
    answers: dict[str, bool] = {}

    def prepare(name: str) -> None:
        answers[name] = bool(kubelet.prepare(name)[name].devices)

    threads = [threading.Thread(target=prepare, args=(name,)) for name in names]
    with agent.at_work():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == dict.fromkeys(names, True)
    assert kubelet.unprepare(*names) == dict.fromkeys(names, "")
