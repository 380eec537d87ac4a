"""When and how the kubelet finds us, and how it loses us."""

import fcntl
import os
import shutil
import socket
import stat
import threading
from pathlib import Path

import grpc
import pytest

from plugin import plugin_metrics
from plugin.agent_status import AgentStatus
from plugin.clock import Clock
from plugin.confirming import Node
from plugin.driver import Driver
from plugin.health_feed import HealthFeed
from plugin.marks import Marks
from plugin.node_calls import NodeCalls
from plugin.offering import Offering
from plugin.places import Places
from plugin.preparing import Preparations
from plugin.server_file import ServerFile
from plugin.services import SERVICES as ALL_SERVICES
from plugin.services import Offer, Service
from reconciler.runtime.metrics import NoMetrics
from reconciler.runtime.watching import FileWatcher, Interest
from state.server_info import STRING_FORM
from tests.unit.plugin.stand import (
    BOOT,
    DRIVER,
    NODE,
    SERVICES,
    Agent,
    Kubelet,
    entry,
    eventually,
    running,
    tell_server,
    uid,
)


def is_registered(places: Places, driver: str = DRIVER) -> bool:
    """What the node agent does to find out: the lock is held by somebody if it can't be had alone."""
    with open(places.registered_lock(driver), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def wipe(places: Places, name: str) -> None:
    """Remove a directory of the kubelet's all at once, before anything can be put back into it."""
    (places.kubelet / name).rename(places.kubelet / "gone")
    shutil.rmtree(places.kubelet / "gone")


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_registers_once_the_agent_and_the_server_are_known(places: Places) -> None:
    kubelet, agent = Kubelet(places), Agent(places)
    with running(places) as plugin:
        agent.step()
        tell_server(places)
        info = kubelet.register()
        assert (info.type, info.name) == ("DRAPlugin", DRIVER)
        assert info.endpoint == str(kubelet.dra_socket)
        assert tuple(info.supported_versions) == SERVICES
        eventually(plugin.ready)


@pytest.mark.parametrize("missing", ["agent", "server", "both"])
def test_while_one_of_them_is_unknown_nothing_is_offered(places: Places, missing: str) -> None:
    if missing == "server":
        Agent(places).step()
    if missing == "agent":
        tell_server(places)
    status = AgentStatus(places.status_file, lambda seen: None)
    status.refresh()
    node = Node(pool=NODE, boot_id=BOOT)
    calls = NodeCalls(
        Preparations(node, Marks(places.marks_dir), status, Clock(), lambda: "nonce"),
        NoMetrics(plugin_metrics.DECLARED),
    )
    made: list[str] = []

    def make(name: str, services: tuple[Service, ...]) -> Driver:
        made.append(name)
        raise AssertionError(f"{name} is offered")

    offer = Offer(calls=calls, health=HealthFeed(status, node, Clock()))
    offering = Offering(offer, status, ServerFile(places.server_file), make, made.append, grace=0)
    assert offering.step()
    assert not offering.ready
    assert made == []


def test_only_what_is_asked_for_and_can_be_served_is_offered(places: Places, agent: Agent) -> None:
    tell_server(places, ("v1alpha1.DRAResourceHealth", "v9.DRAPlugin", "v1beta1.DRAPlugin"))
    agent.set(entry(uid(1)))
    with running(places):
        kubelet = Kubelet(places)
        info = kubelet.register()
        assert tuple(info.supported_versions) == ("v1beta1.DRAPlugin", "v1alpha1.DRAResourceHealth")
        assert kubelet.prepare(uid(1), version="v1beta1")[uid(1)].devices
        with pytest.raises(grpc.RpcError) as refused:
            kubelet.prepare(uid(1))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_all_that_can_be_served(places: Places, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    names = {service.name for service in ALL_SERVICES} - {STRING_FORM}
    tell_server(places, tuple(sorted(names)))
    with running(places):
        kubelet = Kubelet(places)
        assert list(kubelet.register().supported_versions) == [
            "v1.DRAPlugin",
            "v1beta1.DRAPlugin",
            "v1alpha3.NodeService",
            "1.0.0",
            "v1.DRAResourceHealth",
            "v1alpha1.DRAResourceHealth",
        ]
        for version in ("v1", "v1beta1", "v1alpha3"):
            assert kubelet.prepare(uid(1), version=version)[uid(1)].devices
            assert kubelet.unprepare(uid(1), version=version) == {uid(1): ""}


def test_a_server_file_that_makes_no_sense_is_waited_out(
    places: Places, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    places.server_file.write_text('{"formatVersion":1,"row":"v1","driverNames":["../x"],"grpcServices":{}}')
    with running(places):
        eventually(lambda: "can't use" in caplog.text)
        tell_server(places)
        Kubelet(places).register()


def test_sockets_are_for_root_alone(kubelet: Kubelet) -> None:
    for path in (kubelet.registration_socket, kubelet.dra_socket):
        assert permissions(path) == 0o600
    assert permissions(kubelet.dra_socket.parent) == 0o700


def test_the_sign_is_shown_while_the_kubelet_has_us_registered(places: Places, agent: Agent) -> None:
    tell_server(places)
    with running(places) as plugin:
        kubelet = Kubelet(places)
        eventually(kubelet.registration_socket.exists)
        kubelet.get_info()
        assert not is_registered(places)
        kubelet.notify(True)
        assert is_registered(places)
        assert "registered" in places.registered_lock(DRIVER).read_text()
        kubelet.notify(False, "no")
        assert not is_registered(places)
        assert not plugin.ready()
        kubelet.notify(True)
        assert is_registered(places)
    assert not is_registered(places)
    assert "no longer registered" in places.registered_lock(DRIVER).read_text()


def test_whoever_looks_at_the_sign_does_not_keep_it_from_being_shown(places: Places, agent: Agent) -> None:
    tell_server(places)
    with running(places):
        kubelet = Kubelet(places)
        eventually(kubelet.registration_socket.exists)
        with open(places.registered_lock(DRIVER), "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            let_go = threading.Timer(0.1, fcntl.flock, (file, fcntl.LOCK_UN))
            let_go.start()
            kubelet.notify(True)
            let_go.join()
        assert is_registered(places)


@pytest.mark.parametrize("wiped", ["plugins_registry", "plugins", "both", "socket"])
def test_sockets_come_back_when_the_kubelet_clears_its_directories(
    places: Places, kubelet: Kubelet, agent: Agent, wiped: str
) -> None:
    agent.set(entry(uid(1)))
    if wiped == "socket":
        kubelet.registration_socket.unlink()
    else:
        for name in ("plugins_registry", "plugins") if wiped == "both" else (wiped,):
            wipe(places, name)
    eventually(lambda: kubelet.registration_socket.exists() and kubelet.dra_socket.exists())
    kubelet.register()
    assert kubelet.prepare(uid(1))[uid(1)].devices


def test_a_health_stream_does_not_hold_up_new_sockets(places: Places, agent: Agent) -> None:
    """It never ends by itself; with the old socket it has the grace to do so, and the kubelet opens another."""
    tell_server(places)
    with running(places, grace=1.0):
        kubelet = Kubelet(places)
        kubelet.register()
        with kubelet.health() as lists:
            next(lists)
            for path in (kubelet.registration_socket, kubelet.dra_socket):
                path.unlink()
            eventually(lambda: kubelet.registration_socket.exists() and kubelet.dra_socket.exists())
            with pytest.raises(grpc.RpcError):
                for _ in lists:
                    pass
        kubelet.register()
        with kubelet.health() as lists:
            next(lists)


def test_a_call_under_way_outlives_its_socket(places: Places, kubelet: Kubelet, agent: Agent) -> None:
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(kubelet.prepare(uid(1))))
    waiting.start()
    eventually(lambda: uid(1) in agent.marks())
    wipe(places, "plugins")
    eventually(kubelet.dra_socket.exists)
    agent.set(entry(uid(1)))
    waiting.join()
    assert answers[0][uid(1)].devices


def test_the_end_withdraws_us_and_finishes_calls(places: Places, agent: Agent) -> None:
    tell_server(places)
    kubelet = Kubelet(places)
    answers = []
    with running(places):
        kubelet.register()
        waiting = threading.Thread(target=lambda: answers.append(kubelet.prepare(uid(1))))
        waiting.start()
        eventually(lambda: uid(1) in agent.marks())
        ready = threading.Timer(0.3, agent.set, (entry(uid(1)),))
        ready.start()
    waiting.join()
    ready.join()
    assert answers[0][uid(1)].devices
    assert list(places.registry_dir.iterdir()) == []
    assert list(places.plugin_dir(DRIVER).iterdir()) == []


def test_what_killed_plugins_left_is_cleared(places: Places, agent: Agent) -> None:
    places.plugin_dir(DRIVER).mkdir()
    dead = [
        places.registry_dir / f"{DRIVER}-reg.sock",
        places.registry_dir / f"{DRIVER}-0f0f0f0f-reg.sock",
        places.registry_dir / f".{DRIVER}-reg.sock",
        places.registry_dir / "gpu.dra.intel.com-reg.sock",  # of this node before its cluster was upgraded
        places.plugin_dir(DRIVER) / "dra.sock",
    ]
    foreign = places.registry_dir / "other.example.com-reg.sock"
    for path in (*dead, foreign):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    (places.registry_dir / f"{DRIVER}.txt").touch()
    tell_server(places)
    with running(places, instance="12345678-0000"):
        Kubelet(places, instance="12345678-0000").register()
        found = {path.name for path in places.registry_dir.iterdir()}
        assert found == {f"{DRIVER}-12345678-reg.sock", f"{DRIVER}.txt", "other.example.com-reg.sock"}


def test_two_plugins_overlap_during_an_update(places: Places, agent: Agent) -> None:
    """The kubelet gives everything to the newer one; the claims of the older one are no strangers to it."""
    tell_server(places)
    agent.set(entry(uid(1)), entry(uid(2)))
    old, new = (Kubelet(places, instance=name) for name in ("aaaaaaaa-1", "bbbbbbbb-2"))
    with running(places, "bbbbbbbb-2"):
        with running(places, "aaaaaaaa-1"):
            old.register()
            old.prepare(uid(1))
            new.register()
            assert new.prepare(uid(1), uid(2))[uid(1)].devices
            assert old.unprepare(uid(1)) == {uid(1): ""}
            assert agent.marks().keys() == {uid(2)}
        assert is_registered(places)
        assert not old.registration_socket.exists()
        assert new.prepare(uid(1))[uid(1)].devices


def test_a_second_plugin_in_the_same_place_takes_over(places: Places, kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    before = kubelet.registration_socket.stat().st_ino
    with running(places):
        eventually(lambda: kubelet.registration_socket.stat().st_ino != before)
        kubelet.register()
        assert kubelet.prepare(uid(1))[uid(1)].devices
    # The first one, which lives on, is back as soon as it notices.
    eventually(kubelet.registration_socket.exists)
    kubelet.register()


def test_another_row_changes_what_is_registered(places: Places, kubelet: Kubelet, agent: Agent) -> None:
    agent.set(entry(uid(1)))
    tell_server(places, ("v1beta1.DRAPlugin",), "gpu.dra.intel.com", "gpu.resource.intel.com")
    for driver in ("gpu.dra.intel.com", "gpu.resource.intel.com"):
        other = Kubelet(places, driver=driver)
        assert tuple(other.register().supported_versions) == ("v1beta1.DRAPlugin",)
        assert other.prepare(uid(1), version="v1beta1")[uid(1)].devices
        assert is_registered(places, driver)
    assert not kubelet.registration_socket.exists()
    assert not is_registered(places)


def test_a_path_too_long_for_a_socket_is_said(
    places: Places, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    tell_server(places, SERVICES, ".".join(["abcdefghi"] * 6))
    deep = Places(run=places.run, procfs=places.procfs, kubelet=places.kubelet / ("x" * 60))
    with running(deep):
        eventually(lambda: "longer than the 107 bytes that a socket may have" in caplog.text)


def test_a_driver_that_cannot_be_served_does_not_keep_the_other_from_it(
    places: Places, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    (places.kubelet / "plugins" / "a.example.com").write_text("in the way")
    tell_server(places, SERVICES, "a.example.com", "b.example.com")
    with running(places) as plugin:
        Kubelet(places, driver="b.example.com").register()
        eventually(lambda: "can't serve the kubelet" in caplog.text)
        assert not plugin.ready()
        (places.kubelet / "plugins" / "a.example.com").unlink()
        Kubelet(places, driver="a.example.com").register()
        eventually(plugin.ready)


def test_directories_that_cannot_be_written_are_tried_again(
    places: Places, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(places.registry_dir)
    places.registry_dir.write_text("in the way")
    tell_server(places)
    with running(places):
        eventually(lambda: "can't serve the kubelet" in caplog.text)
        assert str(places.registry_dir) in caplog.text
        os.unlink(places.registry_dir)
        Kubelet(places).register()


def test_the_sign_comes_back_when_its_file_is_removed(places: Places, kubelet: Kubelet) -> None:
    """Whoever clears the run directory makes the sign unseen: the next look at the sockets puts it up again."""
    places.registered_lock(DRIVER).unlink()
    assert not is_registered(places)
    places.registered_lock(DRIVER).unlink()
    (places.registry_dir / "wake").touch()
    eventually(lambda: places.registered_lock(DRIVER).exists() and is_registered(places))


def test_putting_up_and_taking_down_the_sign_wakes_whoever_watches(places: Places, agent: Agent) -> None:
    heard = threading.Event()
    names = frozenset({f"registered-{DRIVER}"})
    watcher = FileWatcher((Interest(directory=places.lock_dir, names=names, wake=heard.set),))
    assert watcher.check()
    tell_server(places)
    with running(places):
        kubelet = Kubelet(places)
        for registered in (True, True, False, True):
            eventually(kubelet.registration_socket.exists)
            heard.clear()
            kubelet.notify(registered)
            assert heard.wait(10)
        heard.clear()
    assert heard.wait(10)
    watcher.stop()
