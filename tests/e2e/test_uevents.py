"""The daemon follows genuine kernel events: what happens to the hardware, and what others do to it."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from state.status import NodeStatus
from tests.e2e.namespaced import Node, allocation, gpu, phase, running

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ADDRESS = "0000:03:00.0"
FLEX = "0000-03-00-0-0x56c0"
VF0, VF1 = f"{FLEX}-m4-vf0", f"{FLEX}-m4-vf1"
I915 = "bus/pci/drivers/i915"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path, "flex170") as machine:
        yield machine


def vfs(status: NodeStatus) -> tuple[int, str]:
    """How many VFs the GPU has, and whose they are."""
    seen = gpu(status, FLEX)
    return (0, "") if seen is None or seen.sriov is None else (seen.sriov.enabled, seen.sriov.owner)


def drivers(status: NodeStatus) -> list[str]:
    return [device.driver for device in status.devices]


def healths(status: NodeStatus) -> list[str]:
    return [device.health for device in status.devices]


def test_a_gpu_is_unplugged_and_plugged_in_again(node: Node) -> None:
    with node.daemon():
        node.want({"a": VF0, "b": VF1})
        node.until_ready("a", "b")
        node.poke(f"unplug {ADDRESS}")
        gone = node.until("without the GPU", lambda status: not status.devices)
        assert {one.phase for one in gone.allocations} == {"Refused"}
        node.until("without CDI specs", lambda _: not [*(node.where / "cdi").iterdir()])
        node.poke(f"plug {ADDRESS}")
        assert vfs(node.until_ready("a", "b")) == (4, "ours")


def test_a_gpu_at_a_long_pci_address(tmp_path: Path) -> None:
    """Behind VMD or Hyper-V domains have more than four digits; events name them too."""
    with running(tmp_path, "long-domain") as node, node.daemon():
        (there,) = node.until("one GPU", lambda status: bool(status.devices)).devices
        node.poke(f"unplug {there.pci_address}")
        node.until("without the GPU", lambda status: not status.devices)
        node.poke(f"plug {there.pci_address}")
        node.until("with the GPU", lambda status: gpu(status, there.name) is not None)


def test_without_events_nothing_is_noticed(tmp_path: Path) -> None:
    """The other tests would pass for the wrong reason if anything but events told the daemon."""
    with running(tmp_path, "flex170") as node, node.daemon("--uevents", "off") as daemon:
        node.until("with the GPU", lambda status: gpu(status, FLEX) is not None)
        node.poke(f"unplug {ADDRESS}")
        node.want({"nobody": "0000-ff-00-0-0x56c0"})
        fenced = node.until("read", lambda status: phase(status, "nobody") == "Refused")
        assert gpu(fenced, FLEX) is not None, "a look at the file is no look at the hardware"
        daemon.process.send_signal(signal.SIGHUP)
        node.until("without the GPU", lambda status: gpu(status, FLEX) is None)


def test_a_vf_falls_off_the_bus(node: Node) -> None:
    with node.daemon():
        node.want({"a": VF0, "b": VF1})
        node.until_ready("a", "b")
        node.poke(f"vanish {ADDRESS} 1")
        lost = node.sysfs(f"bus/pci/devices/{ADDRESS}/virtfn1/driver")
        node.until("made anew", lambda _: lost.exists())  # nobody has a VF open, so all are
        node.until_ready("a", "b")
        node.want({})
        assert vfs(node.until_ready()) == (0, "")


def test_others_make_vfs_and_take_them_away(node: Node) -> None:
    with node.daemon():
        node.until_ready()
        node.poke(f"foreign-numvfs {ADDRESS} 3")
        node.until("seen", lambda status: vfs(status) == (3, "foreign"))
        node.want({"a": VF0})
        blocked = node.until("blocked", lambda status: phase(status, "a") == "Blocked")
        assert "made by somebody else" in blocked.plan.blocked[0].why
        assert node.sysfs(f"bus/pci/devices/{ADDRESS}/sriov_numvfs").read_text() == "3\n"
        # Turning VFs off says nothing of the PF: only the events of the VFs tell.
        node.poke(f"foreign-numvfs {ADDRESS} 0")
        assert vfs(node.until_ready("a")) == (4, "ours")


def test_others_unbind_what_is_wanted(node: Node) -> None:
    """A VF first, then the whole GPU: their drivers come back, and so do their CDI specs."""
    with node.daemon() as daemon:
        node.want({"a": VF0})
        node.until_ready("a")
        node.poke(f"write {I915}/unbind 0000:03:00.1")
        daemon.until_logged("done: bind VF 0 to i915")
        node.until_ready("a")
        node.want({"whole": FLEX})
        node.until_ready("whole")
        node.poke(f"write {I915}/unbind {ADDRESS}")
        daemon.until_logged("done: bind the GPU to i915")
        assert drivers(node.until_ready("whole")) == ["i915"]


def test_others_bind_to_another_driver(node: Node) -> None:
    """What is bound to vfio-pci by others may be in a virtual machine: it is left alone until they let go."""
    with node.daemon():
        node.until_ready()
        node.poke(f"write {I915}/unbind {ADDRESS}")
        node.until("unbound", lambda status: drivers(status) == [""])
        node.poke(f"write bus/pci/devices/{ADDRESS}/driver_override vfio-pci")
        node.poke(f"write bus/pci/drivers_probe {ADDRESS}")
        node.until("bound", lambda status: drivers(status) == ["vfio-pci"])
        node.want({"a": FLEX})
        node.until("blocked", lambda status: phase(status, "a") == "Blocked")
        node.poke(f"write bus/pci/drivers/vfio-pci/unbind {ADDRESS}")
        assert drivers(node.until_ready("a")) == ["i915"]


def test_while_paused_others_changes_are_reported_and_not_mended(node: Node) -> None:
    with node.daemon():
        node.want({"a": VF0})
        node.until_ready("a")
        node.want({"a": VF0}, paused=True)
        node.poke(f"write {I915}/unbind 0000:03:00.1")
        pending = node.until("pending", lambda status: phase(status, "a") == "Pending")
        assert pending.plan.actions == ()
        node.poke("write bus/pci/devices/0000:03:00.1/driver_override vfio-pci")
        node.poke("write bus/pci/drivers_probe 0000:03:00.1")

        def told(status: NodeStatus) -> bool:
            found = allocation(status, "a")
            return found is not None and "vfio-pci" in found.message

        node.until("told of vfio-pci", told)
        node.want({"a": VF0})
        node.until_ready("a")


def test_a_gpu_is_wedged_and_revived(node: Node) -> None:
    """Only the event says so: nothing in sysfs tells a wedged GPU."""
    with node.daemon():
        node.until_ready()
        node.poke(f"wedge {ADDRESS}")
        (sick,) = node.until("sick", lambda status: healths(status) == ["Unhealthy"]).devices
        assert [sickness.cause for sickness in sick.sickness] == ["Wedged"]
        node.poke(f"write {I915}/unbind {ADDRESS}")
        node.until("unbound", lambda status: drivers(status) == [""])
        node.poke(f"write {I915}/bind {ADDRESS}")
        node.until("healthy", lambda status: healths(status) == ["Healthy"])


def test_events_that_the_kernel_had_to_drop(tmp_path: Path) -> None:
    """A daemon that could not listen for a while looks everywhere, not only where it heard of something."""
    flex, arc = "0000:1a:00.0", "0000:c7:00.0"
    with running(tmp_path, "mixed") as node, node.daemon() as daemon:
        node.until("eight GPUs", lambda status: len(status.devices) == 8)
        daemon.process.send_signal(signal.SIGSTOP)
        for _ in range(8):  # some 2,000 events: several times what its socket can hold
            node.poke(f"foreign-numvfs {flex} 31")
            node.poke(f"foreign-numvfs {flex} 0")
        node.poke(f"unplug {arc}")
        daemon.process.send_signal(signal.SIGCONT)
        seen = node.until("seven GPUs", lambda status: len(status.devices) == 7)
        assert arc not in {device.pci_address for device in seen.devices}


def test_status_on_the_command_line_follows_too(node: Node) -> None:
    with node.daemon():
        node.want({"a": VF0})
        node.until_ready("a")
        node.poke(f"unplug {ADDRESS}")
        node.until("without the GPU", lambda status: not status.devices)
        told = json.loads(node.cli("status", "-o", "json").stdout)["status"]
        assert [one["phase"] for one in told["allocations"]] == ["Refused"]
        assert not told.get("devices")
