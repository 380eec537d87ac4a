"""What the kubelet hears of the health of devices."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from plugin.agent_status import Seen
from plugin.confirming import Node
from plugin.health import LONGEST_MESSAGE, Health, device_healths
from plugin.health_feed import MOST_STREAMS
from plugin.pb.health.v1alpha1 import health_pb2 as pb
from plugin.places import Places
from state.records import AppliedDevice
from state.status import AllocationStatus, DeviceStatus, NodeStatus, SicknessStatus, StatusFile
from tests.unit.plugin.stand import BOOT, NODE, PF, Agent, Kubelet, entry, gpu, running, tell_server, uid

NOW = datetime(2026, 5, 1, tzinfo=UTC)
GONE = "0000-c3-00-0-0x56c0"
NODE_HERE = Node(pool=NODE, boot_id=BOOT)


def seen(*gpus: DeviceStatus, claims: tuple[AllocationStatus, ...] = (), age: float = 0, boot: str = BOOT) -> Seen:
    status = NodeStatus(boot_id=boot, version="test", devices=gpus, allocations=claims)
    file = StatusFile(written_at=NOW - timedelta(seconds=age), boot_id=boot, status=status)
    return Seen(number=1, file=file, claims={one.name: one for one in claims})


def healths(seen: Seen | None) -> dict[str, tuple[Health, str]]:
    found = device_healths(seen, NODE_HERE, NOW)
    assert all(one.pool == NODE for one in found)
    assert [one.device for one in found] == sorted({one.device for one in found})
    return {one.device: (one.health, one.message) for one in found}


def test_each_gpu_and_each_part_of_one_that_is_allocated() -> None:
    claim = entry(
        uid(1),
        devices=(
            AppliedDevice(device=f"{PF}-m4-vf3", request="r", share_id="s"),
            AppliedDevice(device=f"{PF}-m4-vf4", request="r", share_id="t"),
            AppliedDevice(device=f"{GONE}-monitor", request="m"),
        ),
    )
    sick = gpu(health="Unhealthy", sickness=(SicknessStatus(cause="Wedged", message="the driver gave up"),))
    assert healths(seen(sick, claims=(claim,))) == {
        PF: (Health.UNHEALTHY, "Wedged: the driver gave up"),
        f"{PF}-m4": (Health.UNHEALTHY, "Wedged: the driver gave up"),
        f"{GONE}-monitor": (Health.UNHEALTHY, f"the node has no GPU {GONE} any more"),
    }


@pytest.mark.parametrize(
    ("word", "health"),
    [
        ("Healthy", Health.HEALTHY),
        ("Unhealthy", Health.UNHEALTHY),
        ("Unknown", Health.UNKNOWN),
        ("Of a newer release", Health.UNKNOWN),
    ],
)
def test_words_and_numbers(word: str, health: Health) -> None:
    assert healths(seen(gpu(health=word))) == {PF: (health, "")}


@pytest.mark.parametrize(("age", "known"), [(29, True), (30, True), (31, False)])
def test_a_silent_agent_knows_nothing_any_more(age: float, known: bool) -> None:
    ((health, message),) = healths(seen(gpu(), age=age)).values()
    assert (health is Health.HEALTHY) == known
    assert message == ("" if known else "the node agent has not written status for 30 s")


def test_before_there_is_a_status_of_this_boot_nothing_is_said() -> None:
    assert healths(None) == healths(seen(gpu(), boot="other")) == {}


def test_a_message_is_as_long_as_the_kubelet_takes_it() -> None:
    sick = gpu(health="Unhealthy", sickness=(SicknessStatus(cause="Wedged", message="ü" * 2000),))
    ((_, message),) = healths(seen(sick)).values()
    assert LONGEST_MESSAGE - 2 < len(message.encode()) <= LONGEST_MESSAGE
    assert message.endswith("ü")


def test_numbers_are_those_of_the_wire() -> None:
    assert {one.name: one.value for one in Health} == dict(pb.HealthStatus.items())


@pytest.mark.parametrize("version", ["v1", "v1alpha1"])
def test_a_change_is_told_at_once(places: Places, agent: Agent, version: str) -> None:
    tell_server(places, ("v1.DRAPlugin", f"{version}.DRAResourceHealth"))
    with running(places):
        kubelet = Kubelet(places)
        kubelet.register()
        with kubelet.health(version) as lists:
            (device,) = next(lists).devices
            assert (device.device.pool_name, device.device.device_name) == (NODE, PF)
            assert device.health == pb.HEALTHY
            assert device.health_check_timeout_seconds == 30
            agent.gpus = (gpu(health="Unhealthy"),)
            assert [one.health for one in next(lists).devices] == [pb.UNHEALTHY]
            agent.set(entry(uid(1), devices=(AppliedDevice(device=f"{PF}-m4-vf0", request="r"),)))
            assert [one.device.device_name for one in next(lists).devices] == [PF, f"{PF}-m4-vf0"]


def test_listeners_are_limited_and_their_places_are_given_back(kubelet: Kubelet) -> None:
    for _ in range(2):
        with contextlib.ExitStack() as streams:
            for _ in range(MOST_STREAMS):
                next(streams.enter_context(kubelet.health()))
            with kubelet.health() as one_more, pytest.raises(grpc.RpcError) as refused:
                next(one_more)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
