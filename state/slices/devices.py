"""The devices that stand for one GPU in ResourceSlices: their names, attributes and capacities.

Names, attributes and capacities of Intel's Go driver are kept, as users select by them; ``parent``, ``profile``,
``vfs``, ``vfMemoryMiB``, ``numaNode``, ``integrated`` and ``tiles`` are ours.
"""

from __future__ import annotations

from typing import Final

from state.ids import DeviceName, LogicalDevice, Use
from state.profiles import MIB, Profile
from state.slices.gpus import vf_memory
from state.slices.model import Capacity, Device, Taint, Value
from state.status import DeviceStatus

DOMAIN: Final = "gpu.intel.com"
"""Our driver's name, and the prefix of our taints."""

MONITOR_ONLY: Final = Taint(key=f"{DOMAIN}/monitor-only")

_GRAIN = 256 * MIB
"""The least amount of memory, and the step, in which GPUs are shared; smaller steps where it doesn't divide."""
_SHARE = 1024 * MIB
_WHOLE = 1000
_LONGEST_TEXT = 64
_STANDARD = "resource.kubernetes.io"


def whole(gpu: DeviceStatus) -> Device:
    """The whole GPU for one claim."""
    return _device(gpu, LogicalDevice(pf=_name(gpu), use=Use.WHOLE), "gpu", _fixed(_memory(gpu), _WHOLE))


def divisible(gpu: DeviceStatus) -> Device:
    """The GPU as one device that claims share, or that one claim takes whole by asking for nothing particular."""
    amount = _memory(gpu)
    capacity = {"millicores": Capacity(value=_WHOLE, default=_WHOLE, least=1, most=_WHOLE, step=1)}
    if amount:
        capacity["memory"] = _divided(amount, default=amount)
    return _device(gpu, LogicalDevice(pf=_name(gpu), use=Use.WHOLE), "gpu", capacity, multiple=True)


def shared(gpu: DeviceStatus) -> Device:
    """The GPU shared by memory budget."""
    amount = _memory(gpu)
    capacity = {"millicores": Capacity(value=_WHOLE, default=1, least=1, most=_WHOLE, step=1)}
    if amount:
        capacity["memory"] = _divided(amount, default=min(_SHARE, amount))
    return _device(gpu, LogicalDevice(pf=_name(gpu), use=Use.SHARED), "shared", capacity, multiple=True)


def any_vf(gpu: DeviceStatus, profile: Profile, *, binding: bool = False) -> Device:
    """All VFs of a layout as one device: each allocation is one of them."""
    count, each = profile.count, _vf_mebibytes(gpu, profile)
    capacity = {
        "vfs": Capacity(value=count, default=1, allowed=(1,)),
        "millicores": Capacity(value=_WHOLE, default=profile.millicores, allowed=(profile.millicores,)),
    }
    if each:
        capacity["memory"] = Capacity(value=count * each * MIB, default=each * MIB, allowed=(each * MIB,))
    logical = LogicalDevice(pf=_name(gpu), use=Use.VF, mode=profile.mode)
    more: dict[str, Value] = {"profile": profile.mode, "vfs": count, **_vf_size(each)}
    return _device(gpu, logical, "vf", capacity, more, multiple=True, binding=binding)


def named_vf(gpu: DeviceStatus, profile: Profile, index: int) -> Device:
    """One certain VF of a layout."""
    each = _vf_mebibytes(gpu, profile)
    logical = LogicalDevice(pf=_name(gpu), use=Use.VF, mode=profile.mode, index=index)
    more: dict[str, Value] = {"profile": profile.mode, "vfs": profile.count, **_vf_size(each)}
    return _device(gpu, logical, "vf", _fixed(each * MIB, profile.millicores), more)


def monitor(gpu: DeviceStatus) -> Device:
    """For admin access: it takes nothing from anybody, and nothing is counted for it."""
    logical = LogicalDevice(pf=_name(gpu), use=Use.MONITOR)
    return _device(gpu, logical, "monitor", {}).with_taints((MONITOR_ONLY,))


def _device(
    gpu: DeviceStatus,
    logical: LogicalDevice,
    kind: str,
    capacity: dict[str, Capacity],
    more: dict[str, Value] | None = None,
    *,
    multiple: bool = False,
    binding: bool = False,
) -> Device:
    attributes = _attributes(gpu, logical) | {"type": kind} | (more or {})
    return Device(
        name=str(logical),
        attributes=tuple(sorted(attributes.items())),
        capacity=tuple(sorted(capacity.items(), key=lambda each: each[0])),
        multiple=multiple,
        binding=binding,
    )


def _attributes(gpu: DeviceStatus, logical: LogicalDevice) -> dict[str, Value]:
    """What is known of the GPU. A VF has the address of its own only once it is made, so it has none here."""
    # While a claim has the GPU bound to another driver it is published as it was: nothing changes for schedulers.
    driver = gpu.driver if gpu.original_driver is None else gpu.original_driver
    found: dict[str, Value | None] = {
        "model": gpu.model,
        "family": gpu.family,
        "driver": driver,
        "pciId": gpu.pci_id,
        "health": gpu.health,
        "parent": gpu.name,
        "tiles": gpu.tiles,
        "numaNode": gpu.numa_node,
        "integrated": gpu.integrated,
        "sriov": logical.use is not Use.VF and gpu.sriov is not None,
        "pciRoot": _bus(gpu.pcie_root),
        f"{_STANDARD}/pcieRoot": gpu.pcie_root,
        **_subsystem(gpu.subsystem),
    }
    if logical.use is not Use.VF:
        found |= {"pciAddress": gpu.pci_address, f"{_STANDARD}/pciBusID": gpu.pci_address}
    known = ((name, _shortened(value)) for name, value in found.items())
    # A selector on an attribute that is missing is an error: so an unbound GPU has the driver "".
    return {name: value for name, value in known if value is not None and (value != "" or name == "driver")}


def _shortened(value: Value | None) -> Value | None:
    """Texts of more than 64 bytes would have the slice refused; those of pci.ids may be longer."""
    if not isinstance(value, str) or (value.isascii() and len(value) <= _LONGEST_TEXT):
        return value
    return value.encode("utf-8", "backslashreplace")[:_LONGEST_TEXT].decode("utf-8", "ignore").strip()


def _bus(pcie_root: str) -> str:
    """``00`` of ``pci0000:00``."""
    return pcie_root.rpartition(":")[2]


def _subsystem(ids: str) -> dict[str, Value | None]:
    vendor, _, device = ids.partition(":")
    return {"subVendorId": vendor, "subDeviceId": device}


def _name(gpu: DeviceStatus) -> DeviceName:
    return DeviceName(gpu.name)


def _memory(gpu: DeviceStatus) -> int:
    """Local memory in bytes, whole mebibytes; 0 when unknown."""
    return 0 if gpu.memory is None else gpu.memory.bytes // MIB * MIB


def _vf_mebibytes(gpu: DeviceStatus, profile: Profile) -> int:
    return (vf_memory(gpu, profile) or 0) // MIB


def _vf_size(mebibytes: int) -> dict[str, Value]:
    return {"vfMemoryMiB": mebibytes} if mebibytes else {}


def _fixed(memory: int, millicores: int) -> dict[str, Capacity]:
    capacity = {"millicores": Capacity(value=millicores)}
    return capacity | ({"memory": Capacity(value=memory)} if memory else {})


def _divided(amount: int, *, default: int) -> Capacity:
    """Memory that is handed out in steps, all of it if need be: so the step has to divide it."""
    if amount < 2 * _GRAIN:
        return Capacity(value=amount, default=amount, allowed=(amount,))
    step = min(_GRAIN, amount & -amount)
    default -= (default - _GRAIN) % step
    return Capacity(value=amount, default=default, least=_GRAIN, most=amount, step=step)
