"""gpu-simulate as people start it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpusim import control, netlink
from gpusim.cli import main
from tests.sim.simulated import ADDRESS, PF

SIM = Path(__file__).parents[2] / "hack/sim"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SIM)}
COMMAND = [sys.executable, "-m", "gpusim"]

LISTEN = f"""
import os, pyudev
monitor = pyudev.Monitor.from_netlink(pyudev.Context(), "kernel")
monitor.filter_by("pci"); monitor.filter_by("drm", "drm_minor"); monitor.start()
def write(value):
    descriptor = os.open("/sys/{PF}/sriov_numvfs", os.O_WRONLY)
    os.write(descriptor, value); os.close(descriptor)
write(b"1"); write(b"0")
print(*(f"{{d.action}}@{{d.sys_name}}" for d in iter(lambda: monitor.poll(1), None)))
print(open("/proc/sys/kernel/random/boot_id").read().strip() == open(os.environ["DEVFS_ROOT"] +
      "/../proc/sys/kernel/random/boot_id").read().strip())
"""


def test_list_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "flex170-ecc" in capsys.readouterr().out
    for words in ([], ["b50"], ["b50", "--namespace"], ["b50", "--at", "/x", "--", "true"]):
        with pytest.raises(SystemExit):
            main(words)
    assert main(["poke", "/nowhere", "reboot"]) == 1
    assert main(["poke"]) == 2


@pytest.mark.fuse
@pytest.mark.root
def test_stays_until_told_and_cleans_up(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "b50", "--at", str(tmp_path)], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert f"SYSFS_ROOT={tmp_path}/sys" in process.stdout.readline().decode()
        boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
        before = boot_id.read_text()
        assert control.poke(tmp_path, f"unplug {ADDRESS}") == "ok"
        assert not (tmp_path / "sys" / PF).exists()
        assert not (tmp_path / "dev/dri").exists()
        assert control.poke(tmp_path, f"plug {ADDRESS}") == "ok"
        assert control.poke(tmp_path, "fault on: write, path: '*/sriov_numvfs', error: EIO, count: 1") == "ok"
        assert control.poke(tmp_path, f"foreign-numvfs {ADDRESS} 1").startswith("error: foreign-numvfs: [Errno 5]")
        assert control.poke(tmp_path, "reboot") == "ok"
        assert boot_id.read_text() != before
        assert control.poke(tmp_path, "explode").startswith("error: unknown command 'explode'")
        assert control.poke(tmp_path, "plug") == "error: usage: plug ADDRESS"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not os.path.ismount(tmp_path / "sys")
    assert list((tmp_path / "dev").iterdir()) == []


@pytest.mark.fuse
@pytest.mark.root
def test_commands_on_standard_input(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "b50", "--at", str(tmp_path)],
        env=ENVIRONMENT, input=f"wedge {ADDRESS}\n\nnonsense\n", capture_output=True, text=True, timeout=30,
        check=True,
    )  # fmt: skip
    answers = done.stdout.splitlines()[3:]
    assert answers[0] == "ok"
    assert answers[1].startswith("error: unknown command 'nonsense'")
    assert done.stderr == ""


@pytest.mark.fuse
@pytest.mark.root
def test_namespace_with_real_kernel_events() -> None:
    done = subprocess.run(
        [*COMMAND, "flex170", "--namespace", "--", sys.executable, "-W", "ignore", "-c", LISTEN],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events, same_boot_id = done.stdout.splitlines()
    vf = "0000:03:00.1"
    assert events.split() == [
        f"add@{vf}", f"change@{vf}", "add@renderD129", "add@card1", f"bind@{vf}", f"change@{ADDRESS}",
        "remove@card1", "remove@renderD129", f"unbind@{vf}", f"remove@{vf}",
    ]  # fmt: skip
    assert same_boot_id == "True"


@pytest.mark.fuse
@pytest.mark.root
def test_namespace_passes_the_exit_status_on() -> None:
    inside = ["sh", "-c", "exit 7"]
    assert (
        subprocess.run([*COMMAND, "igpu", "--namespace", "--", *inside], env=ENVIRONMENT, check=False).returncode
        == 7
    )


def test_no_events_into_the_hosts_network() -> None:
    if not netlink.in_host_network():
        pytest.skip("this is not the host's network namespace")
    with pytest.raises(PermissionError, match="private network namespace"):
        netlink.UeventInjector()
