"""Uevents: their order and what they carry."""

import pytest

import gpusim
from gpusim.netlink import payload
from tests.sim.simulated import ADDRESS, PF, boot, text, write

ENABLE_TWO = [
    "add@0000:03:00.1",
    "change@0000:03:00.1",
    "add@renderD129",
    "add@card1",
    "bind@0000:03:00.1",
    "add@0000:03:00.2",
    "change@0000:03:00.2",
    "add@renderD130",
    "add@card2",
    "bind@0000:03:00.2",
    "change@0000:03:00.0",
]
DISABLE_TWO = [
    "remove@card1",
    "remove@renderD129",
    "unbind@0000:03:00.1",
    "remove@0000:03:00.1",
    "remove@card2",
    "remove@renderD130",
    "unbind@0000:03:00.2",
    "remove@0000:03:00.2",
]


def heard(machine: gpusim.Machine) -> list[gpusim.Uevent]:
    events: list[gpusim.Uevent] = []
    machine.listen(events.append)
    return events


@pytest.mark.parametrize("name", ["flex170", "b50"])
def test_order_of_enabling_and_disabling(name: str) -> None:
    machine = boot(name)
    events = heard(machine)
    write(machine, f"{PF}/sriov_numvfs", 2)
    assert [str(event) for event in events] == ENABLE_TWO
    events.clear()
    write(machine, f"{PF}/sriov_numvfs", 0)
    assert [str(event) for event in events] == DISABLE_TWO, "no change of the PF on disabling"


def test_order_of_unplugging_a_gpu_with_a_vf() -> None:
    machine = boot("flex170")
    write(machine, f"{PF}/sriov_numvfs", 1)
    events = heard(machine)
    machine.unplug(ADDRESS)
    assert [str(event) for event in events] == [
        *DISABLE_TWO[:4],
        "remove@hwmon0",
        "remove@mei0",
        "remove@card0",
        "remove@renderD128",
        f"unbind@{ADDRESS}",
        f"remove@{ADDRESS}",
    ]
    events.clear()
    machine.plug(ADDRESS)
    assert str(events[0]) == f"add@{ADDRESS}"
    assert [str(event) for event in events][-3:] == ["add@renderD128", "add@card0", f"bind@{ADDRESS}"]


def test_what_events_carry() -> None:
    machine = boot("b50")
    events = heard(machine)
    write(machine, f"{PF}/sriov_numvfs", 1)
    write(machine, f"{PF}/sriov_numvfs", 0)
    by_name = {str(event): event for event in events}
    bind = by_name["bind@0000:03:00.1"]
    assert bind.devpath.startswith("/devices/pci0000:00/0000:00:06.0/")
    assert dict(bind.environment) == {
        "DRIVER": "xe",
        "PCI_CLASS": "30000",
        "PCI_ID": "8086:E212",
        "PCI_SUBSYS_ID": "8086:1114",
        "PCI_SLOT_NAME": "0000:03:00.1",
        "MODALIAS": "pci:v00008086d0000E212sv00008086sd00001114bc03sc00i00",
    }
    for action in ("add", "unbind", "remove"):
        assert "DRIVER" not in by_name[f"{action}@0000:03:00.1"].environment
    assert "MODALIAS" not in by_name["unbind@0000:03:00.1"].environment
    assert by_name[f"change@{ADDRESS}"].environment["DRIVER"] == "xe"
    drm = {"MAJOR": "226", "MINOR": "1", "DEVNAME": "dri/card1", "DEVTYPE": "drm_minor"}
    assert by_name["add@card1"].environment == by_name["remove@card1"].environment == drm
    sequence = [event.sequence for event in events]
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))


def test_what_a_listener_sees_when_the_pf_changes() -> None:
    """All VFs and links are there when the PF's change event comes; sriov_numvfs is not set yet."""
    machine = boot("b50")
    seen: list[bool] = []

    def look(event: gpusim.Uevent) -> None:
        if event.name == ADDRESS:
            seen.append(machine.sysfs.exists(f"{PF}/virtfn1/drm") and machine.sysfs.exists(f"{PF}/virtfn1/physfn"))

    machine.listen(look)
    write(machine, f"{PF}/sriov_numvfs", 2)
    assert seen == [True]


def test_uevent_attribute() -> None:
    machine = boot("b50")
    events = heard(machine)
    assert text(machine, f"{PF}/uevent").splitlines()[0] == "DRIVER=xe"
    assert text(machine, "class/drm/card0/uevent").splitlines()[2:] == ["DEVNAME=dri/card0", "DEVTYPE=drm_minor"]
    assert write(machine, f"{PF}/uevent", "change\n") is None
    assert events[-1].environment["SYNTH_UUID"] == "0"
    uuid = "12345678-1234-1234-1234-123456789abc"
    assert write(machine, "class/drm/card0/uevent", f"change {uuid} WEDGED=none") is None
    assert events[-1].environment["SYNTH_ARG_WEDGED"] == "none"
    assert "WEDGED" not in events[-1].environment
    for rubbish in ("", "explode", "change nonsense", f"change {uuid} a-b"):
        assert write(machine, f"{PF}/uevent", rubbish) == "EINVAL"


def test_wedged() -> None:
    machine = boot("b50")
    events = heard(machine)
    machine.wedge(ADDRESS)
    assert str(events[-1]) == "change@card0"
    assert events[-1].environment["WEDGED"] == "rebind,bus-reset"
    assert write(machine, f"{PF}/sriov_numvfs", 1) == "ECANCELED"
    write(machine, "bus/pci/drivers/xe/unbind", ADDRESS)
    write(machine, "bus/pci/drivers/xe/bind", ADDRESS)
    assert write(machine, f"{PF}/sriov_numvfs", 1) is None

    other = boot("flex170")
    other.wedge(ADDRESS)
    assert write(other, f"{PF}/sriov_numvfs", 1) == "EIO"


def test_text_of_a_kernel_event() -> None:
    event = gpusim.Uevent(
        action="add", devpath="/devices/x", subsystem="pci", environment={"PCI_CLASS": "30000"}, sequence=9
    )
    assert payload(event) == b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=pci\0PCI_CLASS=30000\0"
