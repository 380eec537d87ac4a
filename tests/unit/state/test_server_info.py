"""server.json, from the node agent to the plugin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.server_info import ServerInfo, ServerInfoError, decode_server_info, encode_server_info

GOOD = ServerInfo(
    row="v1",
    driver_names=("gpu.intel.com",),
    grpc_services={"gpu.intel.com": ("v1.DRAPlugin", "v1beta1.DRAPlugin")},
)


def test_what_is_written_is_read() -> None:
    assert decode_server_info(encode_server_info(GOOD)) == GOOD
    assert encode_server_info(GOOD) == (
        b'{"driverNames":["gpu.intel.com"],"formatVersion":1,'
        b'"grpcServices":{"gpu.intel.com":["v1.DRAPlugin","v1beta1.DRAPlugin"]},"row":"v1"}\n'
    )


def test_a_newer_field_does_no_harm() -> None:
    raw = encode_server_info(GOOD).replace(b'"row"', b'"news":{},"row"')
    assert decode_server_info(raw) == GOOD


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"formatVersion":1', '"formatVersion":2', "formatVersion is 2 (allowed: 1)"),
        ('"driverNames":["gpu.intel.com"]', '"driverNames":[]', "driverNames is empty"),
        ('"driverNames":["gpu.intel.com"]', '"driverNames":["../x"]', "driverNames"),
        ('"driverNames":["gpu.intel.com"]', '"driverNames":["gpu.intel.com\\n"]', "driverNames"),
        ('"driverNames":["gpu.intel.com"]', '"driverNames":["gpu.intel.com","gpu.intel.com"]', "one twice"),
        ('"driverNames":["gpu.intel.com"]', '"driverNames":["other"]', "grpcServices.other is missing or empty"),
        ('["v1.DRAPlugin","v1beta1.DRAPlugin"]', "[]", "grpcServices.gpu.intel.com is missing or empty"),
        ('["v1.DRAPlugin","v1beta1.DRAPlugin"]', '["v1/x"]', "grpcServices"),
        ('"row":"v1"', '"row":1', "$.row"),
        ('"row":"v1"', '"rows":"v1"', "row"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, said: str) -> None:
    raw = encode_server_info(GOOD).decode()
    assert old in raw
    with pytest.raises(ServerInfoError) as refused:
        decode_server_info(raw.replace(old, new).encode())
    assert said in str(refused.value)


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    with pytest.raises(ServerInfoError):
        decode_server_info(raw)


def test_nesting_without_end() -> None:
    with pytest.raises(ServerInfoError):
        decode_server_info(b'{"row":' + b"[" * 200_000)
