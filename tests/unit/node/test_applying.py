"""The order of steps, what is told about them, waiting, and the steps that need no kernel."""

import dataclasses
import errno
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.node.apply_host import ApplyFailed, ApplyHost, Stopping
from reconciler.node.applying import Applied, Step, apply_action, apply_all, doing
from reconciler.node.roots import Roots
from state.actions import (
    Action,
    BindDriver,
    RemoveCdiSpec,
    ResetProvisioning,
    SetNumVfs,
    SetVfProfile,
    WriteCdiSpec,
)
from state.ids import DeviceName, PciAddress, Slot
from state.models import Model
from state.observed import FunctionSeen, PfSeen, SriovSeen
from state.profiles import TileQuota

PF = DeviceName("0000-03-00-0-0x56c0")
ADDRESS = PciAddress("0000:03:00.0")
CLAIM = "intel.com-gpu_claim-1.json"
WRITE = WriteCdiSpec(file=CLAIM, pf=PF, content=b"{}", allocation="1")
REMOVE = RemoveCdiSpec(file=CLAIM, pf=PF, why="stale")
OFF = SetNumVfs(pf=PF, address=ADDRESS, count=0, profile="m4")
ON = SetNumVfs(pf=PF, address=ADDRESS, count=4, profile="m4")
GPU = PfSeen(
    name=PF,
    device_id=0x56C0,
    model=Model(name="Flex 170", family="Data Center Flex"),
    function=FunctionSeen(address=ADDRESS, driver="i915"),
    sriov=SriovSeen(total=31, enabled=16),
)


class Clock:
    """Moves half a second each time it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def host_at(directory: Path) -> ApplyHost:
    roots = Roots(sysfs=str(directory / "sys"), cdi=str(directory / "cdi"))
    return ApplyHost(roots=roots, clock=Clock())


def test_cdi_files_are_written_and_removed_again(tmp_path: Path) -> None:
    host = host_at(tmp_path)
    apply_action(REMOVE, host)
    apply_action(WRITE, host)
    assert (tmp_path / "cdi" / CLAIM).read_bytes() == b"{}"
    apply_action(REMOVE, host)
    apply_action(REMOVE, host)
    assert list((tmp_path / "cdi").iterdir()) == []


@pytest.mark.parametrize("action", [WRITE, REMOVE])
def test_a_cdi_directory_that_is_none_fails_with_path_and_errno(tmp_path: Path, action: Action) -> None:
    (tmp_path / "cdi").write_text("")
    with pytest.raises(ApplyFailed) as caught:
        apply_action(action, host_at(tmp_path))
    assert str(caught.value) == f"{tmp_path}/cdi/{CLAIM}: Not a directory (ENOTDIR)"
    assert caught.value.errno == errno.ENOTDIR
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("action", [WRITE, REMOVE])
def test_a_cdi_file_of_another_name_is_refused(tmp_path: Path, action: WriteCdiSpec | RemoveCdiSpec) -> None:
    (tmp_path / "victim.json").write_text("keep")
    with pytest.raises(ApplyFailed, match="no name of a CDI spec of ours"):
        apply_action(dataclasses.replace(action, file="../victim.json"), host_at(tmp_path))
    assert (tmp_path / "victim.json").read_text() == "keep"


def test_all_are_done_in_order_and_timed(tmp_path: Path) -> None:
    told: list[Action | Step] = []
    applied = apply_all([WRITE, REMOVE], host_at(tmp_path), began=told.append, ended=told.append)
    assert applied == Applied(done=(WRITE, REMOVE))
    assert told == [WRITE, Step(action=WRITE, seconds=0.5), REMOVE, Step(action=REMOVE, seconds=0.5)]


def test_the_first_error_ends_it(tmp_path: Path) -> None:
    steps: list[Step] = []
    applied = apply_all([WRITE, OFF, REMOVE], host_at(tmp_path), ended=steps.append)
    assert applied.done == (WRITE,)
    assert applied.failed is not None
    action, failed = applied.failed
    assert action is OFF
    assert failed.why == "the GPU is gone"
    assert steps[-1].failed is failed
    assert (tmp_path / "cdi" / CLAIM).exists()


def test_told_to_stop_the_next_is_not_begun(tmp_path: Path) -> None:
    told: list[Action] = []
    host = dataclasses.replace(host_at(tmp_path), stopping=lambda: bool(told))
    assert apply_all([WRITE, REMOVE], host, began=told.append) == Applied(done=(WRITE,), stopped=True)
    assert told == [WRITE]


def test_told_to_stop_while_a_step_waits_nothing_is_undone(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices" / ADDRESS
    device.mkdir(parents=True)
    (device / "sriov_numvfs").write_text("0")  # takes what is written, but no VF ever appears
    steps: list[Step] = []
    answers = iter([False, True])
    host = dataclasses.replace(host_at(tmp_path), stopping=lambda: next(answers))
    assert apply_all([ON, WRITE], host, ended=steps.append) == Applied(stopped=True)
    assert (device / "sriov_numvfs").read_text() == "4"
    assert steps == []


def test_steps_are_logged_with_the_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests run tools in this process that set up logging and disable all loggers there are.
    monkeypatch.setattr(logging.getLogger("reconciler.node.applying"), "disabled", False)
    with caplog.at_level(logging.INFO, "reconciler.node.applying"):
        apply_all([dataclasses.replace(WRITE, pf=None), OFF], host_at(tmp_path))
    good, bad = caplog.records
    assert good.getMessage() == f"done: write CDI spec {CLAIM}"
    assert not hasattr(good, "device")
    assert good.levelno == logging.INFO
    assert bad.getMessage().startswith("failed: turn off all VFs: writing '0' to ")
    assert bad.levelno == logging.ERROR
    assert (vars(bad)["device"], vars(bad)["action"]) == (PF, "SetNumVfs")


@pytest.mark.parametrize(
    ("action", "gpu", "words"),
    [
        (OFF, GPU, "turning off 16 VFs"),
        (OFF, dataclasses.replace(GPU, sriov=SriovSeen(total=31, enabled=1)), "turning off 1 VF"),
        (OFF, None, "turning off VFs"),
        (ON, GPU, "enabling 4 VFs (m4)"),
        (
            SetVfProfile(pf=PF, address=ADDRESS, profile="m1", count=1, quota=TileQuota()),
            GPU,
            "setting quotas of 1 VF (m1)",
        ),
        (ResetProvisioning(pf=PF, address=ADDRESS), GPU, "giving VF provisioning back to the kernel driver"),
        (
            BindDriver(pf=PF, slot=Slot(pf=PF, vf=3), address=ADDRESS, driver="vfio-pci"),
            GPU,
            "binding VF 3 to vfio-pci",
        ),
        (BindDriver(pf=PF, slot=Slot(pf=PF), address=ADDRESS, driver=None), GPU, "unbinding the GPU"),
        (WRITE, None, f"writing CDI spec {CLAIM}"),
        (REMOVE, None, f"removing CDI spec {CLAIM}"),
    ],
)
def test_what_is_going_on_in_words(action: Action, gpu: PfSeen | None, words: str) -> None:
    assert doing(action, gpu) == words


def test_an_error_is_one_line_with_where_and_why() -> None:
    cleared = ApplyFailed(path="/sys/x", why="no", errno=errno.EINVAL, value="\n")
    assert str(cleared) == "writing '' to /sys/x: no (EINVAL)"
    assert str(ApplyFailed(path="/sys/x", why="no", errno=9999)) == "/sys/x: no (errno 9999)"


def in_background(do: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=do)
    thread.start()
    return thread


def test_waiting_ends_when_the_condition_holds_or_time_is_up(tmp_path: Path) -> None:
    host = host_at(tmp_path)
    looks = iter([False, False, True])
    assert host.wait(lambda: next(looks), 60)
    assert not host.wait(lambda: False, 2)
    assert host.wait(lambda: True, 0)


class OnlyWhenTold(threading.Condition):
    """A condition whose waits end only by a notification, whatever time they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waiting.set()
        return super().wait(30)


def test_a_wait_looks_again_at_an_event(tmp_path: Path) -> None:
    stirred, there = OnlyWhenTold(), threading.Event()
    host = dataclasses.replace(host_at(tmp_path), stirred=stirred)

    def announce() -> None:
        stirred.waiting.wait(30)
        there.set()
        with stirred:
            stirred.notify_all()

    announcer = in_background(announce)
    assert host.wait(there.is_set, 10)
    announcer.join()


class NeverTold(threading.Condition):
    """A condition whose waits are over at once; notes how long they would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        return False


def test_without_events_a_wait_looks_at_growing_intervals_up_to_its_deadline(tmp_path: Path) -> None:
    stirred = NeverTold()
    assert not dataclasses.replace(host_at(tmp_path), stirred=stirred).wait(lambda: False, 5)
    assert stirred.pauses == [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.25]
    stirred.pauses.clear()
    moments = iter([0.0, 9.999, 10.0])
    host = dataclasses.replace(host_at(tmp_path), stirred=stirred, clock=lambda: next(moments))
    assert not host.wait(lambda: False, 10)
    assert stirred.pauses == [pytest.approx(0.001)]


def test_a_wait_ends_when_told_to_stop(tmp_path: Path) -> None:
    stop = threading.Event()
    host = dataclasses.replace(host_at(tmp_path), clock=time.monotonic, stopping=stop.is_set)

    def tell() -> None:
        stop.set()
        with host.stirred:
            host.stirred.notify_all()

    def look() -> bool:
        if not tellers:
            tellers.append(in_background(tell))
        return False

    tellers: list[threading.Thread] = []
    with pytest.raises(Stopping):
        host.wait(look, 60)
    tellers[0].join()
