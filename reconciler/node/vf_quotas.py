"""Setting and clearing what virtual functions get, before they are enabled.

i915 (out of tree) and xe have different files for it; what they share is that quotas are set VF by VF and tile
by tile, that 0 means not set, and that any quota set by hand ends the driver's own provisioning.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from reconciler.node import sysfs
from reconciler.node.apply_host import ApplyFailed, ApplyHost
from reconciler.node.numvfs import require_no_vfs
from state.actions import ResetProvisioning, SetVfProfile
from state.ids import PciAddress
from state.observed import PfSeen, ProvisioningSeen, Provisioner, SriovSeen
from state.profiles import TileQuota, satisfies

_ORDER = ("contexts", "doorbells", "exec_quantum_ms", "ggtt", "lmem", "preempt_timeout_us")
_NOTHING = TileQuota()
_WHY = {
    errno.E2BIG: "more than the GPU has",
    errno.EDQUOT: "more than is left for VFs",
    errno.ENOSPC: "more than is left for VFs",
    errno.ERANGE: "more than the file can hold",
    errno.EBUSY: "the VF is enabled, or the kernel driver is still initialising the GPU",
    errno.EPERM: "the kernel driver does not let anybody set it",
    errno.EOPNOTSUPP: "this GPU does not have it",
    errno.EIO: "the GPU does not answer; it may be wedged",
}


def set_vf_profile(action: SetVfProfile, gpu: PfSeen | None, host: ApplyHost) -> None:
    """Write the quotas of the first ``count`` VFs, VF by VF and tile by tile, and clear those of all others.

    Quotas in the way (other values, VFs beyond ``count``) are cleared first, so that there is room in one piece
    for the new ones. Files that the GPU does not have, or that can only be read, are left out. Raises ApplyFailed.
    """
    files = _quota_files(action.address, gpu, host)
    require_no_vfs(action.address, host)
    for file in files:
        _clear(file, action.quota if file.vf < action.count else _NOTHING, host)
    written: set[int] = set()
    for file in files:
        value = getattr(action.quota, file.field)
        if file.vf < action.count and value is not None:
            host.write(file.path, str(value), _WHY)
            written.add(file.vf)
    missing = set(range(action.count)) - written
    if missing:
        why = f"there is no file that sets what VF {min(missing)} gets"
        raise ApplyFailed(path=host.function(action.address), why=why)
