"""What can happen to a machine, and the attributes of its functions."""

import pytest

import gpusim
from tests.sim.simulated import ADDRESS, PF, boot, errno_of, number, text, write


def test_unplug_and_plug() -> None:
    machine = boot("b50")
    machine.unplug(ADDRESS)
    assert not machine.sysfs.exists(PF)
    assert machine.sysfs.listdir("class/drm") == ("version",)
    with pytest.raises(KeyError):
        machine.unplug(ADDRESS)
    machine.plug(ADDRESS)
    assert write(machine, f"{PF}/sriov_numvfs", 1) is None
    with pytest.raises(ValueError, match="plugged in"):
        machine.plug(ADDRESS)
    with pytest.raises(KeyError, match="no GPU"):
        machine.plug("0000:99:00.0")


def test_new_gpus_and_missing_ones_outlast_a_reboot() -> None:
    machine = boot("b50")
    machine.plug(gpusim.GpuSpec(address="0000:83:00.0", device=0xE20B, driver="xe"))
    assert machine.sysfs.realpath("class/drm/card1").endswith("/0000:83:00.0/drm/card1")
    machine.unplug(ADDRESS)
    machine.reboot()
    assert machine.sysfs.realpath("class/drm/card0").endswith("/0000:83:00.0/drm/card0")
    assert not machine.sysfs.exists(PF)
    machine.plug(ADDRESS)
    assert machine.sysfs.exists(PF)


def test_class_drm_holds_more_than_minors() -> None:
    machine = boot("b50")
    names = ("card0", "card0-DP-1", "renderD128", "version")
    assert machine.sysfs.listdir("class/drm") == names
    assert "DEVTYPE=drm_connector" in text(machine, "class/drm/card0-DP-1/uevent")
    assert boot("flex170").sysfs.listdir("class/drm") == ("card0", "renderD128", "version"), "no display"


def test_links_of_bridges_and_virtual_functions() -> None:
    machine = boot("b50")
    machine.foreign_numvfs(ADDRESS, 1)
    assert text(machine, "bus/pci/devices/0000:01:00.0/current_link_speed") == "16.0 GT/s PCIe"
    assert text(machine, f"{PF}/current_link_speed") == "2.5 GT/s PCIe", "the endpoint itself, as on real cards"
    assert text(machine, f"{PF}/virtfn0/current_link_width") == "0"


def test_reboot() -> None:
    machine = boot("flex140")
    first, second = (gpu.address for gpu in machine.spec.gpus)
    machine.foreign_numvfs(first, 3)
    write(machine, "class/drm/card1/prelim_iov/vf1/gt/lmem_quota", 1 << 30)
    write(machine, "bus/pci/drivers/i915/unbind", first)
    write(machine, f"bus/pci/devices/{first}/driver_override", "vfio-pci")
    before, told = machine.boot_id, []
    machine.on_reboot(lambda: told.append(machine.boot_id))
    machine.reboot()
    assert told == [machine.boot_id]
    assert machine.boot_id != before
    assert machine.sysfs.listdir("class/drm") == ("card0", "card1", "renderD128", "renderD129", "version")
    assert machine.sysfs.realpath("class/drm/card0/device").endswith(first)
    assert text(machine, f"bus/pci/devices/{first}/driver_override") == "(null)"
    assert number(machine, "class/drm/card1/prelim_iov/vf1/gt/lmem_quota") == 0
    assert len(machine.nodes.snapshot()) == 1 + 2 * 5
    assert write(machine, f"bus/pci/devices/{second}/sriov_numvfs", 2) is None


def test_foreign_vfs() -> None:
    machine = boot("foreign-vfs")
    assert number(machine, f"{PF}/sriov_numvfs") == 4
    machine.foreign_numvfs(ADDRESS, 2)
    assert number(machine, f"{PF}/sriov_numvfs") == 2
    machine.reboot()
    assert number(machine, f"{PF}/sriov_numvfs") == 4


def test_set_attribute_keeps_what_it_was() -> None:
    machine = boot("b50")
    machine.set_attribute("class/hwmon/hwmon0/temp2_input", "108000")
    assert number(machine, f"{PF}/hwmon/hwmon0/temp2_input") == 108000
    assert write(machine, f"{PF}/hwmon/hwmon0/temp2_input", 1) == "EACCES"
    machine.set_attribute(f"{PF}/numa_node", "3")
    assert write(machine, f"{PF}/numa_node", 1) is None
    machine.set_attribute("devices/new/thing", "5")
    assert number(machine, "devices/new/thing") == 5


def test_pci_attributes() -> None:
    machine = boot("flex170")
    values = {
        name: text(machine, f"{PF}/{name}") for name in ("vendor", "device", "class", "revision", "numa_node")
    }
    assert values == {
        "vendor": "0x8086",
        "device": "0x56c0",
        "class": "0x038000",
        "revision": "0x08",
        "numa_node": "0",
    }
    assert machine.sysfs.realpath(PF) == f"devices/pci0000:00/0000:00:06.0/{ADDRESS}"
    assert machine.sysfs.realpath(f"{PF}/subsystem") == "bus/pci"
    bars = [[int(word, 16) for word in line.split()] for line in text(machine, f"{PF}/resource").splitlines()]
    assert len(bars) == 13
    assert bars[2][1] - bars[2][0] + 1 == 16 << 30
    assert text(machine, "bus/pci/devices/0000:00:06.0/class") == "0x060400"


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        (lambda tree: tree.read(f"{PF}/nothing"), "ENOENT"),
        (lambda tree: tree.read(f"{PF}/vendor/below"), "ENOTDIR"),
        (lambda tree: tree.read(PF), "EISDIR"),
        (lambda tree: tree.listdir(f"{PF}/vendor"), "ENOTDIR"),
        (lambda tree: tree.readlink(f"{PF}/vendor"), "EINVAL"),
        (lambda tree: tree.write(f"{PF}/vendor", "1"), "EACCES"),
        (lambda tree: tree.read("bus/pci/drivers/xe/bind"), "EACCES"),
    ],
)
def test_errnos_of_the_direct_face(call: object, errno: str) -> None:
    tree = boot("b50").sysfs
    assert callable(call)
    assert errno_of(lambda: call(tree)) == errno


def test_one_write_carries_a_page_at_most() -> None:
    assert boot("b50").sysfs.write(f"{PF}/driver_override", "x" * 5000) == 4096


@pytest.mark.parametrize("name", gpusim.machine_names())
def test_every_machine_boots_and_unplugs(name: str) -> None:
    machine = boot(name)
    for gpu in machine.spec.gpus:
        machine.unplug(gpu.address)
    assert machine.sysfs.listdir("class/drm") == ("version",)
    assert set(machine.nodes.snapshot()) == {"vfio/vfio"}


def test_long_domain() -> None:
    machine = boot("long-domain")
    assert machine.sysfs.realpath("bus/pci/devices/10000:01:00.0").startswith("devices/pci10000:00/10000:00:02.0/")
    assert "dri/by-path/pci-10000:01:00.0-card" in machine.nodes.snapshot()
    machine.foreign_numvfs("10000:01:00.0", 1)
    assert machine.sysfs.readlink("bus/pci/devices/10000:01:00.0/virtfn0") == "../10000:01:00.1"
