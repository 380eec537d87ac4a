"""The plugin as the process that a DaemonSet starts, with the kubelet played by the test."""

from __future__ import annotations

import random
import signal
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest

from hack.lab.processes import Daemon
from hack.lab.processes import running as process
from plugin.pb.probes import health_pb2 as probes
from plugin.places import Places
from plugin.sockets import answers
from tests.unit.plugin.stand import (
    DRIVER,
    NODE,
    SERVICES,
    Agent,
    Kubelet,
    entry,
    eventually,
    places_at,
    tell_server,
    uid,
)
from tests.unit.plugin.test_registering import is_registered


@pytest.fixture
def places() -> Iterator[Places]:
    with tempfile.TemporaryDirectory(prefix="gpu-") as root:
        yield places_at(Path(root))


@pytest.fixture
def agent(places: Places) -> Iterator[Agent]:
    agent = Agent(places)
    tell_server(places, SERVICES)
    with agent.at_work():
        yield agent


@contextmanager
def plugin(places: Places, *words: str, **environment: str) -> Iterator[Daemon]:
    command = ("plugin", "--node-name", NODE, *words)
    where = {
        "RUN_DIR": str(places.run),
        "PROCFS_ROOT": str(places.procfs),
        "KUBELET_ROOT": str(places.kubelet),
    }
    with process(command, {**where, **environment}, places.run.parent / "plugin.log") as daemon:
        yield daemon


def test_from_start_to_end(places: Places, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    kubelet = Kubelet(places)
    with plugin(places) as daemon:
        assert kubelet.register().name == DRIVER
        assert kubelet.prepare(uid(1))[uid(1)].devices
        assert daemon.end() == 0
    assert list(places.registry_dir.iterdir()) == []
    assert not is_registered(places)
    assert agent.marks().keys() == {uid(1)}, "the pod is still there"
    assert "registered with the kubelet" in daemon.log
    assert "ERROR" not in daemon.log


def test_the_end_waits_for_calls_under_way(places: Places, agent: Agent) -> None:
    kubelet = Kubelet(places)
    answers = []
    with plugin(places) as daemon:
        kubelet.register()
        waiting = threading.Thread(target=lambda: answers.append(kubelet.prepare(uid(1))))
        waiting.start()
        eventually(lambda: uid(1) in agent.marks())
        daemon.process.send_signal(signal.SIGTERM)
        eventually(lambda: not kubelet.registration_socket.exists())
        agent.set(entry(uid(1)))
        assert daemon.process.wait(20) == 0
        waiting.join()
    assert answers[0][uid(1)].devices


def test_a_killed_plugin_leaves_no_sign_and_its_successor_finds_the_marks(places: Places, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    kubelet = Kubelet(places)
    with plugin(places) as daemon:
        kubelet.register()
        kubelet.prepare(uid(1))
        mark = agent.marks()[uid(1)]
        assert is_registered(places)
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        assert not is_registered(places)
    assert kubelet.registration_socket.exists()
    assert not answers(kubelet.registration_socket)
    with plugin(places):
        eventually(lambda: answers(kubelet.registration_socket))
        kubelet.register()
        assert kubelet.prepare(uid(1))[uid(1)].devices
        assert agent.marks()[uid(1)] == mark
        assert kubelet.unprepare(uid(1)) == {uid(1): ""}


@pytest.mark.slow
def test_killed_again_and_again_under_load(places: Places, agent: Agent) -> None:
    """A kubelet that repeats what failed gets every claim prepared and given back, and nothing stays behind."""
    names = [uid(number) for number in range(6)]
    agent.set(*(entry(name) for name in names))
    kubelet = Kubelet(places)
    rounds: dict[str, int] = dict.fromkeys(names, 0)
    killing = threading.Event()
    killing.set()

    def pod(name: str) -> None:
        while killing.is_set():
            if once(lambda: bool(kubelet.prepare(name, timeout=5)[name].devices)):
                assert name in agent.marks()
                rounds[name] += 1
            while not once(lambda: kubelet.unprepare(name, timeout=5) == {name: ""}):
                pass

    def everybody_was_served(before: dict[str, int]) -> bool:
        return all(rounds[name] > before[name] for name in names)

    pods = [threading.Thread(target=pod, args=(name,)) for name in names]
    chance = random.Random(5)
    for thread in pods:
        thread.start()
    for _ in range(6):
        with plugin(places) as daemon:
            eventually(partial(everybody_was_served, dict(rounds)))
            threading.Event().wait(chance.random() * 0.05)
            daemon.end(signal.SIGKILL)
    with plugin(places):
        killing.clear()
        for thread in pods:
            thread.join(30)
            assert not thread.is_alive()
    assert agent.marks() == {}


def once(call: Callable[[], bool]) -> bool:
    """Whether it went well; where there is no plugin it didn't."""
    try:
        return call()
    except grpc.RpcError:
        return False


def test_two_pods_during_an_update(places: Places, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    with plugin(places, "--rolling", POD_UID="aaaaaaaa-0000-4000-8000-000000000001") as old:
        before = Kubelet(places, instance="aaaaaaaa")
        before.register()
        before.prepare(uid(1))
        with plugin(places, "--rolling", POD_UID="bbbbbbbb-0000-4000-8000-000000000002"):
            after = Kubelet(places, instance="bbbbbbbb")
            after.register()
            assert old.end() == 0
            assert is_registered(places)
            assert after.unprepare(uid(1)) == {uid(1): ""}


def test_probes(places: Places) -> None:
    agent = Agent(places)
    tell_server(places, SERVICES)
    port = "18479"
    with (
        plugin(places, "--probes-listen", f"127.0.0.1:{port}"),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")

        def answer(part: str) -> int:
            request = probes.HealthCheckRequest(service=part).SerializeToString()
            return probes.HealthCheckResponse.FromString(ask(request, timeout=10, wait_for_ready=True)).status

        assert answer("liveness") == probes.HealthCheckResponse.SERVING
        assert answer("readiness") == answer("") == probes.HealthCheckResponse.NOT_SERVING
        agent.step()
        Kubelet(places).register()
        assert answer("readiness") == answer("") == probes.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as refused:
            answer("other")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_metrics(places: Places, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    with plugin(places, "--metrics-listen", "127.0.0.1:18478"):
        kubelet = Kubelet(places)
        kubelet.register()
        kubelet.prepare(uid(1), uid(2), timeout=3.3)
        kubelet.unprepare(uid(1))
        with urllib.request.urlopen("http://127.0.0.1:18478/metrics", timeout=10) as answer:
            text = answer.read().decode()
    for line in (
        'gpu_plugin_prepared_claims_total{result="prepared",service="v1"} 1.0',
        'gpu_plugin_prepared_claims_total{result="failed",service="v1"} 1.0',
        'gpu_plugin_unprepared_claims_total{result="given back",service="v1"} 1.0',
        'gpu_plugin_prepare_seconds_count{service="v1"} 1.0',
        f'gpu_plugin_registered{{driver="{DRIVER}"}} 1.0',
    ):
        assert line in text


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (("--rolling",), {"POD_UID": "../x"}, "--rolling: POD_UID is '../x' (allowed: a pod's UID)"),
        (("--rolling",), {"POD_UID": ""}, "--rolling: POD_UID is ''"),
        ((), {"PROCFS_ROOT": "/nowhere"}, "/nowhere/sys/kernel/random/boot_id"),
        (("--probes-listen", "192.0.2.1:1"), {}, "--probes-listen or --metrics-listen: "),
    ],
)
def test_what_keeps_it_from_starting_is_said(
    places: Places, words: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    with plugin(places, *words, **environment) as daemon:
        assert daemon.process.wait(20) == 1
    assert said in daemon.log
    assert "Traceback" not in daemon.log
