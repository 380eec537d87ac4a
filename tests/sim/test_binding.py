"""bind, unbind, drivers_probe, driver_override, and what depends on the driver."""

import pytest

import gpusim
from tests.sim.simulated import ADDRESS, PF, boot, text, write

DRIVERS = "bus/pci/drivers"


def driver(machine: gpusim.Machine, address: str = ADDRESS) -> str | None:
    link = f"bus/pci/devices/{address}/driver"
    return machine.sysfs.readlink(link).rpartition("/")[2] if machine.sysfs.islink(link) else None


@pytest.mark.parametrize(
    ("path", "value", "errno"),
    [
        ("xe/bind", ADDRESS, "EBUSY"),
        ("xe/bind", "0000:99:00.0", "ENODEV"),
        ("xe/bind", "rubbish", "ENODEV"),
        ("i915/bind", ADDRESS, "ENODEV"),
        ("vfio-pci/bind", ADDRESS, "ENODEV"),
        ("i915/unbind", ADDRESS, "ENODEV"),
        ("xe/unbind", "0000:99:00.0", "ENODEV"),
        ("xe/unbind", ADDRESS, None),
    ],
)
def test_refusals(path: str, value: str, errno: str | None) -> None:
    assert write(boot("b50"), f"{DRIVERS}/{path}", value) == errno


def test_override_decides_alone() -> None:
    machine = boot("b50")
    assert text(machine, f"{PF}/driver_override") == "(null)"
    write(machine, f"{DRIVERS}/xe/unbind", f"{ADDRESS}\n")
    assert driver(machine) is None
    write(machine, f"{PF}/driver_override", "vfio-pci\n")
    assert text(machine, f"{PF}/driver_override") == "vfio-pci"
    assert write(machine, f"{DRIVERS}/xe/bind", ADDRESS) == "ENODEV"
    assert write(machine, "bus/pci/drivers_probe", ADDRESS) is None
    assert driver(machine) == "vfio-pci"
    assert write(machine, "bus/pci/drivers_probe", ADDRESS) is None, "already bound is fine"
    write(machine, f"{PF}/driver_override", "\n")
    assert text(machine, f"{PF}/driver_override") == "(null)"
    assert driver(machine) == "vfio-pci", "the override is about the next probe"
    write(machine, f"{DRIVERS}/vfio-pci/unbind", ADDRESS)
    write(machine, "bus/pci/drivers_probe", ADDRESS)
    assert driver(machine) == "xe"
    assert write(machine, "bus/pci/drivers_probe", "0000:99:00.0") == "ENODEV"


def test_a_driver_that_cannot_drive_it() -> None:
    machine = boot("unbound")
    write(machine, f"{PF}/driver_override", "i915")
    assert write(machine, f"{DRIVERS}/i915/bind", ADDRESS) == "ENODEV"
    assert write(machine, "bus/pci/drivers_probe", ADDRESS) is None, "a failed probe is not the writer's fault"
    assert driver(machine) is None


def test_unbinding_the_pf_removes_its_vfs() -> None:
    machine = boot("flex170")
    write(machine, f"{PF}/sriov_numvfs", 3)
    write(machine, f"{DRIVERS}/i915/unbind", ADDRESS)
    assert machine.sysfs.listdir("class/drm") == ("version",)
    assert text(machine, f"{PF}/sriov_numvfs") == "0"
    assert len(machine.sysfs.listdir("bus/pci/devices")) == 2


def test_vfio_devices_and_groups() -> None:
    machine = boot("passthrough")
    pci = "bus/pci/devices/0000:83:00.0"
    assert machine.sysfs.listdir(f"{pci}/vfio-dev") == ("vfio0",)
    assert not machine.sysfs.exists(f"{pci}/drm")
    group = machine.sysfs.readlink(f"{pci}/iommu_group").rpartition("/")[2]
    assert machine.sysfs.listdir(f"kernel/iommu_groups/{group}/devices") == ("0000:83:00.0",)
    assert {"vfio/vfio", f"vfio/{group}", "vfio/devices/vfio0"} <= set(machine.nodes.snapshot())
    write(machine, f"{DRIVERS}/vfio-pci/unbind", "0000:83:00.0")
    assert {path for path in machine.nodes.snapshot() if path.startswith("vfio")} == {"vfio/vfio"}


def test_vf_on_vfio() -> None:
    machine = boot("b50")
    write(machine, f"{PF}/sriov_drivers_autoprobe", 0)
    write(machine, f"{PF}/sriov_numvfs", 2)
    write(machine, f"{PF}/virtfn1/driver_override", "xe-vfio-pci")
    assert write(machine, f"{DRIVERS}/xe-vfio-pci/bind", "0000:03:00.2") is None
    assert "vfio/devices/vfio0" in machine.nodes.snapshot()
    write(machine, f"{PF}/sriov_numvfs", 0)
    assert "vfio/devices/vfio0" not in machine.nodes.snapshot()


def test_group_mates_share_a_node_and_no_iommu_means_no_vfio() -> None:
    gpus = tuple(
        gpusim.GpuSpec(address=f"0000:0{n}:00.0", device=0xE20B, driver="xe", bound="vfio-pci", iommu_group=7)
        for n in (3, 4)
    )
    machine = gpusim.Machine(gpusim.MachineSpec(description="mates", gpus=gpus))
    assert len(machine.sysfs.listdir("kernel/iommu_groups/7/devices")) == 2
    write(machine, f"{DRIVERS}/vfio-pci/unbind", ADDRESS)
    assert "vfio/7" in machine.nodes.snapshot()
    write(machine, f"{DRIVERS}/vfio-pci/unbind", "0000:04:00.0")
    assert "vfio/7" not in machine.nodes.snapshot()

    plain = gpusim.GpuSpec(address=ADDRESS, device=0xE20B, driver="xe", bound="none")
    without = gpusim.Machine(gpusim.MachineSpec(description="no IOMMU", gpus=(plain,), iommu=False))
    write(without, f"{PF}/driver_override", "vfio-pci")
    assert write(without, f"{DRIVERS}/vfio-pci/bind", ADDRESS) == "EINVAL"
    assert driver(without) is None


def test_lowest_free_minor_is_used_again() -> None:
    machine = boot("flex140")
    first, second = (gpu.address for gpu in machine.spec.gpus)
    write(machine, f"{DRIVERS}/i915/unbind", first)
    write(machine, f"{DRIVERS}/i915/unbind", second)
    write(machine, f"{DRIVERS}/i915/bind", second)
    assert machine.sysfs.listdir(f"bus/pci/devices/{second}/drm") == ("card0", "renderD128")
    assert text(machine, "class/drm/card0/dev") == "226:0"
    assert machine.sysfs.realpath("class/drm/card0/device").endswith(second)
    assert machine.sysfs.realpath("dev/char/226:128").endswith(f"{second}/drm/renderD128")


def test_mei_belongs_to_the_driver() -> None:
    machine = boot("b50")
    mei = machine.sysfs.realpath("class/mei/mei0")
    assert mei.endswith(f"/{ADDRESS}/xe.mei-gscfi.768/mei/mei0")
    assert "mei0" in machine.nodes.snapshot()
    write(machine, f"{DRIVERS}/xe/unbind", ADDRESS)
    assert machine.sysfs.listdir("class/mei") == ()
    assert not [name for name in machine.sysfs.listdir(PF) if "mei" in name or name in ("drm", "hwmon", "tile0")]
