"""Rebuilding the ownership record from the last status, when the record itself was lost.

A machine without its record would take its own VFs for somebody else's. The status file says the same things
in other words, and only counts for the boot it was written in.
"""

from __future__ import annotations

from state.records import AppliedDevice, OwnedBinding, OwnedLayout, Ownership
from state.status import NodeStatus


def rebuild_ownership(last: NodeStatus | None, boot_id: str) -> Ownership:
    """What was ours according to ``last``; nothing without a status of this boot."""
    if last is None or last.boot_id != boot_id:
        return Ownership()
    layouts: dict[str, OwnedLayout] = {}
    bindings: dict[str, OwnedBinding] = {}
    for device in last.devices:
        sriov = device.sriov
        if sriov is not None and sriov.owner == "ours" and sriov.enabled:
            layouts[device.name] = OwnedLayout(
                profile=sriov.layout or f"fs{sriov.enabled}", count=sriov.enabled, boot_id=boot_id
            )
        if device.original_driver is not None:
            bindings[device.name] = OwnedBinding(
                driver=device.driver, original=device.original_driver or None, boot_id=boot_id
            )
    applied: dict[str, tuple[AppliedDevice, ...]] = {
        f"{allocation.origin}-{allocation.name}": allocation.devices
        for allocation in last.allocations
        if allocation.cdi_devices
    }
    given_in = boot_id if applied else ""
    return Ownership(
        layouts=layouts,
        bindings=bindings,
        applied=applied,
        applied_boot_id=given_in,
        withdrawals=dict(last.withdrawn),
    )
