"""Binding PCI functions to kernel drivers (drivers/base/bus.c, ``driver_override`` of drivers/pci).

Graphics drivers are bound through their own id tables and not by override: one that is forced onto a device it
doesn't know is probed with an empty id and may crash. The VFIO drivers take what ``driver_override`` names, and
it stays there, so that the function keeps its driver when it is probed again.
"""

from __future__ import annotations

import errno
import os

from reconciler.node import sysfs
from reconciler.node.apply_host import ApplyFailed, ApplyHost
from reconciler.node.numvfs import require_no_vfs
from state.actions import BindDriver
from state.ids import PciAddress
from state.observed import VFIO_DRIVERS

_CLEAR = "\n"
_MODULES = {"vfio-pci": "vfio_pci", "xe-vfio-pci": "xe_vfio_pci"}
_WHY_NOT_UNBOUND = {errno.ENODEV: "another driver took the device meanwhile"}
_WHY_NOT_BOUND = {
    errno.ENODEV: "the driver does not support this device",
    errno.EBUSY: "another driver took the device meanwhile",
    errno.EINVAL: "the driver refused the device; for VFIO, is the IOMMU on, and is its whole group free?",
    errno.EPERM: "the driver refused the device; for VFIO, is its whole IOMMU group free?",
}


def bind_driver(action: BindDriver, host: ApplyHost) -> None:
    """Take a function to the driver of ``action``, from any other and from any state half-way.

    When binding to VFIO fails, what was set is cleared and the driver bound before gets the function back;
    the first error is the one raised. Otherwise a failure leaves things where they are. Raises ApplyFailed.
    """
    function = host.function(action.address)
    if not os.path.exists(function):
        raise ApplyFailed(path=function, why="the device is gone")
    if not action.slot.is_vf:
        require_no_vfs(action.address, host)
    before = host.driver(action.address)
    if action.driver is not None and before != action.driver:
        _require_loaded(action.driver, host)
    try:
        _take_to(action.driver, action.address, host)
    except ApplyFailed as failed:
        if action.driver in VFIO_DRIVERS and before != action.driver:
            _undo(before, action.address, host, failed)
        raise


def _take_to(driver: str | None, address: PciAddress, host: ApplyHost) -> None:
    function = host.function(address)
    bound = host.driver(address)
    if driver not in VFIO_DRIVERS:
        _override(None, function, host)
    if bound == driver:
        return
    if driver in VFIO_DRIVERS:
        _override(driver, function, host)
    if bound is not None:
        _unbind(bound, address, host)
    if driver is not None and _is_probed_only_by_override(driver, function):
        _bind_with_passing_override(driver, address, host)
    elif driver is not None:
        _bind(driver, address, host)


def _require_loaded(driver: str, host: ApplyHost) -> None:
    path = f"{host.roots.sysfs}/bus/pci/drivers/{driver}"
    if not os.path.isdir(path):
        module = _MODULES.get(driver, driver)
        why = f"kernel driver {driver} is not loaded; load it on the host (modprobe {module})"
        raise ApplyFailed(path=path, why=why)


def _override(driver: str | None, function: str, host: ApplyHost) -> None:
    path = f"{function}/driver_override"
    if _read_override(path, host) != driver:
        host.write(path, driver or _CLEAR)


def _read_override(path: str, host: ApplyHost) -> str | None:
    text = host.read(path)
    return None if text in ("", "(null)") else text


def _unbind(bound: str, address: PciAddress, host: ApplyHost) -> None:
    function = host.function(address)
    try:
        host.write(f"{host.roots.sysfs}/bus/pci/drivers/{bound}/unbind", address, _WHY_NOT_UNBOUND)
    except ApplyFailed:
        if host.driver(address) is not None:
            raise
    if not host.wait(lambda: host.driver(address) is None, host.timeouts.driver):
        now = host.driver(address)
        why = f"is bound to {now} {host.timeouts.driver:g} s after it was unbound from {bound}"
        raise ApplyFailed(path=function, why=why)


def _bind(driver: str, address: PciAddress, host: ApplyHost) -> None:
    function = host.function(address)
    try:
        host.write(f"{host.roots.sysfs}/bus/pci/drivers/{driver}/bind", address, _WHY_NOT_BOUND)
    except ApplyFailed as failed:
        if not os.path.exists(function):
            failed.why = "the device is gone"
        if host.driver(address) != driver:
            raise
    if not host.wait(lambda: host.driver(address) == driver, host.timeouts.driver):
        now = host.driver(address)
        why = f"is bound to {now or 'no driver'} {host.timeouts.driver:g} s after it was bound to {driver}"
        raise ApplyFailed(path=function, why=why)


def _is_probed_only_by_override(driver: str, function: str) -> bool:
    """Whether this is a VF of a GPU with ``sriov_drivers_autoprobe`` off, going to the driver its GPU has.

    The kernel then refuses even a write to ``bind``, unless ``driver_override`` is set (drivers/pci/pci-driver.c).
    The GPU's own driver knows the device id, which its VFs share.
    """
    autoprobe = sysfs.read(f"{function}/physfn/sriov_drivers_autoprobe")
    return autoprobe == "0" and sysfs.link_name(f"{function}/physfn/driver") == driver


def _bind_with_passing_override(driver: str, address: PciAddress, host: ApplyHost) -> None:
    function = host.function(address)
    _override(driver, function, host)
    try:
        _bind(driver, address, host)
    finally:
        _override(None, function, host)


def _undo(before: str | None, address: PciAddress, host: ApplyHost, first: ApplyFailed) -> None:
    """Give the function back to the driver it had. What fails now is noted at the error that led here."""
    try:
        _take_to(before, address, host)
    except ApplyFailed as second:
        first.why = f"{first.why}; going back to {before or 'no driver'} failed as well: {second}"
