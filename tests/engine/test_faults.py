"""What goes wrong with the hardware, at every step: it is said, undone, tried again, and stops nobody else."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import gpusim
from reconciler.node import applying
from reconciler.node.agent import Pass
from state.ids import DeviceName
from state.observed import Changing
from tests.cdi_rules import specs_in
from tests.engine import hardware
from tests.engine.hardware import assert_pristine
from tests.engine.machines import (
    Bench,
    Killed,
    Node,
    SeenWrite,
    allocation,
    cards,
    is_ready,
    manifest,
    phases,
    running,
    vfio,
    why_not,
)

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ONE, OTHER = "0000:03:00.0", "0000:83:00.0"
ERRNOS = ("EIO", "EBUSY", "ENOSPC", "EINVAL", "ETIMEDOUT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Something done to the first of two GPUs."""

    name: str
    machine: gpusim.MachineSpec
    device: Callable[[str], str | dict[str, object]]
    keeps_vfs: bool = False
    """A VF whose driver fails: the VFs beside it stay, somebody else may have one."""

    def __str__(self) -> str:
        return self.name

    def wanted(self, bench: Bench) -> dict[str, object]:
        return manifest({"mine": [self.device(bench.gpu)], "other": [bench.gpus[1]]})


SCENARIOS = (
    Scenario(
        name="i915-vf",
        machine=cards(("flex170", ONE), ("igpu", OTHER), total=1),
        device=lambda pf: f"{pf}-m1-vf0",
    ),
    Scenario(
        name="xe-vf-passthrough",
        machine=cards(("b60", ONE), ("igpu", OTHER), total=2),
        device=lambda pf: vfio(f"{pf}-fs2-vf1"),
        keeps_vfs=True,
    ),
    Scenario(
        name="passthrough",
        machine=cards(("b50", ONE), ("igpu", OTHER), total=2),
        device=vfio,
    ),
)
by_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=str)


def writes_of(scenario: Scenario, where: Path) -> tuple[list[SeenWrite], list[SeenWrite]]:
    """The writes that take the scenario up, and those that take it down again."""
    with running(where, scenario.machine) as bench:
        node = Node(bench)
        assert is_ready(node.want(scenario.wanted(bench)))
        up = len(node.writes)
        assert is_ready(node.want(manifest({"other": [bench.gpus[1]]})))
        assert up
        assert len(node.writes) > up
        return node.writes[:up], node.writes[up:]


@by_scenario
def test_any_write_may_fail_once(scenario: Scenario, tmp_path: Path) -> None:
    up, down = writes_of(scenario, tmp_path / "clean")
    for number, (write, error) in enumerate(zip([*up, *down], itertools.cycle(ERRNOS), strict=False)):
        with running(tmp_path / str(number), scenario.machine) as bench:
            node = Node(bench)
            bench.machine.add_faults(write.failing(error, count=1))
            node.want(scenario.wanted(bench))
            assert phases(node.status)["other"] == "Ready", f"{write}: {why_not(node.status)}"
            node.wait_ready()
            hardware.assert_sound(bench)
            node.want(manifest())
            node.wait_ready()
            assert_pristine(bench)


@by_scenario
def test_a_write_that_always_fails_on_the_way_up(scenario: Scenario, tmp_path: Path) -> None:
    up, _ = writes_of(scenario, tmp_path / "clean")
    for number, (write, error) in enumerate(zip(up, itertools.cycle(ERRNOS), strict=False)):
        with running(tmp_path / str(number), scenario.machine) as bench:
            node = Node(bench)
            bench.machine.add_faults(write.failing(error, count=None))
            node.want(scenario.wanted(bench))
            assert_failed_and_undone(node, scenario, write, error)
            attempts = allocation(node.status, "mine").attempts
            node.wait(10)
            assert allocation(node.status, "mine").attempts > attempts
            assert_failed_and_undone(node, scenario, write, error)
            bench.machine.clear_faults()
            node.wait_ready()
            node.want(manifest())
            node.wait_ready()
            assert_pristine(bench)


def assert_failed_and_undone(node: Node, scenario: Scenario, write: SeenWrite, error: str) -> None:
    bench = node.bench
    assert phases(node.status) == {"mine": "Failed", "other": "Ready"}, f"{write}: {why_not(node.status)}"
    message = allocation(node.status, "mine").message
    assert error in message
    assert repr(write.value) in message
    assert write.path.rpartition("/")[2] in message
    if scenario.keeps_vfs and hardware.num_vfs(bench.machine, ONE):
        drivers = [hardware.driver(bench.machine, ONE), *hardware.vf_drivers(bench.machine, ONE)]
        assert len(set(drivers)) == 1, f"{write}: {drivers}"
        for vf in hardware.vf_addresses(bench.machine, ONE):
            assert hardware.override(bench.machine, vf) == "(null)"
    else:
        hardware.assert_plain(bench.machine, bench.machine.spec.gpus[0])
    assert list(specs_in(bench.cdi)) == ["intel.com-gpu_alloc-other.json"]
    hardware.assert_sound(bench)


@by_scenario
def test_a_write_that_always_fails_on_the_way_down(scenario: Scenario, tmp_path: Path) -> None:
    _, down = writes_of(scenario, tmp_path / "clean")
    for number, (write, error) in enumerate(zip(down, itertools.cycle(ERRNOS), strict=False)):
        with running(tmp_path / str(number), scenario.machine) as bench:
            node = Node(bench)
            bench.machine.add_faults(write.failing(error, count=None))
            assert is_ready(node.want(scenario.wanted(bench)))
            node.want(manifest({"other": [bench.gpus[1]]}))
            node.wait(10)
            assert not is_ready(node.status)
            assert error in why_not(node.status), f"{write}: {why_not(node.status)}"
            assert phases(node.status)["other"] == "Ready"
            assert list(specs_in(bench.cdi)) == ["intel.com-gpu_alloc-other.json"]
            bench.machine.clear_faults()
            node.wait_ready()
            node.want(manifest())
            assert_pristine(bench)


@by_scenario
def test_killed_before_any_write(scenario: Scenario, tmp_path: Path) -> None:
    """The next agent takes up what is there, in either direction."""
    up, down = writes_of(scenario, tmp_path / "clean")
    for number, write in enumerate((*up, *down)):
        with running(tmp_path / str(number), scenario.machine) as bench:
            first = Node(bench)
            first.dies_before = number
            with pytest.raises(Killed):  # noqa: PT012 -- in either direction
                first.want(scenario.wanted(bench))
                first.want(manifest())
            if number % 2:
                second = Node(bench)
                assert is_ready(second.want(scenario.wanted(bench))), f"{write}: {why_not(second.status)}"
                hardware.assert_sound(bench)
            last = Node(bench)
            assert is_ready(last.want(manifest())), f"{write}: {why_not(last.status)}"
            assert_pristine(bench)


def test_a_write_that_hangs_holds_up_nobody_else(tmp_path: Path) -> None:
    goes_on = threading.Event()
    spec = cards(("b60", ONE), ("flex170", OTHER))
    machine = gpusim.Machine(spec, sleep=lambda seconds: void(goes_on.wait(seconds)))
    on = gpusim.Operation.WRITE
    machine.add_faults(gpusim.FaultRule(on=on, path=f"*{ONE}/sriov_numvfs", delay=20, count=1))
    others_while_hanging: list[str] = []

    def follow(done: Pass) -> None:
        seen = phases(done.status)
        hangs = isinstance(done.observed.gpus[DeviceName(bench.gpu)], Changing)
        if hangs and seen["vf"] == seen["neighbour"] == "Ready":
            others_while_hanging.append(allocation(done.status, "stuck").message)
            goes_on.set()

    with running(tmp_path, machine) as bench:
        stuck, other = bench.gpus
        wanted = manifest(
            {"stuck": [f"{stuck}-fs2-vf0"], "vf": [f"{other}-m2-vf0"], "neighbour": [f"{other}-m2-vf1"]}
        )
        converged = bench.converge(wanted, followed=follow)
        assert converged.reached, converged.why
        assert others_while_hanging
        assert "enabling 2 VFs (fs2)" in others_while_hanging[0]
        bench.reach(manifest())
        assert_pristine(bench)


def test_a_read_that_hangs_at_the_first_look(tmp_path: Path) -> None:
    """Somebody else is changing a GPU when we start: nothing is said to be missing, and nothing taken away."""
    goes_on = threading.Event()
    spec = cards(("b60", ONE), ("flex170", OTHER))
    machine = gpusim.Machine(spec, sleep=lambda seconds: void(goes_on.wait(seconds)))
    with running(tmp_path, machine) as bench:
        wanted = manifest({"a": [bench.gpu], "b": [bench.gpus[1]]})
        assert is_ready(Node(bench).want(wanted))
        machine.add_faults(
            gpusim.FaultRule(on=gpusim.Operation.READ, path=f"*{ONE}/sriov_numvfs", delay=20, count=1)
        )
        node = Node(bench, settings=replace(bench.settings(), patience=0.3))
        try:
            node.settle()
            assert phases(node.status)["b"] == "Ready"
            assert phases(node.status)["a"] != "Refused"
            assert len(specs_in(bench.cdi)) == 2
        finally:
            goes_on.set()


def test_a_bug_in_a_step_is_a_failure_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, waits as long as other failures, and stops nobody else."""

    def crash(*_: object) -> None:
        raise RuntimeError("not thought of")

    monkeypatch.setattr(applying, "set_num_vfs", crash)
    passes: list[Pass] = []
    with running(tmp_path, cards(("b60", ONE), ("igpu", OTHER))) as bench:
        wanted = manifest({"mine": [f"{bench.gpu}-fs2-vf0"], "other": [bench.gpus[1]]})
        converged = bench.converge(wanted, followed=passes.append, seconds=1.0)
        assert phases(converged.status) == {"mine": "Failed", "other": "Ready"}
        assert "RuntimeError: not thought of" in allocation(converged.status, "mine").message
        assert len(passes) < 30


def void(_: object) -> None:
    """For functions that may return nothing."""


def test_fewer_vfs_than_asked_for(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE), ("flex170", OTHER))) as bench:
        node, on = Node(bench), gpusim.Operation.ENABLE
        for address in (ONE, OTHER):
            bench.machine.add_faults(gpusim.FaultRule(on=on, path=f"*{address}*", vfs=1))
        node.want(manifest({"xe": [f"{bench.gpu}-fs4-vf0"], "i915": [f"{bench.gpus[1]}-m2-vf0"]}))
        assert phases(node.status) == {"xe": "Failed", "i915": "Failed"}
        assert "enabled 1 of 4 VFs" in allocation(node.status, "xe").message
        for gpu in bench.machine.spec.gpus:
            hardware.assert_plain(bench.machine, gpu)
        bench.machine.clear_faults()
        node.wait_ready()
        node.want(manifest())
        assert_pristine(bench)


def test_one_vf_that_no_driver_takes(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node, on = Node(bench), gpusim.Operation.PROBE
        bench.machine.add_faults(gpusim.FaultRule(on=on, device=ONE, vf=0, error="ENODEV"))
        node.want(manifest({"bad": [f"{bench.gpu}-fs2-vf0"], "good": [f"{bench.gpu}-fs2-vf1"]}))
        assert phases(node.status) == {"bad": "Failed", "good": "Ready"}
        assert "ENODEV" in allocation(node.status, "bad").message
        assert list(specs_in(bench.cdi)) == ["intel.com-gpu_alloc-good.json"]
        bench.machine.clear_faults()
        node.wait_ready()
        assert hardware.vf_drivers(bench.machine, ONE) == ["xe", "xe"]
        node.want(manifest())
        assert_pristine(bench)


def test_a_vf_that_falls_off_the_bus(tmp_path: Path) -> None:
    """Its neighbour is left alone while somebody uses it; then all are made anew."""
    with running(tmp_path, cards(("flex170", ONE))) as bench:
        node = Node(bench)
        both = manifest({"a": [f"{bench.gpu}-m2-vf0"], "b": [f"{bench.gpu}-m2-vf1"]})
        assert is_ready(node.want(both))
        card = next(
            n
            for n in bench.machine.sysfs.listdir(
                f"{hardware.pf(hardware.vf_addresses(bench.machine, ONE)[1])}/drm"
            )
            if n.startswith("card")
        )
        bench.start_process(77, "python", f"dri/{card}")
        bench.machine.vanish(ONE, vf=0)
        node.settle()
        assert phases(node.status) == {"a": "Blocked", "b": "Ready"}
        assert "process 77 (python)" in allocation(node.status, "a").message
        assert list(specs_in(bench.cdi)) == ["intel.com-gpu_alloc-b.json"]
        assert hardware.num_vfs(bench.machine, ONE) == 2
        bench.end_process(77)
        node.settle("resync")
        assert is_ready(node.status), why_not(node.status)
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        node.want(manifest())
        assert_pristine(bench)


def test_a_gpu_that_is_pulled_and_put_back(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE), ("igpu", OTHER))) as bench:
        node = Node(bench)
        wanted = manifest({"vf": [f"{bench.gpu}-fs2-vf0"], "other": [bench.gpus[1]]})
        assert is_ready(node.want(wanted))
        bench.machine.unplug(ONE)
        node.settle()
        assert phases(node.status)["other"] == "Ready"
        assert phases(node.status)["vf"] != "Ready"
        assert bench.gpu in allocation(node.status, "vf").message
        assert list(specs_in(bench.cdi)) == ["intel.com-gpu_alloc-other.json"]
        bench.machine.plug(ONE)
        node.settle()
        assert is_ready(node.status), why_not(node.status)
        node.want(manifest())
        assert_pristine(bench)


def test_somebody_else_turns_our_vfs_off(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest({"vf": [f"{bench.gpu}-fs2-vf1"]})))
        bench.machine.foreign_numvfs(ONE, 0)
        node.settle()
        assert is_ready(node.status), why_not(node.status)
        assert hardware.num_vfs(bench.machine, ONE) == 2
        node.want(manifest())
        assert_pristine(bench)


def test_somebody_else_makes_other_vfs_of_ours(tmp_path: Path) -> None:
    """These are not ours any more: they stay until whoever made them takes them away."""
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node, wanted = Node(bench), manifest({"vf": [f"{bench.gpu}-fs2-vf1"]})
        assert is_ready(node.want(wanted))
        bench.machine.foreign_numvfs(ONE, 3)
        node.settle()
        assert phases(node.status) == {"vf": "Blocked"}
        assert "somebody else" in allocation(node.status, "vf").message
        assert list(bench.cdi.iterdir()) == []
        node.want(manifest())
        node.wait(600)
        assert hardware.num_vfs(bench.machine, ONE) == 3
        bench.machine.foreign_numvfs(ONE, 0)
        assert is_ready(node.want(wanted))
        node.want(manifest())
        assert_pristine(bench)


def test_a_cdi_directory_that_cannot_be_written(tmp_path: Path) -> None:
    with running(tmp_path, cards(("igpu", ONE))) as bench:
        node = Node(bench)
        bench.cdi.rmdir()
        bench.cdi.write_text("somebody put a file here")
        status = node.want(manifest({"a": [bench.gpu]}))
        assert phases(status) == {"a": "Blocked"}
        assert "Not a directory" in allocation(status, "a").message
        bench.cdi.unlink()
        node.settle()
        assert is_ready(node.status), why_not(node.status)


def test_a_cdi_file_that_somebody_else_breaks_is_mended(tmp_path: Path) -> None:
    with running(tmp_path, cards(("igpu", ONE))) as bench:
        node = Node(bench)
        assert is_ready(node.want(manifest({"a": [bench.gpu]})))
        (path,) = bench.cdi.iterdir()
        content = path.read_bytes()
        for damage in (lambda: path.write_bytes(content[:40]), path.unlink, lambda: path.write_text("{}")):
            damage()
            node.settle()
            assert is_ready(node.status), why_not(node.status)
            assert path.read_bytes() == content
        foreign = bench.cdi / "intel.com-gpu.yaml"
        foreign.write_text("cdiVersion: 0.3.0\nkind: intel.com/gpu\ndevices: []\n")
        stray = bench.cdi / "intel.com-gpu_claim-of-old.json"
        stray.write_bytes(content)
        node.settle()
        assert sorted(bench.cdi.iterdir()) == [foreign, path]
