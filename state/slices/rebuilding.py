"""Devices that claims have although they are no longer offered: made again from their names if need be."""

from __future__ import annotations

from dataclasses import replace

from state.ids import Use, parse_logical_device
from state.manifest import Layout
from state.slices.devices import any_vf, divisible, named_vf, shared, whole
from state.slices.gpus import find_profile, total_vfs
from state.slices.model import Device
from state.slices.view import View
from state.status import DeviceStatus


def rebuilt(name: str, gpu: DeviceStatus, view: View) -> Device | None:
    """The device of this name as it was allocated; None where there can be no such device (any more).

    A GPU that was given whole must not come back as one that is shared: nothing was counted for who has it.
    """
    logical = parse_logical_device(name)
    token = gpu.name if view.layout is Layout.DYNAMIC and total_vfs(gpu) else ""
    match logical.use:
        case Use.WHOLE if name in view.shared_out():
            return divisible(gpu)
        case Use.WHOLE:
            return replace(whole(gpu), counter_set=token)
        case Use.SHARED if view.capabilities.sharing:
            return replace(shared(gpu), counter_set=token)
        case Use.VF:
            profile = find_profile(gpu, logical.mode, view.table)
            if profile is None:
                return None
            if logical.index is not None:
                return named_vf(gpu, profile, logical.index) if logical.index < profile.count else None
            return replace(any_vf(gpu, profile), counter_set=token) if view.capabilities.sharing else None
        case _:
            return None
