import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.node import applying
from reconciler.node.apply_host import ApplyHost, Stopping
from reconciler.node.applying import Step
from reconciler.node.roots import Roots
from reconciler.node.workers import ThreadWorkers
from state.actions import Action, ResetProvisioning, SetNumVfs
from state.ids import PciAddress, device_name
from state.models import Model
from state.observed import FunctionSeen, PfSeen

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADDRESS = PciAddress("0000:03:00.0")
NAME = device_name(ADDRESS, 0x56C0)
GPU = PfSeen(
    name=NAME,
    device_id=0x56C0,
    model=Model(name="Flex 170", family="Data Center Flex"),
    function=FunctionSeen(address=ADDRESS, driver="i915"),
)
ENABLE = SetNumVfs(pf=NAME, address=ADDRESS, count=4, profile="fs4")
RESET = ResetProvisioning(pf=NAME, address=ADDRESS)


class Bench:
    """Workers whose actions wait for ``gate`` instead of touching a machine."""

    def __init__(self, tmp_path: Path) -> None:
        self.gate, self.stopping, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.begun = threading.Semaphore(0)
        self.steps: list[Step] = []
        host = ApplyHost(roots=Roots(cdi=str(tmp_path)), clock=time.monotonic, stopping=self.stopping.is_set)
        self.workers = ThreadWorkers(host, lambda _: self.ended.set(), self.steps.append)

    def act(self, action: Action, host: ApplyHost) -> None:
        self.begun.release()
        self.gate.wait(10)
        if host.stopping():
            raise Stopping


@contextmanager
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path)
    monkeypatch.setattr(applying, "apply_action", made.act)
    try:
        yield made
    finally:
        made.gate.set()
        made.workers.join(10)


def test_a_gpu_is_busy_from_start_to_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(tmp_path, monkeypatch) as made:
        made.workers.start(GPU, [RESET, ENABLE], NOW)
        assert made.begun.acquire(timeout=10)
        job = made.workers.busy()[NAME]
        assert (job.doing, job.since) == ("giving VF provisioning back to the kernel driver", NOW)
        assert made.workers.results() == ()
        with pytest.raises(ValueError, match="already"):
            made.workers.start(GPU, [ENABLE], NOW)
        made.gate.set()
        assert made.ended.wait(10)
        assert made.workers.busy() == {}
        (result,) = made.workers.results()
        assert (result.pf, result.applied.done) == (NAME, (RESET, ENABLE))
        assert [step.action for step in made.steps] == [RESET, ENABLE]
        assert made.workers.results() == ()


def test_told_to_stop_it_begins_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(tmp_path, monkeypatch) as made:
        made.workers.start(GPU, [RESET, ENABLE], NOW)
        assert made.begun.acquire(timeout=10)
        assert made.workers.join(0.01) == (NAME,)
        made.stopping.set()
        made.gate.set()
        assert made.workers.join(10) == ()
        (result,) = made.workers.results()
        assert result.applied.stopped
        assert result.applied.done == ()


def test_interrupted_while_a_worker_starts_it_can_still_be_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C within Thread.start() leaves a thread that Python doesn't count as started."""

    def interrupted(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    with bench(tmp_path, monkeypatch) as made:
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.workers.start(GPU, [ENABLE], NOW)
        assert made.workers.join(0.01) == ()
