"""What could be had all at once, and what there is room for: by what the hardware is, not by the product."""

from collections.abc import Iterator

import gpusim
from kubesim.values import Object, at, objects
from state.ids import PciAddress, device_name
from tests.engine.machines import TABLES
from tests.model.judge import Part
from tests.model.world import SPEC
from tests.slices.hardware import Gpu, clashes
from tests.slices.scheduler import Claim, amount

FLEX = SPEC.gpus[0].address
ONLY_FLEX = frozenset(("flex", "vf-m2", "vf-big"))
ANY_GPU = frozenset(("whole", "vf", "shared", "vfio", "either"))


def hardware() -> dict[str, Gpu]:
    """The GPUs of a node, by name."""
    return {device_name(PciAddress(gpu.address), gpu.device): _gpu(gpu) for gpu in SPEC.gpus}


def clashes_on(node: str, claims: list[Object], gpus: dict[str, Gpu]) -> list[str]:
    """What can't be, of what claims have on a node."""
    return clashes([each for claim in claims for each in _devices(node, claim)], gpus)


def taken(node: str, claims: list[Object]) -> set[str]:
    """Addresses of a node's GPUs of which somebody has something."""
    return {Part.of(each.device).gpu for claim in claims for each in _devices(node, claim)}


def fits(use: str, free: set[str]) -> bool:
    """Whether one of these GPUs, of which nobody has anything, would do for a use of one device."""
    return bool(free) if use in ANY_GPU else use in ONLY_FLEX and FLEX in free


def _devices(node: str, claim: Object) -> Iterator[Claim]:
    for number, result in enumerate(objects(at(claim, "status", "allocation", "devices", "results"))):
        if result["pool"] == node and not result.get("adminAccess"):
            consumed = {name: amount(value) for name, value in (result.get("consumedCapacity") or {}).items()}
            yield Claim(number=number, device=result["device"], consumed=consumed, divided="shareID" in result)


def _gpu(gpu: gpusim.GpuSpec) -> Gpu:
    assert gpu.sriov is not None
    named = {profile.mode: profile.count for profile in TABLES.profiles.of(gpu.device)}
    modes = {mode: count for mode, count in named.items() if count <= gpu.sriov.total}
    return Gpu(memory=None, vfs=modes | {f"fs{count}": count for count in range(1, gpu.sriov.total + 1)})
