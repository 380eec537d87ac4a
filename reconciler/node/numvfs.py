"""Turning virtual functions on and off (``sriov_numvfs``, drivers/pci/iov.c)."""

from __future__ import annotations

import errno
import os
import re

from reconciler.node.apply_host import ApplyFailed, ApplyHost
from state.ids import PciAddress

_LINK = re.compile(r"virtfn([0-9]+)")


def set_num_vfs(address: PciAddress, count: int, seen: int | None, host: ApplyHost) -> None:
    """Enable ``count`` VFs, or none; returns once their ``virtfn`` links are there, or gone.

    Repeatable: the kernel takes the number that is in force as done. From one non-zero number to another it
    takes only the way through 0. VFs are only turned off if they are as many as were ``seen``. Raises
    ApplyFailed, also when the driver enabled fewer VFs than asked for.
    """
    function = host.function(address)
    path = f"{function}/sriov_numvfs"
    if count == 0 and seen is not None and (now := host.read_number(path)) not in (0, seen):
        raise ApplyFailed(path=path, why=f"somebody else has enabled {now} VFs meanwhile", value="0")
    try:
        host.write(path, str(count))
    except ApplyFailed as failed:
        why = _explain(failed, address, count, host)
        raise ApplyFailed(path=path, why=why, errno=failed.errno, value=str(count)) from failed.__cause__
    enabled = host.read_number(path)
    if enabled != count:
        why = f"the kernel enabled {enabled} of {count} VFs" if count else f"{enabled} VFs are still enabled"
        raise ApplyFailed(path=path, why=why, value=str(count))
    _await_links(function, count, host)


def require_no_vfs(address: PciAddress, host: ApplyHost) -> None:
    """Raise ApplyFailed if VFs are enabled: somebody may be using what is about to be changed below them."""
    path = f"{host.function(address)}/sriov_numvfs"
    if os.path.exists(path) and (enabled := host.read_number(path)):
        raise ApplyFailed(path=path, why=f"{enabled} VFs are enabled; they have to be turned off first")


def _await_links(function: str, count: int, host: ApplyHost) -> None:
    wanted = frozenset(range(count))
    if not host.wait(lambda: _links(function, host) == wanted, host.timeouts.links):
        odd = sorted(_links(function, host) ^ wanted)
        what = "are still missing" if count else "are still there"
        names = ", ".join(f"virtfn{index}" for index in odd[:4]) + (", …" if len(odd) > 4 else "")
        raise ApplyFailed(path=function, why=f"{names} {what} after {host.timeouts.links:g} s")


def _links(function: str, host: ApplyHost) -> frozenset[int]:
    """Indexes of the VFs that are there. A link to what is not there yet, or no longer, doesn't count."""
    matches = (_LINK.fullmatch(name) for name in host.names(function))
    return frozenset(int(m[1]) for m in matches if m is not None and os.path.exists(f"{function}/{m[0]}"))


def _explain(failed: ApplyFailed, address: PciAddress, count: int, host: ApplyHost) -> str:
    """Why the kernel refused, in words; what else it takes to know that is looked up now."""
    function = host.function(address)
    if not os.path.exists(function):
        return "the GPU is gone"
    if failed.errno == errno.ENOENT:
        return _why_no_entry(address, host)
    if failed.errno == errno.ERANGE:
        return f"more than the {host.read(f'{function}/sriov_totalvfs')} VFs that are possible"
    if failed.errno == errno.EBUSY:
        enabled = host.read_number(f"{function}/sriov_numvfs")
        if count and enabled:
            return f"{enabled} VFs are enabled; they have to be turned off first"
        return "the kernel driver is busy, perhaps still initialising the GPU"
    if failed.errno == errno.EPERM:
        if count:
            return "another user of the GPU keeps the kernel driver from enabling VFs"
        return "a VF is assigned to a virtual machine"
    return _WHY.get(failed.errno or 0, failed.why)


def _why_no_entry(address: PciAddress, host: ApplyHost) -> str:
    if not os.path.exists(f"{host.function(address)}/sriov_numvfs"):
        return "the GPU has no SR-IOV capability"
    driver = host.driver(address)
    if driver is None:
        return "no kernel driver is bound"
    return f"kernel driver {driver} can't do SR-IOV"


_WHY = {
    errno.EINVAL: "the SR-IOV capability or the number of VFs is invalid for this GPU",
    errno.ENODEV: "the kernel driver is not in PF mode (see i915.max_vfs, i915.enable_guc, xe.max_vfs)",
    errno.ENOMEM: "PCI bus numbers or memory for the VFs' BARs do not suffice (see the firmware's settings)",
    errno.EIO: "the GPU is wedged or its SR-IOV capability is broken",
    errno.ECANCELED: "the GPU is wedged",
    errno.EUSERS: "another user of the GPU keeps the kernel driver from enabling VFs",
    errno.ENOKEY: "VF quotas are set only in part: GGTT, contexts and local memory all have to be",
    errno.ENOSPC: "the GPU does not have what so many VFs need",
    errno.EDQUOT: "the GPU does not have what so many VFs need",
    errno.EUCLEAN: "VFs are provisioned only in part",
    errno.ETIMEDOUT: "the GPU's firmware did not answer in time",
}
