"""The daemon as a process: files that change, signals, systemd, a second instance, metrics and logs."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.processes import Daemon, eventually
from reconciler.node.agent_metrics import DECLARED, PASSES
from state.status import NodeStatus, condition_of
from tests.e2e.namespaced import Node, gpu, manifest, phase, running

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ADDRESS = "0000:03:00.0"
FLEX = "0000-03-00-0-0x56c0"
VF0, VF1 = f"{FLEX}-m4-vf0", f"{FLEX}-m4-vf1"
NUMVFS = f"bus/pci/devices/{ADDRESS}/sriov_numvfs"
PORT = "9100"  # free: the network namespace is our own
SCRAPE = f"""
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:{PORT}/metrics", timeout=10).read().decode())
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path, "flex170") as machine:
        yield machine


# -- files -------------------------------------------------------------------------------------------------


def test_edits_of_the_file(node: Node) -> None:
    """Written in place, replaced as editors do, deleted, and broken."""
    with node.daemon():
        node.file.write_text(manifest({"in-place": VF0}))
        node.until_ready("in-place")
        node.want({"renamed": VF0})
        node.until_ready("renamed")
        node.file.unlink()
        status = node.until("stalled", lambda status: _stalled(status) != "")
        assert phase(status, "renamed") == "Ready", "the last good state stays in force"
        node.file.write_text("kind: Nonsense\n")
        node.until("stalled by its kind", lambda status: "kind" in _stalled(status))
        node.want({"again": VF0})
        assert _stalled(node.until_ready("again")) == ""


def test_a_config_map_is_swapped(node: Node) -> None:
    """A mounted ConfigMap changes by a link `..data` to a new directory; the file itself is a link into it."""

    def put(version: str, name: str) -> None:
        data = node.file.parent / version
        data.mkdir()
        (data / node.file.name).write_text(manifest({name: VF0}))
        swap = node.file.parent / "..data_tmp"
        swap.symlink_to(version)
        swap.rename(node.file.parent / "..data")

    node.file.unlink()
    put("..2026_01", "first")
    node.file.symlink_to(Path("..data", node.file.name))
    with node.daemon():
        node.until_ready("first")
        put("..2026_02", "second")
        node.until_ready("second")


def test_deleted_cdi_specs_come_back(node: Node) -> None:
    spec = node.where / "cdi/intel.com-gpu_alloc-a.json"
    with node.daemon():
        node.want({"a": VF0})
        node.until_ready("a")
        written = spec.read_bytes()
        spec.unlink()
        eventually("back", lambda: spec.exists() or None)
        assert spec.read_bytes() == written


def test_reading_files_wakes_nobody(node: Node) -> None:
    with node.daemon("--metrics-listen", PORT) as daemon:
        node.want({"a": VF0})
        node.until_ready("a")
        before = _passes(node)
        spec = node.where / "cdi/intel.com-gpu_alloc-a.json"
        for _ in range(100):
            assert node.file.read_bytes()
            assert spec.read_bytes()
            time.sleep(0.01)  # apart, so that no two would be one wake-up
        node.want({"b": VF0})  # written last, so that all passes caused by reading were run and counted
        node.until_ready("b")
        # Some for the new allocation, one each ten seconds to keep the status file fresh.
        assert _passes(node) - before < 30
        assert daemon.end() == 0


# -- signals -----------------------------------------------------------------------------------------------


def test_sighup_looks_everywhere(node: Node) -> None:
    with node.daemon("--uevents", "off") as daemon:
        node.until("with the GPU", lambda status: gpu(status, FLEX) is not None)
        node.poke(f"unplug {ADDRESS}")
        daemon.process.send_signal(signal.SIGHUP)
        node.until("without the GPU", lambda status: gpu(status, FLEX) is None)
        assert daemon.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_idle_and_leaves_all_as_it_is(node: Node, number: signal.Signals) -> None:
    with node.daemon() as daemon:
        node.want({"a": VF0})
        node.until_ready("a")
        assert daemon.end(number) == 0
        assert node.sysfs(NUMVFS).read_text() == "4\n"
        assert (node.where / "cdi/intel.com-gpu_alloc-a.json").exists()
    with node.daemon(name="next") as after_it:
        node.want({"a": VF0, "b": VF1})
        node.until_ready("a", "b")
        assert after_it.end() == 0
        (done,) = re.findall(r"done: .*", after_it.log)
        assert done.startswith("done: write CDI spec intel.com-gpu_alloc-b.json"), "the rest was there"


def test_a_kernel_write_under_way_is_waited_for(node: Node) -> None:
    node.poke("fault on: write, path: '*/sriov_numvfs', delay: 2, count: 1")
    with node.daemon() as daemon:
        node.want({"a": VF0})
        eventually("writing", lambda: _writes_to(daemon, "sriov_numvfs") or None, lambda: daemon.log)
        assert daemon.end() == 0
        assert f"waiting for the kernel: {FLEX}: " in daemon.log
        assert "done: enable 4 VFs" in daemon.log
        assert node.sysfs(NUMVFS).read_text() == "4\n"
        assert [*(node.where / "cdi").iterdir()] == [], "nothing new was begun"
    with node.daemon(name="next") as after_it:
        node.until_ready("a")
        assert "VFs" not in "".join(line for line in after_it.log.splitlines() if "done:" in line), "they are ours"


# -- systemd -----------------------------------------------------------------------------------------------


def test_what_systemd_is_told(node: Node) -> None:
    path = node.where / "notify.sock"
    with _notify_socket(path) as told, node.daemon(NOTIFY_SOCKET=str(path)) as daemon:
        ready = told.recv(4096).decode().splitlines()
        assert ready == ["READY=1", f"STATUS=following {node.file}"]
        daemon.process.send_signal(signal.SIGHUP)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[0-9]+", told.recv(4096).decode())
        assert told.recv(4096).decode().splitlines() == ready
        assert daemon.end() == 0
        assert told.recv(4096) == b"STOPPING=1"


# -- a second instance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_second_instance_takes_over(node: Node, number: signal.Signals) -> None:
    with node.daemon(name="first") as first, _notify_socket(node.where / "notify.sock") as told:
        node.until_ready()
        with node.daemon(name="second", NOTIFY_SOCKET=str(node.where / "notify.sock")) as second:
            second.until_logged("standing by")
            assert told.recv(4096).startswith(b"READY=1"), "who stands by is ready too"
            node.want({"a": VF0})
            node.until_ready("a")
            assert "a is Ready" in first.log
            assert "a is Ready" not in second.log
            first.end(number)
            second.until_logged("following")
            node.poke(f"unplug {ADDRESS}")
            node.until("without the GPU", lambda status: gpu(status, FLEX) is None)
            assert second.end() == 0


def test_who_stands_by_can_be_ended(node: Node) -> None:
    with node.daemon(name="first") as first:
        node.until_ready()
        with node.daemon(name="second") as second:
            second.until_logged("standing by")
            assert second.end() == 0
        node.want({"a": VF0})
        node.until_ready("a")
        assert first.end() == 0


# -- metrics and logs --------------------------------------------------------------------------------------


def test_metrics(node: Node) -> None:
    with node.daemon("--metrics-listen", PORT) as daemon:
        node.want({"a": VF0, "b": f"{FLEX}-m8-vf0"})
        node.until("one of two", lambda status: (phase(status, "a"), phase(status, "b")) == ("Ready", "Refused"))
        scraped = _scrape(node)
        assert daemon.end() == 0
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scraped, re.MULTILINE))
    assert {name: types.get(name) for name in (one.name for one in DECLARED)} == {
        one.name: one.kind.value for one in DECLARED
    }
    for sample in (
        'gpu_reconciler_gpus{health="Healthy"} 1.0',
        'gpu_reconciler_allocations{phase="Ready"} 1.0',
        'gpu_reconciler_allocations{phase="Refused"} 1.0',
        f'gpu_reconciler_virtual_functions{{device="{FLEX}"}} 4.0',
        'gpu_reconciler_actions_total{kind="SetNumVfs",result="ok"} 1.0',
        "gpu_reconciler_drift 1.0",
    ):
        assert sample in scraped.splitlines()


def test_a_taken_metrics_port_is_told(node: Node) -> None:
    with node.daemon("--metrics-listen", f"127.0.0.1:{PORT}", name="first"):
        node.until_ready()
        with node.daemon("--metrics-listen", f"127.0.0.1:{PORT}", name="second") as second:
            assert second.process.wait(60) == 1
            assert PORT in second.log
            assert "Traceback" not in second.log


def test_logs_for_machines_name_device_and_claim(node: Node) -> None:
    with node.daemon("--log-format", "json") as daemon:
        node.want({"a": VF0})
        node.until_ready("a")
        node.want({"a": VF0}, paused=True)
        node.poke("write bus/pci/drivers/i915/unbind 0000:03:00.1")
        node.until("told to wait", lambda status: len(status.plan.blocked) > 0)
        node.poke("write bus/pci/drivers/i915/bind 0000:03:00.1")
        node.until_ready("a")
        node.want({})
        node.until_ready()
        assert daemon.end() == 0
        records = [json.loads(line) for line in daemon.log.splitlines()]
    assert all({"ts", "level", "logger", "message"} <= record.keys() for record in records)
    assert {record["device"] for record in records if "device" in record} == {FLEX}
    assert {record["claim"] for record in records if "claim" in record} == {"a"}
    assert any("has to wait" in record["message"] for record in records)
    done = [record["action"] for record in records if record["message"].startswith("done:")]
    assert done == ["SetVfProfile", "SetNumVfs", "WriteCdiSpec", "RemoveCdiSpec", "SetNumVfs", "ResetProvisioning"]


def _stalled(status: NodeStatus) -> str:
    """Why a person has to do something; empty if nobody has."""
    condition = condition_of(status, "Stalled")
    return condition.message if condition is not None and condition.status == "True" else ""


def _scrape(node: Node) -> str:
    done = node.run(sys.executable, "-c", SCRAPE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _passes(node: Node) -> int:
    found = re.search(rf'^{PASSES}{{result="ok"}} ([0-9.]+)$', _scrape(node), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def _writes_to(daemon: Daemon, attribute: str) -> bool:
    """The daemon has this attribute open for writing: it writes once, and closes it when that returns."""
    process = Path("/proc", str(daemon.process.pid))
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            flags = re.search(r"^flags:\s+(\d+)", (process / "fdinfo" / descriptor.name).read_text(), re.MULTILINE)
            writing = flags is not None and int(flags[1], 8) & os.O_ACCMODE == os.O_WRONLY
            if writing and descriptor.readlink().name == attribute:
                return True
    return False


@contextlib.contextmanager
def _notify_socket(path: Path) -> Iterator[socket.socket]:
    """A socket such as systemd listens at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.settimeout(60)
        told.bind(str(path))
        yield told
