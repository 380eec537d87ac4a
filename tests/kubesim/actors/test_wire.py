"""The kubelet's own protobuf against Google's, on messages the recordings have and on any other."""

import contextlib
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from kubesim.actors.kubelet import messages, wire
from kubesim.actors.kubelet.messages import ClaimName, DeviceHealth, Health, HealthBook, PluginInfo
from tests.kubesim.actors.replay import recording

TEXT = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
NUMBER = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
ONE = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
MANY = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def _message(name: str, *fields: tuple[str, int, Any, Any]) -> Any:
    """A message class made by Google's library, in a pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="test", syntax="proto3")
    made = file.message_type.add(name=name)
    for field, number, kind, label in fields:
        made.field.add(name=field, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}"))


INFO = _message(
    "Info", ("type", 1, TEXT, ONE), ("name", 2, TEXT, ONE), ("endpoint", 3, TEXT, ONE), ("versions", 4, TEXT, MANY)
)
CLAIM = _message("Claim", ("namespace", 1, TEXT, ONE), ("uid", 2, TEXT, ONE), ("name", 3, TEXT, ONE))
HEALTH = _message(
    "Health",
    ("health", 2, NUMBER, ONE),
    ("at", 3, NUMBER, ONE),
    ("timeout", 4, NUMBER, ONE),
    ("message", 5, TEXT, ONE),
)


@given(type=st.text(), name=st.text(), endpoint=st.text(), versions=st.lists(st.text()))
def test_plugin_info(type: str, name: str, endpoint: str, versions: list[str]) -> None:
    sent = INFO(type=type, name=name, endpoint=endpoint, versions=versions).SerializeToString()
    expected = PluginInfo(type=type, name=name, endpoint=endpoint, supported_versions=tuple(versions))
    assert PluginInfo.decode(sent) == expected


@given(namespace=st.text(), uid=st.text(), name=st.text())
def test_claims(namespace: str, uid: str, name: str) -> None:
    read = CLAIM.FromString(ClaimName(namespace=namespace, uid=uid, name=name).encode())
    assert (read.namespace, read.uid, read.name) == (namespace, uid, name)


@given(health=st.integers(0, 5), at=st.integers(0, 2**62), timeout=st.integers(0, 2**31), message=st.text())
def test_health(health: int, at: int, timeout: int, message: str) -> None:
    sent = HEALTH(health=health, at=at, timeout=timeout, message=message).SerializeToString()
    read = DeviceHealth.decode(sent)
    assert (read.timeout, read.message) == (timeout, message)
    assert read.health is (tuple(Health)[health] if health < 3 else Health.UNKNOWN)


@given(st.binary())
def test_anything_is_read_or_refused(data: bytes) -> None:
    for read in (messages.prepared, messages.unprepared, messages.health_list, PluginInfo.decode):
        with contextlib.suppress(wire.Malformed):
            read(data)


def test_the_recorded_answers_are_read_as_recorded() -> None:
    seen = 0
    for name in ("a-claim-template-lifecycle", "c-prepare-errors", "m-two-claims-subrequests", "k-device-health"):
        for line in recording(f"{name}.grpc.jsonl"):
            answer, method = line.get("response"), line.get("method", "")
            if not answer or "responseHex" not in line or "DRAPlugin" not in method:
                continue
            data = bytes.fromhex(line["responseHex"])
            if method.endswith("NodePrepareResources"):
                found = messages.prepared(data)
                assert {uid: _shown(each) for uid, each in found.items()} == answer["claims"]
            else:
                errors = {uid: each.get("error", "") for uid, each in answer["claims"].items()}
                assert messages.unprepared(data) == errors
            seen += 1
    assert seen > 10


def _shown(answer: messages.Prepared) -> dict[str, Any]:
    devices = [
        {
            "request_names": list(each.requests),
            "pool_name": each.pool,
            "device_name": each.device,
            "cdi_device_ids": list(each.cdi_ids),
        }
        for each in answer.devices
    ]
    return ({"devices": devices} if devices else {}) | ({"error": answer.error} if answer.error else {})


def test_what_was_said_of_a_device_counts_for_a_while() -> None:
    book = HealthBook()
    good = DeviceHealth(pool="p", device="d", health=Health.HEALTHY, timeout=0, message="fine")
    assert book.hear("driver", (good,), now=0.0, default_timeout=30.0)
    assert not book.hear("driver", (good,), now=1.0, default_timeout=30.0)
    assert book.of("driver", "p", "d", now=31.0) == (Health.HEALTHY, "fine")
    assert book.of("driver", "p", "d", now=31.1) == (Health.UNKNOWN, "")
    book.hear("driver", (), now=32.0, default_timeout=30.0)
    assert book.of("driver", "p", "d", now=32.0) == (Health.UNKNOWN, "")


@pytest.mark.parametrize(("seconds", "known"), [(10, True), (11, False)])
def test_a_driver_may_say_for_how_long(seconds: int, known: bool) -> None:
    book = HealthBook()
    said = DeviceHealth(pool="p", device="d", health=Health.HEALTHY, timeout=10, message="")
    book.hear("driver", (said,), now=0.0, default_timeout=30.0)
    assert (book.of("driver", "p", "d", now=seconds)[0] is Health.HEALTHY) == known
