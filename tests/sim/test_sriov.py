"""The SR-IOV life cycle as drivers/pci/iov.c has it."""

import threading

import pytest

import gpusim
from tests.sim.simulated import ADDRESS, PF, boot, number, text, write

NUMVFS = f"{PF}/sriov_numvfs"


@pytest.mark.parametrize("value", ["", "x", "-1", "1 2", "0x", "4 ", "65536", "99999999999", "1\n\n", "08"])
def test_what_is_no_u16_is_einval(value: str) -> None:
    assert write(boot("b50"), NUMVFS, value) == "EINVAL"


@pytest.mark.parametrize("value", ["4", "4\n", "0x4", "04", "+4"])
def test_number_forms(value: str) -> None:
    machine = boot("b50")
    assert write(machine, NUMVFS, value) is None
    assert text(machine, NUMVFS) == "4"


def test_refusals_come_in_the_kernels_order() -> None:
    machine = boot("b50")
    assert write(machine, NUMVFS, 13) == "ERANGE"
    assert write(machine, NUMVFS, 4) is None
    assert write(machine, NUMVFS, 4) is None, "equal is a no-op"
    assert write(machine, NUMVFS, 5) == "EBUSY"
    assert write(machine, NUMVFS, 3) == "EBUSY"
    assert write(machine, NUMVFS, 0) is None
    assert number(machine, NUMVFS) == 0

    unbound = boot("unbound")
    assert write(unbound, NUMVFS, 0) is None, "equal wins over the missing driver"
    assert write(unbound, NUMVFS, 99) == "ERANGE"
    assert write(unbound, NUMVFS, 2) == "ENOENT"


@pytest.mark.parametrize(
    ("machine", "address", "errno"),
    [("passthrough", "0000:83:00.0", "ENOENT"), ("survivability", ADDRESS, "ENODEV")],
)
def test_driver_without_virtual_functions(machine: str, address: str, errno: str) -> None:
    assert write(boot(machine), f"bus/pci/devices/{address}/sriov_numvfs", 1) == errno


def test_mainline_i915_and_native_gpus_have_no_pf_mode() -> None:
    def gpu(sriov: gpusim.SriovSpec) -> gpusim.Machine:
        spec = gpusim.GpuSpec(address=ADDRESS, device=0x56C0, driver="i915", sriov=sriov)
        return gpusim.Machine(gpusim.MachineSpec(description="one", gpus=(spec,)))

    assert write(gpu(gpusim.SriovSpec(total=31)), NUMVFS, 1) == "ENOENT"
    native = gpu(gpusim.SriovSpec(total=0, iov="prelim_iov"))
    assert text(native, f"{PF}/sriov_totalvfs") == "0"
    assert write(native, NUMVFS, 1) == "ERANGE"


def test_links_and_addresses() -> None:
    machine = boot("b50")
    assert write(machine, NUMVFS, 9) is None
    links = {
        name: machine.sysfs.readlink(f"{PF}/{name}") for name in machine.sysfs.listdir(PF) if "virtfn" in name
    }
    assert links == {f"virtfn{i}": f"../0000:03:{(i + 1) // 8:02x}.{(i + 1) % 8}" for i in range(9)}
    vf = f"{PF}/virtfn8"
    assert machine.sysfs.readlink(f"{vf}/physfn") == f"../{ADDRESS}"
    assert machine.sysfs.realpath(vf).endswith("/0000:02:01.0/0000:03:01.1")
    assert text(machine, f"{vf}/device") == "0xe212"
    assert not [name for name in machine.sysfs.listdir(vf) if name.startswith(("sriov_", "virtfn"))]
    assert [text(machine, f"{PF}/sriov_{name}") for name in ("offset", "stride", "vf_device")] == [
        "1",
        "1",
        "e212",
    ]


def test_vfs_cross_bus_numbers() -> None:
    spec = gpusim.GpuSpec(address="0000:03:1f.7", device=0xE212, driver="xe", sriov=gpusim.SriovSpec(total=2))
    machine = gpusim.Machine(gpusim.MachineSpec(description="edge", gpus=(spec,)))
    machine.foreign_numvfs("0000:03:1f.7", 2)
    assert machine.sysfs.readlink("bus/pci/devices/0000:03:1f.7/virtfn0") == "../0000:04:00.0"


def test_no_autoprobe_leaves_vfs_without_driver() -> None:
    machine = boot("b50")
    assert write(machine, f"{PF}/sriov_drivers_autoprobe", "maybe") == "EINVAL"
    assert write(machine, f"{PF}/sriov_drivers_autoprobe", "n") is None
    assert text(machine, f"{PF}/sriov_drivers_autoprobe") == "0"
    assert write(machine, NUMVFS, 2) is None
    assert not machine.sysfs.exists(f"{PF}/virtfn1/driver")
    assert write(machine, "bus/pci/drivers_probe", "0000:03:00.2") is None
    assert machine.sysfs.readlink(f"{PF}/virtfn1/driver").endswith("/drivers/xe")


def test_everything_goes_with_numvfs_zero() -> None:
    machine = boot("flex170")

    def nodes() -> set[str]:
        return set(machine.nodes.snapshot())

    before = nodes(), machine.sysfs.listdir("bus/pci/devices"), machine.sysfs.listdir("kernel/iommu_groups")
    write(machine, NUMVFS, 31)
    assert len(nodes()) == len(before[0]) + 31 * 4
    write(machine, NUMVFS, 0)
    after = nodes(), machine.sysfs.listdir("bus/pci/devices"), machine.sysfs.listdir("kernel/iommu_groups")
    assert after == before


def test_reader_waits_for_the_store_and_delays_are_the_kernels() -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        hangs.set()
        assert goes_on.wait(10)

    delays = gpusim.Delays(enable=0.1, probe=0.02, disable=1.0)
    machine = boot("b50", delays=delays, sleep=sleep)
    seen: list[int] = []
    writer = threading.Thread(target=write, args=(machine, NUMVFS, 2))
    reader = threading.Thread(target=lambda: seen.append(number(machine, NUMVFS)))
    writer.start()
    assert hangs.wait(10)
    reader.start()
    assert text(machine, f"{PF}/sriov_totalvfs") == "12", "other attributes answer"
    reader.join(0.05)
    assert reader.is_alive()
    goes_on.set()
    writer.join(10)
    reader.join(10)
    assert seen == [2]
    write(machine, NUMVFS, 0)
    assert waits == [0.1, 0.02, 0.02, 1.0]


def test_more_vfs_than_the_first_64_minors() -> None:
    machine = boot("max1550-x8")
    for gpu in machine.spec.gpus:
        machine.foreign_numvfs(gpu.address, 62)
    cards = [name for name in machine.sysfs.listdir("class/drm") if name.startswith("card")]
    assert len(cards) == 8 * 63
    assert "card63" in cards
    assert "card64" not in cards, "numbers go on at 192, shared with render nodes"
    assert len(machine.sysfs.listdir("bus/pci/drivers/i915")) == 8 * 63 + 2
