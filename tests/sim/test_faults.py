"""Fault rules."""

import threading

import pytest

import gpusim
from gpusim import FaultRule, Operation, commands
from gpusim.machine_files import parse_faults
from tests.sim.simulated import ADDRESS, PF, boot, errno_of, number, write

NUMVFS = f"{PF}/sriov_numvfs"


def test_errno_counts() -> None:
    machine = boot("b50")
    machine.add_faults(FaultRule(on=Operation.WRITE, path="*/sriov_numvfs", error="EIO", after=1, count=2))
    results = [write(machine, NUMVFS, value) for value in (1, 0, 0, 0)]
    assert results == [None, "EIO", "EIO", None]


def test_read_errors_and_clearing() -> None:
    machine = boot("flex140")
    first, second = (f"bus/pci/devices/{gpu.address}/class" for gpu in machine.spec.gpus)
    machine.add_faults(FaultRule(on=Operation.READ, device=machine.spec.gpus[0].address, error="ENXIO"))
    assert errno_of(lambda: machine.sysfs.read(first)) == "ENXIO"
    assert errno_of(lambda: machine.sysfs.read(second)) is None
    machine.clear_faults()
    assert errno_of(lambda: machine.sysfs.read(first)) is None


def test_fewer_vfs_than_asked() -> None:
    machine = boot("b50")
    machine.add_faults(FaultRule(on=Operation.ENABLE, device=ADDRESS, vfs=3, count=1))
    assert write(machine, NUMVFS, 8) is None
    assert number(machine, NUMVFS) == 3
    assert not machine.sysfs.exists(f"{PF}/virtfn3")
    machine.add_faults(FaultRule(on=Operation.ENABLE, device=ADDRESS, vfs=0, count=1))
    write(machine, NUMVFS, 0)
    assert write(machine, NUMVFS, 8) is None
    assert number(machine, NUMVFS) == 0
    assert write(machine, NUMVFS, 8) is None
    assert number(machine, NUMVFS) == 8


@pytest.mark.parametrize("error", ["ENOMEM", "ENOSPC"])
def test_driver_refuses(error: str) -> None:
    machine = boot("flex170")
    machine.add_faults(FaultRule(on=Operation.ENABLE, error=error, count=1))
    assert write(machine, NUMVFS, 2) == error
    assert number(machine, NUMVFS) == 0
    assert number(machine, "class/drm/card0/prelim_iov/vf1/gt/lmem_quota") == 0
    assert write(machine, NUMVFS, 2) is None


def test_probe_of_one_vf_fails() -> None:
    machine = boot("b50")
    machine.add_faults(FaultRule(on=Operation.PROBE, device=ADDRESS, vf=1, error="EIO", count=1))
    assert write(machine, NUMVFS, 3) is None
    bound = [machine.sysfs.exists(f"{PF}/virtfn{i}/driver") for i in range(3)]
    assert bound == [True, False, True]
    assert write(machine, "bus/pci/drivers/xe/bind", "0000:03:00.2") is None


def test_probe_error_reaches_who_binds() -> None:
    machine = boot("unbound")
    machine.add_faults(FaultRule(on=Operation.PROBE, device=ADDRESS, error="ETIMEDOUT", count=1))
    assert write(machine, "bus/pci/drivers/xe/bind", ADDRESS) == "ETIMEDOUT"
    assert not machine.sysfs.exists(f"{PF}/driver")
    assert write(machine, "bus/pci/drivers/xe/bind", ADDRESS) is None


def test_hanging_store_blocks_readers_and_no_other_gpu() -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        hangs.set()
        assert goes_on.wait(10)

    machine = boot("flex140", sleep=sleep)
    first, second = (f"bus/pci/devices/{gpu.address}/sriov_numvfs" for gpu in machine.spec.gpus)
    machine.add_faults(FaultRule(on=Operation.WRITE, path="*/sriov_numvfs", delay=60, count=1))
    writer = threading.Thread(target=write, args=(machine, first, 2))
    reader = threading.Thread(target=number, args=(machine, first))
    writer.start()
    assert hangs.wait(10)
    reader.start()
    reader.join(0.05)
    assert reader.is_alive()
    assert write(machine, second, 1) is None
    goes_on.set()
    writer.join(10)
    reader.join(10)
    assert number(machine, first) == 2


def test_commands_follow_an_operation() -> None:
    machine = boot("b50")
    machine.serve_commands(lambda line: commands.run(machine, line))
    machine.add_faults(FaultRule(on=Operation.WRITE, path="*/sriov_numvfs", then=f"vanish {ADDRESS} 0", count=1))
    assert write(machine, NUMVFS, 2) is None
    assert not machine.sysfs.exists(f"{PF}/virtfn0"), "the link dangles"
    assert machine.sysfs.islink(f"{PF}/virtfn0")
    assert number(machine, NUMVFS) == 2
    assert write(machine, NUMVFS, 0) is None


def test_later_commands_run_by_themselves() -> None:
    machine = boot("b50")
    ran = threading.Event()
    machine.serve_commands(lambda line: ran.set())
    machine.add_faults(FaultRule(on=Operation.READ, path="*/vendor", then="x", then_after=0.01, count=1))
    machine.sysfs.read(f"{PF}/vendor")
    assert ran.wait(10)


def test_chance_is_repeatable() -> None:
    def outcome(seed: int) -> list[str | None]:
        machine = boot("b50", seed=seed)
        machine.add_faults(FaultRule(on=Operation.WRITE, error="EIO", probability=0.5))
        return [write(machine, NUMVFS, 0) for _ in range(30)]

    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)
    assert set(outcome(1)) == {None, "EIO"}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{on: write, error: EWRONG}", "error: 'EWRONG' is not the name of an errno"),
        ("{on: explode, error: EIO}", r"faults\[0\].on: 'explode'; allowed are read, write, probe, enable"),
        ("{on: write}", "a rule needs error, delay, vfs or then"),
        ("{on: write, vfs: 3}", "vfs: only with on: enable"),
        ("{on: probe, vf: 3, error: EIO}", "vf: only with on: probe and the device"),
        ("{on: write, error: EIO, colour: red}", r"faults\[0\].colour: unknown field"),
        ("{error: EIO}", r"faults\[0\].on: missing"),
        ("{on: read, delay: -1}", "may not be negative"),
        ("{on: read, delay: soon}", r"faults\[0\].delay: a value of type float is needed"),
    ],
)
def test_bad_rules(rule: str, message: str) -> None:
    with pytest.raises(gpusim.FormatError, match=message):
        parse_faults(f"faults: [{rule}]", "file")


def test_rules_from_yaml() -> None:
    rules = "{on: enable, device: '0000:03:00.0', vfs: 3}, {on: read, path: '*/x', delay: 2, error: EIO}"
    assert parse_faults(f"faults: [{rules}]", "file") == (
        FaultRule(on=Operation.ENABLE, device=ADDRESS, vfs=3),
        FaultRule(on=Operation.READ, path="*/x", delay=2.0, error="EIO"),
    )
