"""Taking functions from driver to driver, from every state in which a kill can leave them."""

import dataclasses
import threading
from typing import Literal

import pytest

from gpusim import FaultRule, Operation
from gpusim.spec import DriverName
from reconciler.node.apply_host import ApplyFailed
from reconciler.node.applying import apply_action
from state.actions import BindDriver
from state.ids import PciAddress
from tests.unit.node.applying_bench import ADDRESS, DEVICE, FLEX, XE, Bench, bench, slot_of

pytestmark = [pytest.mark.root, pytest.mark.fuse]

VF0 = PciAddress("0000:03:00.1")
VF1 = PciAddress("0000:03:00.2")


def bind(on: Bench, driver: str | None, vf: int = -1, address: PciAddress = ADDRESS) -> None:
    slot = slot_of(on.gpu, vf)
    apply_action(BindDriver(pf=slot.pf, slot=slot, address=address, driver=driver), on.host)


def refusal(on: Bench, driver: str | None) -> ApplyFailed:
    with pytest.raises(ApplyFailed) as caught:
        bind(on, driver)
    assert "\n" not in str(caught.value)
    return caught.value


def state(on: Bench, address: str = ADDRESS) -> tuple[str | None, str]:
    return on.driver(address), on.override(address)


def test_to_vfio_and_back_by_the_shortest_way() -> None:
    with bench(FLEX) as on:
        bind(on, "vfio-pci")
        assert state(on) == ("vfio-pci", "vfio-pci")
        assert on.writes == [
            (f"{DEVICE}/driver_override", "vfio-pci"),
            ("bus/pci/drivers/i915/unbind", ADDRESS),
            ("bus/pci/drivers/vfio-pci/bind", ADDRESS),
        ]
        on.writes.clear()
        bind(on, "i915")
        assert state(on) == ("i915", "(null)")
        assert on.writes == [
            (f"{DEVICE}/driver_override", "\n"),
            ("bus/pci/drivers/vfio-pci/unbind", ADDRESS),
            ("bus/pci/drivers/i915/bind", ADDRESS),
        ]


def test_xe_to_its_vfio_variant_to_the_plain_one_and_back() -> None:
    with bench(XE) as on:
        for driver in ("xe-vfio-pci", "vfio-pci"):
            bind(on, driver)
            assert state(on) == (driver, driver)
        bind(on, "xe")
        assert state(on) == ("xe", "(null)")


def test_to_no_driver_and_from_none() -> None:
    with bench(dataclasses.replace(XE, bound="none")) as on:
        bind(on, "xe")
        assert state(on) == ("xe", "(null)")
        bind(on, None)
        assert state(on) == (None, "(null)")
        bind(on, None)
        bind(on, "vfio-pci")
        assert state(on) == ("vfio-pci", "vfio-pci")
        bind(on, None)
        assert state(on) == (None, "(null)")


@pytest.mark.parametrize("driver", ["xe", "vfio-pci", None])
def test_repeating_writes_nothing(driver: str | None) -> None:
    with bench(XE) as on:
        bind(on, driver)
        on.writes.clear()
        bind(on, driver)
        assert on.writes == []


@pytest.mark.parametrize("bound", ["xe", "vfio-pci", "xe-vfio-pci", "none"])
@pytest.mark.parametrize("override", ["", "vfio-pci", "xe-vfio-pci", "xe"])
@pytest.mark.parametrize("target", ["xe", "vfio-pci", "xe-vfio-pci", None])
def test_from_every_state_in_between(
    bound: DriverName | Literal["none"], override: str, target: str | None
) -> None:
    with bench(dataclasses.replace(XE, bound=bound)) as on:
        on.machine.sysfs.write(f"{DEVICE}/driver_override", f"{override}\n")
        bind(on, target)
        assert on.driver() == target
        if target in ("xe", None):
            assert on.override() == "(null)"
        elif bound != target:
            assert on.override() == target


def test_a_vf_goes_to_vfio_and_back_while_its_neighbour_stays() -> None:
    with bench(XE) as on:
        on.machine.foreign_numvfs(ADDRESS, 2)
        bind(on, "xe-vfio-pci", vf=1, address=VF1)
        assert state(on, VF1) == ("xe-vfio-pci", "xe-vfio-pci")
        bind(on, "xe", vf=1, address=VF1)
        assert state(on, VF1) == ("xe", "(null)")
        assert state(on, VF0) == ("xe", "(null)")
        assert on.read("sriov_numvfs") == "2"


def test_a_vf_that_is_not_probed_by_itself_gets_its_graphics_driver_by_an_override_that_does_not_stay() -> None:
    with bench(XE) as on:
        on.machine.sysfs.write(f"{DEVICE}/sriov_drivers_autoprobe", "0")
        on.machine.foreign_numvfs(ADDRESS, 1)
        assert on.driver(VF0) is None
        bind(on, "xe", vf=0, address=VF0)
        assert state(on, VF0) == ("xe", "(null)")
        assert on.writes == [
            (f"bus/pci/devices/{VF0}/driver_override", "xe"),
            ("bus/pci/drivers/xe/bind", VF0),
            (f"bus/pci/devices/{VF0}/driver_override", "\n"),
        ]


def test_a_gpu_with_vfs_keeps_its_driver() -> None:
    with bench(XE) as on:
        on.machine.foreign_numvfs(ADDRESS, 2)
        assert refusal(on, "vfio-pci").why == "2 VFs are enabled; they have to be turned off first"
        assert on.writes == []


@pytest.mark.parametrize(
    ("driver", "module"), [("vfio-pci", "vfio_pci"), ("xe-vfio-pci", "xe_vfio_pci"), ("i915", "i915")]
)
def test_a_driver_that_is_not_loaded_is_named_with_its_module(driver: str, module: str) -> None:
    with bench(XE) as on:
        on.machine.sysfs.remove(f"bus/pci/drivers/{driver}")
        failed = refusal(on, driver)
        assert state(on) == ("xe", "(null)")
    assert failed.why == f"kernel driver {driver} is not loaded; load it on the host (modprobe {module})"
    assert failed.errno is None
    assert on.writes == []


def test_a_device_that_is_gone() -> None:
    with bench(XE) as on:
        on.machine.unplug(ADDRESS)
        assert refusal(on, "vfio-pci").why == "the device is gone"


def test_a_device_that_goes_in_between() -> None:
    with bench(XE) as on:
        on.machine.serve_commands(lambda _: on.machine.unplug(ADDRESS))
        on.machine.add_faults(FaultRule(on=Operation.WRITE, path="*/drivers/xe/unbind", then="unplug"))
        failed = refusal(on, "vfio-pci")
    assert failed.why.startswith("the device is gone; going back to xe failed as well: ")


def test_a_failed_probe_by_vfio_is_undone_and_can_be_tried_again() -> None:
    with bench(XE) as on:
        on.machine.add_faults(FaultRule(on=Operation.PROBE, device=ADDRESS, error="EPERM", count=1))
        failed = refusal(on, "vfio-pci")
        assert failed.path.endswith("/drivers/vfio-pci/bind")
        assert failed.why == "the driver refused the device; for VFIO, is its whole IOMMU group free?"
        assert state(on) == ("xe", "(null)")
        bind(on, "vfio-pci")
        assert state(on) == ("vfio-pci", "vfio-pci")


def test_a_failed_change_of_vfio_drivers_goes_back_to_the_first() -> None:
    with bench(XE) as on:
        bind(on, "vfio-pci")
        on.machine.add_faults(FaultRule(on=Operation.PROBE, device=ADDRESS, error="EINVAL", count=1))
        assert "is the IOMMU on" in refusal(on, "xe-vfio-pci").why
        assert state(on) == ("vfio-pci", "vfio-pci")


def test_a_failed_undo_keeps_the_first_error_as_the_cause() -> None:
    with bench(XE) as on:
        on.machine.add_faults(
            FaultRule(on=Operation.PROBE, device=ADDRESS, error="EPERM", count=1),
            FaultRule(on=Operation.PROBE, device=ADDRESS, error="EIO", count=1),
        )
        failed = refusal(on, "vfio-pci")
        assert state(on) == (None, "(null)")
    assert failed.errno == 1
    assert "; going back to xe failed as well: writing '0000:03:00.0' to " in failed.why
    assert failed.why.endswith("/drivers/xe/bind: the GPU does not answer as it should (EIO)")


def test_an_unbind_that_fails_leaves_the_driver_and_clears_the_override() -> None:
    with bench(XE) as on:
        on.machine.add_faults(FaultRule(on=Operation.WRITE, path="*/xe/unbind", error="EIO"))
        assert refusal(on, "vfio-pci").path.endswith("/drivers/xe/unbind")
        assert state(on) == ("xe", "(null)")


def test_a_failed_probe_by_the_graphics_driver_stays_for_the_next_pass() -> None:
    with bench(XE) as on:
        bind(on, "vfio-pci")
        on.machine.add_faults(FaultRule(on=Operation.PROBE, device=ADDRESS, error="ENODEV", count=1))
        failed = refusal(on, "xe")
        assert failed.why == "the driver does not support this device"
        assert state(on) == (None, "(null)")
        bind(on, "xe")
        assert state(on) == ("xe", "(null)")


def test_a_graphics_driver_is_not_forced_onto_what_it_does_not_know() -> None:
    with bench(XE) as on:
        assert refusal(on, "i915").why == "the driver does not support this device"
        assert on.written("driver_override") == []


def test_unbound_by_somebody_else_in_between_is_as_good() -> None:
    with bench(XE) as on:

        def unbind(command: str) -> None:
            on.machine.sysfs.write("bus/pci/drivers/xe/unbind", ADDRESS)

        on.machine.serve_commands(unbind)
        on.machine.add_faults(
            FaultRule(on=Operation.WRITE, path="*/drivers/xe/unbind", error="ENODEV", then="unbind", count=1)
        )
        bind(on, "vfio-pci")
        assert state(on) == ("vfio-pci", "vfio-pci")


def test_bound_by_somebody_else_in_between_is_as_good() -> None:
    with bench(dataclasses.replace(XE, bound="none")) as on:

        def probe(command: str) -> None:
            on.machine.sysfs.write("bus/pci/drivers_probe", ADDRESS)

        on.machine.serve_commands(probe)
        on.machine.add_faults(
            FaultRule(on=Operation.WRITE, path="*/drivers/xe/bind", error="EBUSY", then="probe", count=1)
        )
        bind(on, "xe")
        assert state(on) == ("xe", "(null)")


def test_a_link_that_comes_late_is_waited_for_and_one_that_never_comes_is_a_failure() -> None:
    with bench(dataclasses.replace(XE, bound="none"), seconds=0.3) as on:
        tree = on.machine.sysfs
        gpu = tree.realpath(DEVICE)
        hide = threading.Event()

        def interfere(command: str) -> None:
            tree.remove(f"{gpu}/driver")
            if not hide.is_set():
                late = threading.Timer(0.05, tree.add_link, [f"{gpu}/driver", "bus/pci/drivers/xe"])
                late.daemon = True
                late.start()

        on.machine.serve_commands(interfere)
        on.machine.add_faults(FaultRule(on=Operation.WRITE, path="*/drivers/xe/bind", then="hide"))
        bind(on, "xe")
        assert on.driver() == "xe"
        bind(on, None)
        hide.set()
        assert refusal(on, "xe").why == "is bound to no driver 0.3 s after it was bound to xe"
